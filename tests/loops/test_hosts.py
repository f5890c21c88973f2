"""Tests of seeds that are spread over several processes."""

import jax
import pytest

from experiments import debug
from vid2act_jax import sharding
from vid2act_jax.data import dataset
from vid2act_jax.loops import hosts, seeds
from vid2act_jax.types import UserError


def config_with(*named, **changes):
  config = debug.get_config()
  config.seeds = named
  config.update_from_flattened_dict(changes)
  return config.lock()


@pytest.mark.parametrize(
  'named, count', [((3,), 2), ((5, 7, 9, 11), 2), ((5, 7), 2), ((4,), 1)]
)
def test_every_seed_is_run_by_one_process(named, count, capsys):
  config = config_with(*named)
  shares = [hosts.share(config, i, count) for i in range(count)]
  run = [seed for own in shares for seed in seeds.parse(own)]
  assert sorted(run) == sorted(seeds.parse(config))
  assert all(own.is_locked for own in shares)
  for own in shares:  # The run of a seed is that of a run alone.
    for seed in seeds.parse(own):
      expected = seeds.config_of(config, seed)
      assert seeds.config_of(own, seed).to_dict() == expected.to_dict()
  if count == 1:
    assert capsys.readouterr().out == ''
  else:
    assert 'process 1 of 2: seeds ' in capsys.readouterr().out


def test_more_processes_than_seeds():
  with pytest.raises(UserError, match='2 seeds cannot be spread over 3 proc'):
    hosts.share(config_with(2), 0, 3)


def test_shared_datasets_must_exist(tmp_path, monkeypatch):
  config = config_with(2, source_dir=str(tmp_path))
  with pytest.raises(UserError, match='probe_wide: missing or not complete'):
    hosts.share(config, 1, 2)
  own = config_with(2, source_dir=str(tmp_path / '{seed}'))
  assert seeds.parse(hosts.share(own, 1, 2)) == (1,)
  monkeypatch.setattr(
    hosts.sources, 'finished_dataset', lambda folder: {'frames': 1}
  )
  assert seeds.parse(hosts.share(config, 1, 2)) == (1,)
  assert not list(tmp_path.rglob(dataset.FILE))


def test_devices_of_other_processes_are_not_used(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  config = config_with(4, **{'mesh.data': 8})
  with pytest.raises(UserError, match='4 devices in this process, and seeds'):
    seeds.split(config, (0, 2))


def test_processes_are_found_without_connecting(monkeypatch):
  updates = []
  monkeypatch.setattr(jax.config, 'update', lambda *args: updates.append(args))
  find = sharding.find_process
  monkeypatch.delenv('SLURM_STEP_NUM_TASKS', raising=False)
  assert find(True) == find(False) == (0, 1)
  assert find(True, 4, 3) == (3, 4)
  with pytest.raises(UserError, match='from 0 to 3'):
    find(True, 4, 4)
  with pytest.raises(UserError, match='need each other'):
    find(True, None, 1)
  assert not updates
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '8')
  monkeypatch.setenv('SLURM_PROCID', '5')
  monkeypatch.setenv('SLURM_LOCALID', '1')
  assert find(False) == (0, 1)
  assert find(True) == (5, 8)
  assert updates == [('jax_cuda_visible_devices', '1')]
