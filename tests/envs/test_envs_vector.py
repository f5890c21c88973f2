"""Vectorized environments, local and in worker processes."""

import os
import re
import signal

import numpy as np
import pytest

from vid2act_jax import envs
from vid2act_jax.envs import probe
from vid2act_jax.types import UserError

FAST = envs.Settings(quality='fast', time_limit=20)
COUNT = envs.Settings(size=16, action_repeat=1, time_limit=6)


@pytest.mark.parametrize('parallel', [False, True])
def test_automatic_reset(parallel):
  with envs.VectorEnv('probe_count', COUNT, 2, 0, parallel) as vector:
    obs = vector.step(None)
    assert obs['image'].shape == (2, 16, 16, 3)
    assert obs['reward'].shape == (2,) and obs['is_first'].all()
    with pytest.raises(ValueError, match='None during an episode'):
      vector.step(None)
    counts, firsts = [], []
    for step in range(8):
      obs = vector.step(np.full((2, 2), step / 10, np.float32))
      counts.append(probe.read_count(obs['image'][1]))
      firsts.append(bool(obs['is_first'][1]))
    # Six steps, then a reset that ignores the action.
    assert counts == [1, 2, 3, 4, 5, 6, 0, 1]
    assert firsts == [False] * 6 + [True, False]
    assert vector.description['task'] == 'probe_count'
  with pytest.raises(RuntimeError, match='closed'):
    vector.step(None)


def test_workers_match_local():
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
  for local, worker in zip(*runs, strict=True):
    assert local.keys() == worker.keys()
    for key in local:
      np.testing.assert_array_equal(local[key], worker[key])
  assert (runs[0][0]['image'][0] != runs[0][0]['image'][1]).any()


def test_worker_errors_surface():
  vector = envs.VectorEnv('probe_reward', COUNT, 1, 0, True)
  vector.step(None)
  worker = vector._workers[0]._process
  with pytest.raises(RuntimeError, match='(?s)worker 0.*Traceback.*finite'):
    vector.step(np.full((1, 2), np.nan))
  assert not worker.is_alive()
  wrong = envs.Settings(camera='nowhere')
  with pytest.raises(UserError, match="camera 'nowhere'"):
    envs.VectorEnv('probe_reward', wrong, 1, 0, True)


def _signal_worker(vector, index, number):
  os.kill(vector._workers[index]._process.pid, number)


@pytest.mark.parametrize(
  'number, message',
  [
    (signal.SIGKILL, 'worker 0 .* died with exit code -9'),
    pytest.param(
      signal.SIGSTOP,
      r'worker 0 .* timed out after 8 s',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_dead_worker_is_replaced(number, message):
  limits = envs.Limits(timeout=8, max_replacements=2)
  with envs.VectorEnv(
    'probe_count', COUNT, 2, 0, True, limits=limits
  ) as vector:
    vector.step(None)
    zeros = np.zeros((2, 2))
    vector.step(zeros)
    _signal_worker(vector, 0, number)
    obs = vector.step(zeros)
    if not obs['is_first'][0]:  # It had sent the result before it died.
      obs = vector.step(zeros)
    assert obs['is_first'].tolist() == [True, False]
    (fault,) = vector.faults
    assert re.search(message, fault) and 'its episode is dropped' in fault
    assert vector.step(zeros)['is_first'].tolist() == [False, False]


def test_too_many_replacements_raise():
  limits = envs.Limits(max_replacements=1)
  with envs.VectorEnv(
    'probe_count', COUNT, 1, 0, True, limits=limits
  ) as vector:
    vector.step(None)
    _signal_worker(vector, 0, signal.SIGKILL)
    vector.step(np.zeros((1, 2)))
    _signal_worker(vector, 0, signal.SIGKILL)
    with pytest.raises(RuntimeError, match='replaced 1 times.*replacements'):
      vector.step(np.zeros((1, 2)))


@pytest.mark.parametrize('task', ('dmc_cartpole_swingup', 'metaworld_reach'))
@pytest.mark.parametrize('ended', (False, True))
def test_resume_restores_state(task, ended):
  """Bit for bit, during an episode and at its end."""
  settings = envs.Settings(action_repeat=2, time_limit=20, quality='fast')
  rng = np.random.default_rng(0)
  with envs.VectorEnv(task, settings, 2, 3, False) as vector:
    dim = vector.action_dim
    sample = lambda: rng.uniform(-1, 1, (2, dim)).astype(np.float32)
    vector.begin()
    seen, prev_action = [], np.zeros((2, dim), np.float32)
    for _ in range(27 if not ended else 22):
      seen.append((vector.step(prev_action), prev_action))
      prev_action = sample()
    vector.send(prev_action)
    snapshot = vector.snapshot()
    after = [vector.receive()]
    actions = [sample() for _ in range(12)]
    after += [vector.step(action) for action in actions]
  with envs.VectorEnv(task, settings, 2, 3, False) as other:
    resumed = list(other.resume(snapshot))
    start = [i for i, (obs, _) in enumerate(seen) if obs['is_first'][0]][-1]
    since = [] if ended else seen[start:]
    for env in range(2):
      replayed = [
        (obs, prev_action)
        for index, obs, prev_action in resumed
        if index == env
      ]
      assert len(replayed) == len(since)
      for (obs, prev_action), (expected, expected_action) in zip(
        replayed, since, strict=True
      ):
        for key in obs:
          np.testing.assert_array_equal(obs[key], expected[key][env])
        if not obs['is_first']:
          np.testing.assert_array_equal(prev_action, expected_action[env])
    found = [other.receive()]
    found += [other.step(action) for action in actions]
  for left, right in zip(found, after, strict=True):
    for key in right:
      np.testing.assert_array_equal(left[key], right[key])


def test_begin_depends_only_on_stream():
  settings = envs.Settings(time_limit=10, quality='fast')
  with envs.VectorEnv('dmc_cartpole_balance', settings, 1, 3, False) as vector:
    first = vector.step(None)['image']
    vector.begin(7)
    one = vector.step(None)['image']
    vector.send(np.ones((1, 1)))
    vector.begin(8)  # With a pending step.
    other = vector.step(None)['image']
    vector.begin(7)
    np.testing.assert_array_equal(vector.step(None)['image'], one)
  assert len({x.tobytes() for x in (first, one, other)}) == 3
