"""Tests of seeds that share a process: their names and devices."""

import jax
import pytest

from experiments import base, debug, learning_check
from vid2act_jax.loops import seeds, stages
from vid2act_jax.loops.execution import Execution
from vid2act_jax.types import UserError


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


def test_shared_sources_are_collected_with_the_first_seeds_devices(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(jax, 'device_count', lambda: 8)
  config, collected, ran = debug.get_config(), [], []
  config.update(seeds=(4, 2), source_dir=str(tmp_path / 'sources'))
  config.mesh.update(data=2, seed=2)
  monkeypatch.setattr(
    stages, 'run_collect', lambda *xs: collected.append((xs[1], xs[2].devices))
  )
  run_one = lambda config, folder, own: ran.append((config.seed, own.devices))
  seeds.run(config, tmp_path, Execution(), run_one)
  assert collected == [(tmp_path / 'seed_4', (0, 2))]
  assert sorted(ran) == [(2, (2, 2)), (4, (0, 2))]
