"""Tests of seeds that share a process: joined calls and their order."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import base, debug, learning_check
from tests import small
from vid2act_jax import learner
from vid2act_jax.loops import seeds
from vid2act_jax.types import LearnerState, UserError


def add(state, x):
  return state + x, {'sum': state}


def test_a_joined_function_is_that_of_each_seed():
  joined = seeds.join(add, 3)
  states = tuple(jnp.array([i, i + 1.0]) for i in range(3))
  results = joined(states, (10, 20, 30))
  for index, x in enumerate((10, 20, 30)):
    small.assert_equal(results[index], add(states[index], x))


def run_threads(group, scripts):
  """Makes the calls of each script in a thread of its own.

  A call is (name, arguments). Returns the results of each script; an exception
  ends it and is its last result.
  """
  results = [[] for _ in scripts]

  def run(index):
    try:
      for name, args in scripts[index]:
        results[index].append(group.call(index, name, args))
    except ValueError as error:
      results[index].append(error)
    finally:
      group.leave(index)

  threads = [
    threading.Thread(target=run, args=(i,), daemon=True)
    for i in range(len(scripts))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
    assert not thread.is_alive()
  return results


@pytest.fixture
def group():
  """A vectorized group of three seeds; `calls` has those of its functions."""
  group = seeds.Group(3, True)
  group.calls = []

  def jit(name):
    def record(fn, num):
      assert num == 3

      def call(*args):
        group.calls.append((name, [np.asarray(x).item() for x in args[0]]))
        return fn(*args)

      return call

    return record

  for name in ('policy', 'update a', 'update b'):
    group.compile(name, add, jit(name), None)
  return group


def test_calls_of_all_seeds_are_joined(group):
  update = lambda x: ('update a', (jnp.float32(x), 1.0))
  results = run_threads(group, [[update(i), update(10 * i)] for i in range(3)])
  assert group.calls == [('update a', [0, 1, 2]), ('update a', [0, 10, 20])]
  assert [float(r[1][0]) for r in results] == [1, 11, 21]


def test_seeds_whose_episodes_end_at_other_steps_meet_again(group):
  act = ('policy', (jnp.float32(5), 1.0))
  update = ('update a', (jnp.float32(7), 1.0))
  run_threads(group, [[act, act, update], [act, update], [act, act, update]])
  # Updates wait; a copy takes the place of the seed that does not act.
  assert group.calls == [
    ('policy', [5, 5, 5]),
    ('policy', [5, 5, 5]),
    ('update a', [7, 7, 7]),
  ]


def test_seeds_in_different_stages_take_turns(group):
  one = ('update a', (jnp.float32(1), 1.0))
  two = ('update b', (jnp.float32(2), 1.0))
  run_threads(group, [[one, one], [two, two], [two, two]])
  names = [name for name, _ in group.calls]
  assert names == ['update a', 'update b', 'update a', 'update b']


def test_a_seed_that_ends_does_not_stop_the_others(group):
  call = ('update a', (jnp.float32(1), 1.0))
  results = run_threads(group, [[], [call], [call] * 3])
  assert [len(r) for r in results] == [0, 1, 3]


def test_an_error_of_a_call_reaches_every_seed(group):
  def fail(*unused):
    raise ValueError('no memory')

  group.compile('failing', add, lambda fn, num: fail, None)
  call = ('failing', (jnp.float32(1), 1.0))
  for result in run_threads(group, [[call]] * 3):
    assert str(result[0]) == 'no memory'


def test_arguments_that_cannot_be_copied_are_an_error(group, monkeypatch):
  def fail(args):
    raise ValueError('no memory for a copy')

  monkeypatch.setattr(seeds, '_copy_state', fail)
  call = ('update a', (jnp.float32(1), 1.0))
  results = run_threads(group, [[], [call], [call]])
  assert [str(r[0]) for r in results[1:]] == ['no memory for a copy'] * 2


@pytest.mark.parametrize(
  'backend, small_updates, full_size',
  [('cpu', False, False), ('gpu', True, True), ('tpu', True, False)],
)
def test_seeds_are_vectorized_where_it_takes_less_time(
  monkeypatch, backend, small_updates, full_size
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert seeds.vectorizes(learning_check.get_config()) == small_updates
  assert seeds.vectorizes(base.get_config()) == full_size


@pytest.mark.parametrize('waits', [False, True])
def test_without_vectorization_calls_follow_one_another(waits):
  group, calls = seeds.Group(2, False, waits), []

  def jit(fn, num):
    assert num == 1
    return lambda *args: calls.append(args[1]) or fn(*args)

  group.compile('update', add, jit, None)
  group.compile('update', None, None, None)  # It is there.
  script = [('update', (jnp.float32(1), 2.0))] * 2
  results = run_threads(group, [script, script])
  assert calls == [2.0] * 4
  assert all(float(r[0]) == 3 for result in results for r in result)


@pytest.mark.slow
def test_ten_joined_updates_are_those_of_runs_alone():
  agent = learner.build_agent(small.config(), 2, (1, 3))
  states = [small.state_of(agent, seed=i) for i in range(3)]
  batches = [small.finetune_batch(agent, seed=i) for i in range(3)]
  keys = [jax.random.key(10 + i) for i in range(3)]
  step = small.jit(agent.finetune_step)
  joined = small.jit(seeds.join(agent.finetune_step, 3))
  expected, together = list(states), tuple(states)
  for _ in range(10):
    expected = [step(*x)[0] for x in zip(expected, batches, keys, strict=True)]
    results = joined(together, tuple(batches), tuple(keys))
    together = tuple(state for state, _ in results)
  for one, other in zip(expected, together, strict=True):
    small.assert_close(other.params, one.params, 1e-5)


class FakeDevice:
  """A device with 1 MB of memory."""

  device_kind = 'tiny GPU'

  def memory_stats(self):
    return {'bytes_limit': 1_000_000}


def test_seeds_that_do_not_fit_the_memory_are_refused_before_compiling():
  class Array(np.ndarray):
    """An array on the fake device."""

    def devices(self):
      return {FakeDevice()}

  def rows(num):
    leaf = lambda mb: np.zeros(mb * 1000, np.uint8).view(Array)
    state = LearnerState(
      leaf(0), {'model': leaf(100)}, {'model': leaf(200)}, leaf(10), {}
    )
    return [(state, leaf(5), None)] * num

  seeds.check_memory(rows(1))
  message = (
    '2 seeds do not fit the 0.0 GB of tiny GPU: parameters 0.00 GB,.*'
    'config.seeds.*config.mesh.seed'
  )
  with pytest.raises(UserError, match=message):
    seeds.check_memory(rows(2))


class TestParse:
  def config(self, **changes):
    config = debug.get_config()
    config.update(changes)
    return config

  @pytest.mark.parametrize(
    'named, expected',
    [((), ()), ((3,), (5, 6, 7)), ((4, 2), (4, 2))],
  )
  def test_a_number_or_several_seeds(self, named, expected):
    assert seeds.parse(self.config(seeds=named, seed=5)) == expected

  @pytest.mark.parametrize(
    'named, message',
    [
      ((0,), 'seeds=0: set it to 1'),
      ((1, 2, 1), '1 is named twice'),
      ((1, 'a'), 'several whole numbers'),
      ((1.5,), 'several whole numbers'),
      ((-1, 2), 'must not be negative'),
    ],
  )
  def test_bad_values(self, named, message):
    with pytest.raises(UserError, match=message):
      seeds.parse(self.config(seeds=named))

  def test_the_config_of_a_seed_is_that_of_a_run_alone(self):
    config = self.config(seeds=(3, 4)).lock()
    one = seeds.config_of(config, 4)
    assert one.is_locked
    assert one.to_dict() == {**config.to_dict(), 'seed': 4, 'seeds': ()}


@pytest.mark.parametrize(
  'data, groups, num, expected',
  [
    (-1, -1, 4, [((2 * i, 2), (i,)) for i in range(4)]),
    (1, -1, 3, [((i, 1), (i,)) for i in range(3)]),
    (-1, 2, 4, [((0, 4), (0, 2)), ((4, 4), (1, 3))]),
    (-1, -1, 10, [((0, 1), (0, 8)), ((1, 1), (1, 9))]),
  ],
)
def test_seeds_are_spread_over_groups_of_devices(
  monkeypatch, data, groups, num, expected
):
  monkeypatch.setattr(jax, 'device_count', lambda: 8)
  config = debug.get_config()
  config.mesh.update(data=data, seed=groups)
  found = seeds.split(config, tuple(range(num)))
  assert found[: len(expected)] == expected
  assert sorted(s for _, members in found for s in members) == [*range(num)]


def test_too_many_groups_of_devices(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  config = debug.get_config()
  config.mesh.update(data=4, seed=2)
  with pytest.raises(UserError, match='mesh.seed=2 with config.mesh.data=4'):
    seeds.split(config, (0, 1))
