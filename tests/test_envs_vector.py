"""Several environments at once: here, and in worker processes."""

import os
import signal

import numpy as np
import pytest

from vid2act_jax import envs
from vid2act_jax.envs import probe
from vid2act_jax.types import UserError

FAST = envs.Settings(quality='fast', time_limit=20)
COUNT = envs.Settings(size=16, action_repeat=1, time_limit=6)


@pytest.mark.parametrize('parallel', [False, True])
def test_vector_resets_itself(parallel):
  with envs.VectorEnv('probe_count', COUNT, 2, 0, parallel) as vector:
    obs = vector.step(None)
    assert obs['image'].shape == (2, 16, 16, 3)
    assert obs['reward'].shape == (2,) and obs['is_first'].all()
    with pytest.raises(ValueError, match='missing'):
      vector.step(None)
    counts, firsts = [], []
    for step in range(8):
      obs = vector.step(np.full((2, 2), step / 10, np.float32))
      counts.append(probe.read_count(obs['image'][1]))
      firsts.append(bool(obs['is_first'][1]))
    # Six steps, then a call that resets and ignores its action.
    assert counts == [1, 2, 3, 4, 5, 6, 0, 1]
    assert firsts == [False] * 6 + [True, False]
    assert vector.description['task'] == 'probe_count'
  with pytest.raises(RuntimeError, match='closed'):
    vector.step(None)


def test_workers_equal_in_process():
  runs = []
  for parallel in (False, True):
    rng = np.random.default_rng(0)
    with envs.VectorEnv('dmc_cartpole_swingup', FAST, 2, 5, parallel) as vector:
      runs.append(
        [
          vector.step(rng.uniform(-1, 1, (2, vector.action_dim)))
          for _ in range(13)
        ]
      )
  for here, there in zip(*runs, strict=True):
    assert here.keys() == there.keys()
    for key in here:
      np.testing.assert_array_equal(here[key], there[key])
  assert (runs[0][0]['image'][0] != runs[0][0]['image'][1]).any()


def test_worker_errors_surface():
  vector = envs.VectorEnv('probe_reward', COUNT, 1, 0, True)
  vector.step(None)
  worker = vector._members[0]._process
  with pytest.raises(RuntimeError, match='(?s)worker 0.*Traceback.*finite'):
    vector.step(np.full((1, 2), np.nan))
  assert not worker.is_alive()
  wrong = envs.Settings(camera='nowhere')
  with pytest.raises(UserError, match="camera 'nowhere'"):
    envs.VectorEnv('probe_reward', wrong, 1, 0, True)


def test_dead_worker_is_told():
  with envs.VectorEnv('probe_reward', COUNT, 1, 0, True) as vector:
    vector.step(None)
    os.kill(vector._members[0]._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match='died with exit code -9'):
      for _ in range(3):
        vector.step(np.zeros((1, 2)))
