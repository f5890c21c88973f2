"""Tasks of this package in gymnasium's loops."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from vid2act_jax import envs
from vid2act_jax.envs import gl
from vid2act_jax.types import UserError

LAB = 'tests.gym_tasks'
SMALL = envs.Settings(size=16, action_repeat=1)


@pytest.mark.parametrize(
  'task',
  [
    'probe_action',
    'probe_noise',
    'probe_terminal',
    'probe_action@actions=5',
    'gym_CartPole-v1',
    'gym_CartPole-v1@actions=4',
    f'{LAB}:make_shapes',
  ],
)
def test_gymnasiums_checks(task):
  if task.startswith('gym_'):
    pytest.importorskip('pygame')
  env = envs.as_gymnasium(task)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    check_env(env)
  env.close()
  env.close()


@pytest.mark.parametrize(
  'task', ['dmc_walker_walk', 'dmc_cartpole_balance@gravity=0.5,actions=3']
)
def test_gymnasiums_checks_of_mujoco(task):
  gl.select_backend()
  pytest.importorskip('dm_control')
  with envs.as_gymnasium(task) as env:
    with warnings.catch_warnings():
      warnings.simplefilter('error', UserWarning)
      check_env(env)
    assert (env.action_space.low == -1).all()
    assert env.observation_space.shape == (64, 64, 3)
    assert env.reset(seed=0)[0].std() > 5
    np.testing.assert_array_equal(env.render(), env.reset(seed=0)[0])


def test_actions_of_the_suite():
  gl.select_backend()
  pytest.importorskip('dm_control')
  with envs.as_gymnasium('dmc_quadruped_walk', SMALL) as env:
    low, high = env.action_space.low, env.action_space.high
    np.testing.assert_allclose(low[:3], [-1, -1, -0.8])
    np.testing.assert_allclose(high[:3], [1, 1.1, 0.8])
    env.reset(seed=0)
    env.step(high)
    control = env._env._simulator._env.physics.control()
    np.testing.assert_allclose(control, high, atol=1e-6)


def test_rewards_flags_and_success():
  with envs.as_gymnasium('probe_terminal', SMALL) as env:
    assert env.reset(seed=2**40)[1] == {'success': False}  # Any seed.
    steps = [env.step(env.action_space.sample()) for _ in range(5)]
  assert [x[1] for x in steps] == [1.0] * 5
  assert [x[2] for x in steps] == [False] * 4 + [True]
  assert not any(x[3] for x in steps) and steps[-1][4] == {'success': True}
  limit = envs.Settings(size=16, action_repeat=2, time_limit=4)
  with envs.as_gymnasium('probe_noise', limit) as env:
    env.reset()
    steps = [env.step(np.zeros(2)) for _ in range(2)]
  assert [x[2:4] for x in steps] == [(False, False), (False, True)]


def test_own_actions_are_taken():
  own = {  # By the Box of `make_shapes`, and with three discrete actions.
    'make_shapes': (np.array([[1, 1, 5], [8, 0.5, -1]], np.float32), 14.5),
    'make_rendered': (6, 6),
  }
  for task, (action, reward) in own.items():
    with envs.as_gymnasium(f'{LAB}:{task}', SMALL) as env:
      assert env.action_space.contains(action)
      env.reset(seed=0)
      assert env.step(action)[1] == pytest.approx(reward)


def test_seeds_and_vector_environments():
  make = lambda: envs.as_gymnasium('probe_noise', SMALL, render_mode=None)
  venv = SyncVectorEnv([make] * 2)
  first, _ = venv.reset(seed=[3, 4])
  again, _ = venv.reset(seed=[4, 3])
  np.testing.assert_array_equal(first, again[::-1])
  assert first.shape == (2, 16, 16, 3) and (first[0] != first[1]).any()
  unseeded = {make().reset()[0].tobytes() for _ in range(2)}
  assert len(unseeded) == 2 and make().render() is None
  venv.close()


def test_errors(monkeypatch):
  with pytest.raises(UserError, match="no render_mode 'human': set it to 'rgb"):
    envs.as_gymnasium('probe_action', render_mode='human')
  with pytest.raises(UserError, match="unknown task 'probe_acton': did you"):
    envs.as_gymnasium('probe_acton')
  monkeypatch.setattr(envs.registry.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match=r'pip install "vid2act_jax\[gym\]"'):
    envs.as_gymnasium('probe_action')
