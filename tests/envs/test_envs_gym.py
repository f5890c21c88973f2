"""Gymnasium and custom environments: images, actions, flags, errors."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests import gym_tasks
from vid2act_jax import envs
from vid2act_jax.envs import gl, gym, registry
from vid2act_jax.envs.spaces import action_spec
from vid2act_jax.types import UserError

LAB = 'tests.gym_tasks'
SMALL = envs.Settings(size=16, action_repeat=1)


@pytest.fixture
def make():
  """Makes environments and closes them after the test."""
  made = []

  def build(task, settings=SMALL, seed=0):
    task = task if task.startswith('gym_') else f'{LAB}:{task}'
    made.append(envs.make(task, settings, seed))
    return made[-1]

  yield build
  for env in made:
    env.close()
    env.close()


def test_custom_environment(make):
  env = make('make_terminal', seed=7)
  sample = np.random.Generator(np.random.PCG64(7)).integers(256)
  first = env.reset()
  assert env.action_dim == 1 and env.state is None and 'state' not in first
  # 48 x 32 is resized without cropping: both halves stay halves.
  assert first['image'].shape == (16, 16, 3)
  assert (first['image'][:, :8] == 0).all()
  assert (first['image'][:, 8:] == sample).all()
  steps = [env.step(np.array([a])) for a in (-1, 0.5, 2)]
  assert [float(o['reward']) for o in steps] == [0, 3, 4]
  assert [int(o['image'][0, 0, 0]) for o in steps] == [1, 2, 3]
  assert [bool(o['success']) for o in steps] == [False, False, True]
  assert [bool(o['is_last']) for o in steps] == [False, False, True]
  assert steps[-1]['is_terminal'] and steps[-1]['discount'] == 0
  description = env.description
  assert description['task'] == f'{LAB}:make_terminal'
  assert description['frame'] == [32, 48, 3] and description['actions'] == 'box'
  assert description['camera'] == '' and description['flips'] == []
  assert description['versions'] == {'gymnasium': gymnasium.__version__}


@pytest.mark.filterwarnings('ignore:.*render_mode')
def test_truncation(make):
  for task, length in (
    ('make_truncated', 2),
    (f'gym_{LAB}:tests/Tiny-v0', 3),  # by gymnasium's TimeLimit
  ):
    env = make(task)
    assert ('success' in env.reset()) == (task == 'make_truncated')
    steps = [env.step(np.zeros(1)) for _ in range(length)]
    assert [bool(o['is_last']) for o in steps] == [False] * (length - 1) + [1]
    assert not steps[-1]['is_terminal'] and steps[-1]['discount'] == 1


def test_action_bounds(make):
  env = make('make_shapes')
  assert env.action_dim == 6
  image = env.reset()['image']
  for value, row in (
    (-1, [0, -1, 5, 7, -1, -1]),
    (0, [2, 0, 6, 8, 0, 0]),
    (1, [4, 1, 7, 9, 1, 1]),
  ):
    action = env.actions.to_native(np.full(6, value, np.float32))
    np.testing.assert_array_equal(action, np.reshape(row, (2, 3)))
    assert action.dtype == np.float32
  assert env.step(np.ones(6))['reward'] == 23
  assert (image[:, 8:] > 0).all()  # 'pixels', not the 'other' image


def test_integer_box():
  spec = action_spec('t', spaces.Box(0, 3, (2,), np.int64))
  action = spec.to_native(np.array([-0.5, 0.9], np.float32))
  assert spec.dim == 2 and action.tolist() == [1, 3]
  assert action.dtype == np.int64


@pytest.mark.parametrize(
  'task', ['make_rendered', f'gym_{LAB}:tests/Rendered-v0']
)
def test_discrete_actions(make, task):
  env = make(task)
  obs = env.reset()
  assert env.action_dim == 3 and env.description['actions'] == 'discrete'
  assert 'success' not in obs and obs['image'].shape == (16, 16, 3)
  assert obs['image'] is not gym_tasks.Rendered.frame
  for index in range(3):
    action = np.full(3, -0.5)
    action[index] = -0.4
    assert env.step(action)['reward'] == 5 + index


def test_seeds(make):
  env = make('make_terminal', seed=5)
  seeds = (None, None, 5, None, 6, 5)
  first, second, again, follows, other, last = (
    int(env.reset(seed)['image'][0, -1, 0]) for seed in seeds
  )
  assert first == again == last and second == follows
  assert len({first, second, other}) == 3


def test_pendulum(make):
  pytest.importorskip('pygame')
  env = make('gym_Pendulum-v1', envs.Settings(), seed=1)
  image = env.reset()['image']
  obs = [env.step(np.ones(1)) for _ in range(5)]
  assert env._simulator._env.unwrapped.last_u == 2
  images = [image] + [o['image'] for o in obs]
  for one, two in zip(images, images[1:], strict=False):
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert one.std() > 5 and (one != two).any()
  assert env.description['frame'] == [500, 500, 3]
  np.testing.assert_array_equal(env.reset(seed=1)['image'], image)
  assert (env.reset(seed=2)['image'] != image).any()


def test_cartpole(make):
  pytest.importorskip('pygame')
  env = make('gym_CartPole-v1', envs.Settings())
  images, rewards = [env.reset()['image']], []
  while not env._done:
    obs = env.step(np.array([0, 1]))  # to the right until it falls
    rewards.append(float(obs['reward']))
  assert obs['is_terminal'] and 4 <= sum(rewards) <= 12
  images.append(obs['image'])
  # The cart is black.
  before, after = (np.nonzero(i.max(-1) < 50)[1].mean() for i in images)
  assert after > before + 0.5


def test_mujoco_environments_do_not_share_gl_context(make):
  gl.select_backend()
  pytest.importorskip('mujoco')
  single = make('gym_InvertedPendulum-v5', seed=1).reset()['image']
  one = make('gym_InvertedPendulum-v5', seed=1)
  two = make('gym_Reacher-v5', seed=1)
  other = two.reset()['image']
  np.testing.assert_array_equal(one.reset()['image'], single)
  one.close()
  np.testing.assert_array_equal(two.reset(seed=1)['image'], other)
  assert single.std() > 5 and np.abs(single.astype(int) - other).mean() > 5


@pytest.mark.parametrize('task', ['gym_Pendulum-v1', f'{LAB}:make_truncated'])
def test_workers_match_local(task):
  if task.startswith('gym_'):
    pytest.importorskip('pygame')
  runs = []
  for parallel in (False, True):
    with envs.VectorEnv(task, SMALL, 1, 3, parallel) as vector:
      actions = [None, [[0.5]], [[-0.5]], [[1]]]
      runs.append([vector.step(action) for action in actions])
  for local, worker in zip(*runs, strict=True):
    assert local.keys() == worker.keys()
    for key in local:
      np.testing.assert_array_equal(local[key], worker[key])


@pytest.mark.parametrize(
  'task, message',
  [
    ('gym_Pendulm-v1', 'did you mean gym_Pendulum-v1.*gym_<module>:Pendulm-v1'),
    ('gym_Pendulum', 'did you mean gym_Pendulum-v1'),
    (f'gym_{LAB}:tests/Tny-v0', f'did you mean gym_{LAB}:tests/Tiny-v0'),
    ('gym_zzzzzzzz', "unknown task 'gym_zzzzzzzz': gymnasium has no such id"),
    ('gym_absent.lab:Reach-v0', r"'gym_absent.lab:Reach-v0'.*named 'absent'"),
    ('absent.lab:make', r"'absent.lab:make' needs.*No module named 'absent'"),
    (f'{LAB}:make_trminal', f'no function.*mean {LAB}:make_terminal'),
    (f'{LAB}:IMAGE', "has no function 'IMAGE'; define it"),
    (f'{LAB}:', 'not named <module>:<function>'),
    ('a/b:make', 'not named <module>:<function>'),
  ],
)
def test_unknown_tasks(task, message):
  with pytest.raises(UserError, match=message):
    envs.check(task)


@pytest.mark.parametrize(
  'function, message',
  [
    ('make_nothing', "returns 'int': it must return a gymnasium.Env"),
    ('make_unrenderable', 'has no image.*render_mode is None'),
    ('make_frameless', r'renders no frame.*u8 \[H, W, 3\]'),
    ('make_buttons', r'the action space MultiDiscrete\(\[2 2\]\): wrap it'),
  ],
)
def test_unsupported_environments(function, message):
  with pytest.raises(UserError, match=f"'{LAB}:{function}'.*{message}"):
    envs.make(f'{LAB}:{function}', SMALL, 0)


def test_unsupported_settings():
  task = f'{LAB}:make_rendered'
  with pytest.raises(UserError, match="no camera '0': leave the camera empty"):
    envs.make(task, envs.Settings(camera='0'), 0)
  with pytest.raises(UserError, match='no scripted policies'):
    envs.scripted_policy(task)
  with pytest.raises(UserError, match='<module>:<function>'):
    envs.check('nothing_such')


def test_missing_libraries(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pygame', None)
  with pytest.raises(UserError, match=r'pip install "gymnasium\[classic'):
    envs.make('gym_CartPole-v1', SMALL, 0)
  monkeypatch.setattr(registry.importlib.util, 'find_spec', lambda name: None)
  for task in ('gym_CartPole-v1', f'{LAB}:make_rendered'):
    with pytest.raises(UserError, match=r'pip install "vid2act_jax\[gym\]"'):
      envs.check(task)


def test_modules_in_the_current_folder(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', sys.path.copy())
  (tmp_path / 'found_lab.py').write_text('make = dict')
  (tmp_path / 'broken_lab.py').write_text('import absent_package')
  envs.check('found_lab:make')
  with pytest.raises(UserError, match="named 'absent_package'.*install it"):
    envs.check('broken_lab:make')


def test_gl_backend_is_selected_only_for_mujoco(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(sys.modules, 'mujoco', None)
  monkeypatch.delitem(sys.modules, 'mujoco')
  monkeypatch.setattr(gym.importlib.util, 'find_spec', lambda name: True)
  calls = []

  def fail():
    calls.append(1)
    raise UserError('no GL library')

  monkeypatch.setattr(gl, 'select_backend', fail)
  registry.prepare('gym_Pendulum-v1')
  assert not calls
  registry.prepare(f'{LAB}:make_rendered')  # might need GL, but does not
  assert calls
  text = 'import sys\nsys.modules["mujoco"] = sys\nmake = dict'
  (tmp_path / 'physical_lab.py').write_text(text)
  with pytest.raises(UserError, match='no GL library'):
    registry.prepare('physical_lab:make')
