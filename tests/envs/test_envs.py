"""Environments: flags, images, known values, seeds and errors."""

import numpy as np
import pytest

from vid2act_jax import envs
from vid2act_jax.envs import gl, probe, registry
from vid2act_jax.types import UserError

FAST = envs.Settings(quality='fast', time_limit=20)


@pytest.fixture
def make():
  """Makes environments and closes them after the test."""
  made = []

  def build(task, settings=FAST, seed=0):
    made.append(envs.make(task, settings, seed))
    return made[-1]

  yield build
  for env in made:
    env.close()


@pytest.fixture
def suite():
  """dm_control's suite, imported after the GL backend is selected."""
  gl.select_backend()
  return pytest.importorskip('dm_control.suite')


def rollout(env, steps, seed=0):
  """Takes random actions after a reset; returns a list of observations."""
  rng = np.random.default_rng(seed)
  return [env.reset()] + [
    env.step(rng.uniform(-1, 1, env.action_dim)) for _ in range(steps)
  ]


def check_observation(obs, size=64):
  assert obs['image'].shape == (size, size, 3)
  assert obs['image'].dtype == np.uint8
  for key in ('reward', 'discount'):
    assert obs[key].dtype == np.float32 and obs[key].shape == ()
  for key in ('is_first', 'is_last', 'is_terminal'):
    assert obs[key].dtype == np.bool_ and obs[key].shape == ()


@pytest.mark.parametrize(
  'task, action_dim',
  [
    ('dmc_cartpole_swingup', 1),
    ('dmc_ball_in_cup_catch', 2),
    ('dmc_quadruped_walk', 12),
    ('metaworld_door_close', 4),
    ('probe_wide', 5),
  ],
)
def test_observations_and_flags(make, task, action_dim):
  env = make(task)
  assert env.action_dim == action_dim
  episode = rollout(env, 10)
  for obs in episode:
    check_observation(obs)
    assert not obs['is_terminal']
  assert [bool(o['is_first']) for o in episode] == [True] + [False] * 10
  # Two env steps per agent step: the limit of 20 is reached after ten.
  assert [bool(o['is_last']) for o in episode] == [False] * 10 + [True]
  assert episode[0]['reward'] == 0 and episode[0]['discount'] == 1
  assert ('success' in episode[0]) == task.startswith('metaworld')
  assert env.description['action_dim'] == action_dim
  with pytest.raises(RuntimeError, match='reset'):
    env.step(np.zeros(action_dim))


def test_time_limit_truncates_action_repeat(make):
  env = make('probe_reward', envs.Settings(action_repeat=4, time_limit=10))
  rewards = [float(o['reward']) for o in rollout(env, 3)]
  assert rewards == [0, 4, 4, 2]


def test_shorter_suite_limit_applies(make):
  env = make(
    'dmc_cartpole_swingup',
    envs.Settings(quality='fast', action_repeat=50, time_limit=10**6),
  )
  last = rollout(env, 20)[-1]
  assert last['is_last'] and not last['is_terminal']
  assert last['discount'] == 1


@pytest.mark.parametrize(
  'domain, task', [('cheetah', 'run'), ('humanoid', 'stand')]
)
def test_dmc_rewards_match_raw_suite(make, suite, domain, task):
  settings = envs.Settings(quality='fast', action_repeat=3)
  env = make(f'dmc_{domain}_{task}', settings, seed=7)
  raw = suite.load(domain, task, task_kwargs={'random': 7})
  env.reset()
  raw.reset()
  rng = np.random.default_rng(0)
  for _ in range(5):
    action = rng.uniform(-1, 1, env.action_dim)
    expected = sum(raw.step(action.astype(np.float32)).reward for _ in range(3))
    np.testing.assert_allclose(env.step(action)['reward'], expected, rtol=1e-5)


def test_dmc_action_bounds(make):
  # The quadruped's bounds differ by joint; lqr has none and is not scaled.
  for task, low, high in (
    ('dmc_quadruped_walk', [-1, -1, -0.8] * 4, [1, 1.1, 0.8] * 4),
    ('dmc_lqr_lqr_2_1', [-1], [1]),
  ):
    env = make(task)
    env.reset()
    for value, bound in ((-1, low), (2, high)):
      env.step(np.full(env.action_dim, value, np.float32))
      control = env._simulator._env.physics.control()
      np.testing.assert_allclose(control, bound, atol=1e-6)


def test_dmc_standard_quality_matches_suite_rendering(make, suite):
  env = make('dmc_walker_walk', envs.Settings(), seed=3)
  standard = env.reset()['image'].astype(int)
  fast = make('dmc_walker_walk', FAST, seed=3).reset()['image'].astype(int)
  raw = suite.load('walker', 'walk', task_kwargs={'random': 3})
  raw.reset()
  expected = raw.physics.render(64, 64, camera_id=0).astype(int)
  raw.physics.free()
  assert np.abs(standard - expected).mean() < 0.5
  assert standard.std() > 10 and fast.std() > 10
  assert 0.5 < np.abs(fast - expected).mean() < 30


def test_new_terrain_is_rendered(make):
  env = make('dmc_quadruped_escape', envs.Settings(quality='fast'), seed=0)
  ground = [env.reset()['image'][:16].astype(int) for _ in range(2)]
  assert np.abs(ground[0] - ground[1]).mean() > 1


@pytest.mark.parametrize('task', ['dmc_walker_walk', 'metaworld_reach'])
def test_seeds(make, task):
  first, again, other = (
    rollout(make(task, seed=seed), 3) for seed in (1, 1, 2)
  )
  for one, two in zip(first, again, strict=True):
    for key in one:
      np.testing.assert_array_equal(one[key], two[key])
  assert any(
    (one['image'] != two['image']).any()
    for one, two in zip(first, other, strict=True)
  )


@pytest.mark.parametrize(
  'task',
  ['dmc_cartpole_swingup', 'dmc_quadruped_escape', 'metaworld_reach'],
)
def test_reset_seeds(make, task):
  env = make(task, envs.Settings(quality='fast'))

  def start(seed):
    image = env.reset(seed)['image']
    env.step(np.ones(env.action_dim))  # Must not affect the next episode.
    if task.startswith('metaworld'):
      return image, env.state
    physics = env._simulator._env.physics
    return image, physics.get_state(), physics.model.hfield_data.copy()

  first, other, again, free = (start(seed) for seed in (5, 6, 5, None))
  for one, two in zip(first, again, strict=True):
    np.testing.assert_array_equal(one, two)
  for different in (other, free):
    assert (first[1] != different[1]).any()
  if task == 'dmc_quadruped_escape':
    assert (first[2] != other[2]).any()


def test_environments_do_not_share_gl_context(make):
  settings = envs.Settings(quality='fast')
  single = [o['image'] for o in rollout(make('dmc_walker_walk', settings), 3)]
  both = make('dmc_walker_walk', settings), make('metaworld_reach', settings)
  rng = np.random.default_rng(0)
  mixed = [both[0].reset()['image']]
  both[1].reset()
  for _ in range(3):
    mixed.append(both[0].step(rng.uniform(-1, 1, 6))['image'])
    both[1].step(np.zeros(4))
  np.testing.assert_array_equal(single, mixed)


def test_metaworld_is_upright(make):
  env = make('metaworld_door_close', envs.Settings(quality='fast'))
  assert env.description['flips'] == ['vertical', 'horizontal']
  assert env.description['camera'] == 'corner'
  image = env.reset()['image'].astype(int)
  # The upper half is grey background, the lower half has the wooden table.
  red, green, blue = np.moveaxis(image, -1, 0)
  wood = (red - blue > 20) & (red - green < 60)
  assert np.abs(image[:4, :16] - image[0, 0]).max() < 8
  assert wood[32:].mean() > 5 * wood[:32].mean()
  # Lifting the hand changes the upper half of the image more than the lower.
  for _ in range(20):
    lifted = env.step(np.array([0, 0, 1, 0]))['image'].astype(int)
  moved = np.abs(lifted - image).sum(-1) > 30
  assert moved[:32].sum() > 2 * moved[32:].sum()


def test_scripted_policy_succeeds(make):
  settings = envs.Settings(quality='fast', action_repeat=4, time_limit=500)
  env = make('metaworld_reach', settings)
  policy_fn = envs.scripted_policy('metaworld_reach')
  goals, successes = [], 0
  for _ in range(2):
    obs = env.reset()
    assert not obs['success'] and obs['state'].shape == (39,)
    goals.append(obs['state'][-3:])
    for _ in range(40):
      action = policy_fn(env)
      assert action.dtype == np.float32 and np.abs(action).max() <= 1
      obs = env.step(action)
      successes += bool(obs['success'])
      assert not obs['is_terminal']
  assert successes > 0
  assert np.abs(goals[0] - goals[1]).max() > 0.01


def test_probe_values(make):
  env = make('probe_action', envs.Settings(time_limit=1000))
  first = env.reset()
  assert env.step(np.full(2, probe.OPTIMUM))['reward'] == 0
  obs = env.step(np.array([-0.5, 0.5]))
  assert obs['reward'] == -1  # (1 + 0) / 2, twice
  np.testing.assert_allclose(
    probe.read_action(obs['image'], 2), [-0.5, 0.5], atol=1 / 255
  )
  assert np.ptp(first['image']) == 0
  constant = rollout(make('probe_reward'), 4)
  assert [float(o['reward']) for o in constant] == [0, 2, 2, 2, 2]
  assert np.ptp([o['image'] for o in constant]) == 0


def test_probe_count_aligns_action_and_frame(make):
  env = make('probe_count', envs.Settings(action_repeat=2, time_limit=100))
  env.reset()
  for step in range(1, 5):
    action = np.array([step / 5, -step / 5], np.float32)
    obs = env.step(action)
    assert probe.read_count(obs['image']) == 2 * step
    np.testing.assert_allclose(
      probe.read_action(obs['image'], 2), action, atol=1 / 255
    )
    np.testing.assert_allclose(obs['reward'], 2 * action[0], rtol=1e-6)


def test_terminal_and_success(make):
  last = rollout(make('probe_terminal', FAST), 3)[-1]  # ends in a repeat
  assert last['is_last'] and last['is_terminal'] and last['success']
  assert last['discount'] == 0 and last['reward'] == 1


def test_bad_actions(make):
  env = make('probe_reward')
  env.reset()
  with pytest.raises(ValueError, match='shape'):
    env.step(np.zeros(3))
  with pytest.raises(ValueError, match='finite'):
    env.step(np.array([np.nan, 0]))


@pytest.mark.parametrize(
  'task, message',
  [
    ('atari_pong', "unknown suite 'atari'.*dmc, metaworld, probe"),
    ('dmc', 'choose one of [0-9]+ tasks, such as dmc_'),
    ('walker_walk', 'did you mean dmc_walker_walk'),
    ('dmc_cartpole_swngup', 'did you mean dmc_cartpole_swingup'),
    ('metaworld_door_clos', 'did you mean metaworld_door_close'),
    ('probe_xyz', 'choose one of 6 tasks, such as probe_'),
  ],
)
def test_unknown_tasks(task, message):
  with pytest.raises(UserError, match=message):
    envs.make(task, FAST, 0)


def test_bad_settings():
  with pytest.raises(UserError, match='quality'):
    envs.Settings(quality='best')
  with pytest.raises(UserError, match='time_limit=0'):
    envs.Settings(time_limit=0)
  with pytest.raises(UserError, match="no camera '9'.*0 side"):
    envs.make('dmc_walker_walk', envs.Settings(camera='9'), 0)
  with pytest.raises(UserError, match='no scripted policies'):
    envs.scripted_policy('dmc_walker_walk')
  with pytest.raises(UserError, match='at least 1'):
    envs.VectorEnv('probe_reward', FAST, 0, 0, False)


def test_missing_package(monkeypatch):
  monkeypatch.setattr(registry.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'pip install "vid2act_jax\[dmc\]"'):
    envs.make('dmc_walker_walk', FAST, 0)


def test_gl_errors(monkeypatch):
  monkeypatch.delenv('VID2ACT_GL_TRIED', raising=False)
  monkeypatch.setenv('MUJOCO_GL', 'nonsense')
  with pytest.raises(UserError, match='MUJOCO_GL=nonsense: set it to egl'):
    gl.select_backend()
  monkeypatch.delenv('MUJOCO_GL')
  with pytest.raises(UserError, match='mujoco was imported before'):
    gl.select_backend()
  monkeypatch.delitem(gl.sys.modules, 'mujoco')
  monkeypatch.setattr(gl, '_test_backend', lambda *_, **__: 'library not found')
  with pytest.raises(UserError, match='egl: library.*apt-get install libegl1'):
    gl.select_backend()
  monkeypatch.setattr(
    gl, '_test_backend', lambda name, **_: '' if name == 'osmesa' else 'no'
  )
  assert gl.select_backend() == 'osmesa'
