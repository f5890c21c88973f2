"""Tests of the calls of several seeds: joined, or one after another."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vid2act_jax import learner
from vid2act_jax.loops import seed_calls, seed_state
from vid2act_jax.types import LearnerState, UserError


def add(state, x):
  return state + x, {'sum': state}


def read(state):
  """The value of a state, a scalar."""
  return jax.tree.map(float, seed_state.materialize(state))


def test_a_joined_function_is_that_of_each_seed():
  joined = seed_calls.join(add, 3)
  states = jnp.arange(6.0).reshape(3, 2)
  results = joined(states, (10, 20, 30))
  for index, x in enumerate((10, 20, 30)):
    small.assert_equal(results[index], add(states[index], x))


def test_a_joined_update_keeps_the_states_that_are_not_chosen():
  states = {'a': jnp.arange(6.0).reshape(3, 2)}
  step = lambda state, batch, key: ({'a': state['a'] + batch + key}, batch)
  joined = seed_calls.join_update(step, 3, lambda batch, key: (2 * batch, key))
  chosen = np.array([True, False, True])
  new, metrics = joined(states, (10, 20, 30), ((1, 2, 3), chosen))
  small.assert_equal(new['a'], states['a'] + np.array([[21], [0], [63]]))
  assert metrics == (20, 40, 60)


def run_threads(group, scripts):
  """Makes the calls of each script in a thread of its own.

  A call is (name, state, other arguments); for the state None, the state is
  that of the last update. Returns the results of each script; an exception ends
  it and is its last result.
  """
  results = [[] for _ in scripts]

  def run(index):
    own = None
    try:
      for name, state, *args in scripts[index]:
        state = own if state is None else state
        result = group.call(index, name, (state, *args))
        if name.startswith('update'):
          own = result[0]
        results[index].append(result)
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
  group = seed_calls.Group(3, True)
  group.calls = []

  def jit(name):
    def record(fn, num):
      assert num == 3

      def call(*args):
        group.calls.append((name, np.asarray(args[0]).tolist()))
        return fn(*args)

      return call

    return record

  step = lambda state, batch, key: add(state, batch)
  for name in ('update a', 'update b'):
    group.compile(name, step, jit(name), None)
  group.compile('policy', lambda state, x: state + x, jit('policy'), None)
  return group


def update(state, x=1.0, name='update a'):
  """A call of an update; its state is an array of its own."""
  state = None if state is None else jnp.float32(state) + 0
  return name, state, x, 0


def act(state):
  """A call of the policy."""
  return 'policy', None if state is None else jnp.float32(state) + 0, 0.5


def test_calls_of_all_seeds_are_joined(group):
  scripts = [[update(i), update(None, 10), act(None)] for i in range(3)]
  results = run_threads(group, scripts)
  assert group.calls == [
    ('update a', [0, 1, 2]),
    ('update a', [1, 2, 3]),
    ('policy', [11, 12, 13]),
  ]
  assert [float(r[2]) for r in results] == [11.5, 12.5, 13.5]
  assert [read(r[1][1]) for r in results] == [{'sum': i + 1} for i in range(3)]


def test_states_stay_stacked_between_calls(group, monkeypatch):
  stacked = []

  def join(*rows):
    stacked.append([read(row) for row in rows])
    return jnp.stack(rows)

  monkeypatch.setattr(seed_state, '_join', join)
  rows = [jnp.float32(i) for i in range(3)]
  scripts = [
    [('policy', x, 0.5), ('policy', x, 0.5), ('update a', x, 1, 0), act(None)]
    for x in rows
  ]
  results = run_threads(group, scripts)
  assert stacked == [[0, 1, 2]]
  assert all(x.is_deleted() for x in rows)  # As if they had been donated.
  assert [float(r[-1]) for r in results] == [1.5, 2.5, 3.5]
  # A copy of the seed's row is made where it is read, and not for its devices.
  states = [r[2][0] for r in results]
  assert [read(state) for state in states] == [1, 2, 3]
  monkeypatch.setattr(seed_state, '_row', None)
  assert seed_state.an_array(states[0]).devices() == {jax.devices()[0]}


def test_seeds_whose_episodes_end_at_other_steps_meet_again(group):
  run_threads(
    group,
    [
      [act(5), act(5), update(7), act(None)],
      [act(5), update(7), act(None)],
      [act(5), act(5), update(7), act(None)],
    ],
  )
  # Updates wait; the results of the seed that does not act are dropped.
  names = [name for name, _ in group.calls]
  assert names == ['policy', 'policy', 'update a', 'policy']
  assert group.calls[-1] == ('policy', [8, 8, 8])


def test_an_update_of_some_seeds_leaves_those_of_others(group):
  results = run_threads(
    group,
    [
      [update(1), update(None), act(None)],
      [update(2), update(None, name='update b'), act(None)],
      [update(3), act(None)],
    ],
  )
  assert [float(r[-1]) for r in results] == [3.5, 4.5, 4.5]


def test_seeds_in_different_stages_take_turns(group):
  one = [update(1), update(None)]
  two = [update(2, name='update b'), update(None, name='update b')]
  run_threads(group, [one, two, two])
  names = [name for name, _ in group.calls]
  assert names == ['update a', 'update b', 'update a', 'update b']


def test_the_states_of_two_stages_are_kept_apart(group):
  """A seed that is late still has its state of the first stage."""
  second = lambda tree, batch, key: ({'x': tree['x'] + batch}, {})
  group.compile('update two', second, lambda fn, num: fn, None)
  start = lambda: ('update two', {'x': jnp.float32(100) + 0}, 1.0, 0)
  scripts = [
    [update(1), start(), ('update two', None, 1.0, 0)],
    [update(2), update(None), update(None)],
    [update(3), start(), ('update two', None, 1.0, 0)],
  ]
  results = run_threads(group, scripts)
  assert [read(r[-1][0]) for r in results] == [{'x': 102}, 5, {'x': 102}]
  assert not group._stacks  # All seeds have left.


def test_seeds_learn_while_they_act_with_copies_on_other_devices(
  group, monkeypatch
):
  """As on several devices, where each seed acts on the first one."""

  def kind(state):
    stacked = isinstance(state, seed_state.SeedState)
    return 'shapes', not stacked and float(state) >= 100

  monkeypatch.setattr(seed_state, 'kind', kind)
  one = [update(1), act(102), update(None), act(103), update(None)]
  other = [update(5), act(106), update(None), update(None), act(108)]
  results = run_threads(group, [one, other, one])
  assert [[read(r[i][0]) for i in (0, 2)] for r in results[::2]] == [[4, 4]] * 2
  assert read(results[0][4][0]) == 4 and read(results[1][3][0]) == 8
  assert [float(results[0][i]) for i in (1, 3)] == [102.5, 103.5]
  assert [float(results[1][i]) for i in (1, 4)] == [106.5, 108.5]


def test_states_of_other_shapes_are_kept_apart(group):
  """Of separate teachers, whose sources differ in their actions."""
  wide = lambda: ('update a', jnp.zeros(2), 1.0, 0)
  narrow = lambda: ('update b', jnp.zeros(3), 1.0, 0)
  later = [update(None, name='update b')] * 2
  results = run_threads(
    group, [[narrow(), *later], [wide(), narrow(), *later], [wide()]]
  )
  finals = [seed_state.materialize(r[-1][0]) for r in results]
  assert [x.tolist() for x in finals] == [[3] * 3, [3] * 3, [1] * 2]


def test_a_seed_that_ends_does_not_stop_the_others(group):
  scripts = [[], [update(1)], [update(1), update(None), update(None)]]
  results = run_threads(group, scripts)
  assert [len(r) for r in results] == [0, 1, 3]


def test_an_error_of_a_call_reaches_every_seed(group):
  def fail(*unused):
    raise ValueError('no memory')

  group.compile('failing', add, lambda fn, num: fail, None)
  call = ('failing', jnp.float32(1), 1.0)
  for result in run_threads(group, [[call]] * 3):
    assert str(result[0]) == 'no memory'


def test_states_that_cannot_be_stacked_are_an_error(group, monkeypatch):
  def fail(*rows):
    raise ValueError('no memory for a copy')

  monkeypatch.setattr(seed_state, '_join', fail)
  results = run_threads(group, [[], [update(1)], [update(1)]])
  assert [str(r[0]) for r in results[1:]] == ['no memory for a copy'] * 2


@pytest.mark.parametrize('waits', [False, True])
def test_without_vectorization_calls_follow_one_another(waits):
  group, calls = seed_calls.Group(2, False, waits), []

  def jit(fn, num):
    assert num == 1
    return lambda *args: calls.append(args[1]) or fn(*args)

  group.compile('update', add, jit, None)
  group.compile('update', None, None, None)  # It is there.
  script = [('update', jnp.float32(1), 2.0)] * 2
  results = run_threads(group, [script, script])
  assert calls == [2.0] * 4
  assert all(float(r[0]) == 3 for result in results for r in result)


@pytest.mark.slow
def test_ten_joined_updates_are_those_of_runs_alone():
  agent = learner.build_agent(small.config(), 2, (1, 3))
  states = [small.state_of(agent, seed=i) for i in range(3)]
  batches = tuple(small.finetune_batch(agent, seed=i) for i in range(3))
  keys = tuple(jax.random.key(10 + i) for i in range(3))
  step = small.jit(agent.finetune_step)
  joined = small.jit(seed_calls.join_update(agent.finetune_step, 3))
  rest = keys, np.ones(3, bool)
  together = jax.tree.map(lambda *x: jnp.stack(x), *states)
  for _ in range(10):
    states = [step(*x)[0] for x in zip(states, batches, keys, strict=True)]
    together, _ = joined(together, batches, rest)
  for i, one in enumerate(states):
    row = jax.tree.map(lambda x, i=i: x[i], together)
    small.assert_close(row.params, one.params, 1e-5)


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

  leaf = lambda mb: np.zeros(mb * 1000, np.uint8).view(Array)
  state = LearnerState(
    leaf(0), {'model': leaf(100)}, {'model': leaf(200)}, leaf(10), {}
  )
  check = functools.partial(seed_calls.check_memory, (state, leaf(5), None))
  check(1)
  message = (
    '2 seeds do not fit the 0.0 GB of tiny GPU: parameters 0.00 GB,.*'
    'config.seeds.*config.mesh.seed'
  )
  with pytest.raises(UserError, match=message):
    check(2)
