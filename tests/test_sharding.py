"""Tests of equal results on any number of devices, and of collectives."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from benchmarks import collectives
from tests import small
from vid2act_jax import sharding
from vid2act_jax.types import Batch, FinetuneBatch, UserError

ROOT = pathlib.Path(__file__).parent.parent
# Relative, by norm: float32 sums in a different order, over ten updates.
TOLERANCE = 1e-5


def run_simulated(devices, *arguments):
  """Runs a module with a number of simulated CPU devices."""
  flag = f'--xla_force_host_platform_device_count={devices}'
  env = {**os.environ, 'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS")} {flag}'}
  env['JAX_PLATFORMS'] = 'cpu'
  done = subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@functools.cache
def updates(stage, method, devices) -> dict[str, np.ndarray]:
  """Arrays after ten updates of a stage: parameters and metrics by name."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'arrays.npz'
    run_simulated(
      devices, 'tests.sharded_updates', path, stage, method, devices
    )
    return dict(np.load(path))


# Compiling the other methods takes as long again.
_METHODS = (
  'shard_map',
  pytest.param('jit', marks=pytest.mark.slow),
  pytest.param('pmap', marks=pytest.mark.slow),
)


_STAGES = (
  pytest.param('pretrain', marks=pytest.mark.slow),
  'finetune',
  pytest.param('guided', marks=pytest.mark.slow),
)


@pytest.mark.parametrize('method', _METHODS)
@pytest.mark.parametrize('stage', _STAGES)
def test_four_devices_equal_one(stage, method):
  one, four = updates(stage, 'shard_map', 1), updates(stage, method, 4)
  assert set(one) == set(four) and len(one) > 20
  for name, expected in one.items():
    if 'reward_std' in name and method != 'jit':
      continue  # A mean over the devices.
    small.assert_close(four[name], expected, TOLERANCE)
  assert four["[1]['skipped']"] == 0


@pytest.mark.slow
@pytest.mark.parametrize('stage', ('pretrain', 'finetune'))
def test_multi_step_equals_single_steps(stage):
  expected = updates(stage, 'shard_map', 1)
  found = updates(stage, 'multi_step', 1)
  assert set(found) == set(expected)
  small.assert_close(found, expected)


def test_collectives_are_means_of_gradients_and_scalars():
  """Counts the collectives of the compiled program."""
  output = run_simulated(2, 'benchmarks.collectives', '--smallest')
  figures = collectives.parse(output)
  print(figures)
  for stage, calls in (('pretrain', 2), ('finetune', 3)):
    found = {k: v for k, v in figures.items() if k.startswith(f'{stage}/')}
    gradients = found.pop(f'{stage}/gradient_bytes')
    assert found.pop(f'{stage}/all-reduce/count') <= calls
    scalars = found.pop(f'{stage}/all-reduce/bytes') - gradients
    assert 0 < scalars <= 4 * 40  # Metrics, and two KLs for the free nats.
    assert not found  # No other collective.


def test_collectives_are_read_from_hlo():
  program = """
  %a = f32[4,2]{1,0} all-reduce(f32[4,2]{1,0} %p), replica_groups={}
  %b = (f32[3]{0}, bf16[2,2]{1,0}) all-reduce-start(f32[3]{0} %p, bf16[2,2] %q)
  %c = u8[8]{0} all-gather(u8[4]{0} %p), dimensions={0}
  %d = f32[4]{0} add(f32[4]{0} %all-reduce.1, f32[4]{0} %x)
  """
  found = collectives.read(program)
  assert found == {'all-reduce': [32, 20], 'all-gather': [8]}


def test_an_indivisible_batch_is_an_error():
  devices = sharding.Devices(1)
  assert devices.rows(7, 'config.finetune.batch') == slice(0, 7)
  four = sharding.Devices.__new__(sharding.Devices)
  four.num, four.process_index, four.process_count = 4, 1, 2
  assert four.rows(8, 'config.finetune.batch') == slice(4, 8)
  with pytest.raises(UserError, match='batch=50 .* 4 devices; set it to 48 or'):
    four.rows(50, 'config.finetune.batch')
  with pytest.raises(UserError, match='52, 13 rows .* set it to 48 or 64$'):
    four.rows(13, 'config.pretrain.batch', 4)
  # A single process may use fewer devices, also in a folder with results.
  four.process_index, four.process_count = 0, 1
  with pytest.raises(UserError, match='set --config.mesh.data=2, or in a new'):
    four.rows(50, 'config.finetune.batch')
  with pytest.raises(UserError, match='data=9, but there are'):
    sharding.Devices(9)


def test_a_coordinator_needs_process_numbers():
  with pytest.raises(UserError, match='--num_processes'):
    sharding.connect(True, 'localhost:1')
  sharding.connect(False)  # Does nothing with a single process.
  assert jax.process_count() == 1


def test_device_put_keeps_the_values():
  devices = sharding.Devices(1)
  batch = small.batch_of(2, 3, 4, action_dim=2)
  put = devices.device_put(jax.device_get(batch), sharding.specs(Batch))
  small.assert_equal(put, batch)
  setup = small.setup()
  put = devices.device_put(
    jax.device_get(setup.batch), sharding.specs(FinetuneBatch)
  )
  assert put.target_embed is None
  small.assert_equal(sharding.local(put), setup.batch)
  fields = {f.name for f in dataclasses.fields(FinetuneBatch)}
  assert fields == {
    'target', 'sources', 'target_embed', 'source_embed', 'rehearsal',
    'rehearsal_domain',  # Set by the step.
  }  # fmt: skip
