"""Environments that break gymnasium's interface, at once or in mid-run."""

import time
import warnings
import zlib

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vid2act_jax import envs
from vid2act_jax.envs import core, foreign, frames, gym
from vid2act_jax.types import UserError

SMALL = envs.Settings(size=16, action_repeat=1)
BREAKS_AT = 3  # The step of the episode that returns something else.
FRAME = spaces.Box(0, 255, (64, 64, 3), np.uint8)


def picture(count, size=64):
  frame = np.full((size, size, 3), 40, np.uint8)
  frame[:, count % size] = 220
  return frame


class Rendered(gymnasium.Env):
  """Renders a picture; its step returns `later` from BREAKS_AT on."""

  action_space = spaces.Box(-1, 1, (2,), np.float32)
  observation_space = spaces.Box(-1, 1, (3,), np.float32)
  render_mode = 'rgb_array'
  later: dict = {}

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.count = 0
    return self.observe(), {}

  def step(self, action):
    self.count += 1
    values = {'obs': self.observe(), 'reward': 1.0, 'terminated': False}
    values |= {'truncated': False, 'info': {'success': False}}
    if self.count >= BREAKS_AT:
      values |= self.later
    return tuple(values.values())

  def observe(self):
    return np.zeros(3, np.float32)

  def render(self):
    return picture(self.count)


class Observed(Rendered):
  """Observes the picture; the observation is `change(picture)` later."""

  render_mode = None
  observation_space = FRAME

  def change(self, frame):
    return frame

  def observe(self):
    frame = picture(self.count)
    return self.change(frame) if self.count >= BREAKS_AT else frame


def with_methods(base=Rendered, **methods):
  return type('Broken', (base,), methods)


def play(env_class, steps=5):
  env = core.Env('lab:task', SMALL, gym.Simulator('t', env_class(), SMALL, 0))
  try:
    obs = [env.reset()]
    while len(obs) <= steps and not obs[-1]['is_last']:
      obs.append(env.step(np.zeros(env.action_dim)))
    return obs
  finally:
    env.close()


def fail(*unused, **unused_kwargs):
  raise RuntimeError('the simulator\nbroke')


RESET = r"task 't': reset\(\).*; reset\(\*, seed=None, options=None\) must"
STEP = r"task 't': step\(\).* at step 1.*; step\(action\) must return \(obs"


@pytest.mark.parametrize(
  'env_class, message',
  [
    (with_methods(reset=lambda self: (0, {})), f"{RESET}.*\\(observation, inf"),
    (with_methods(reset=lambda self, seed=None: np.ones(3)), RESET),
    (with_methods(reset=lambda self, seed=None: None), RESET),
    (with_methods(reset=lambda self, seed=None: (0, None)), f'{RESET}.*dict'),
    (with_methods(step=lambda self, action: (0, 0.0, False, {})), STEP),
    (with_methods(step=lambda self, action: None), STEP),
    (with_methods(reset=fail), r'reset\(\) raised RuntimeError: the simulator '
     r'broke \(.*test_envs_foreign.py, line \d+\); correct it there'),
    (with_methods(step=fail), r'step\(\) raised RuntimeError'),
    (with_methods(render=fail), r'render\(\) raised RuntimeError'),
    (with_methods(render=gymnasium.Env.render), r'NotImplementedError.*render'
     r'\(\) must return a frame'),
    (with_methods(render=lambda self: None), r'renders no frame.*None.*u8 \[H'),
    (with_methods(action_space=None), 'action space None: wrap it'),
    (with_methods(action_space=spaces.Box(-1, 1, (0,))), 'at least one entry'),
    (with_methods(observation_space=None, render_mode=None), 'has no image'),
  ],
)  # fmt: skip
def test_interface_broken_from_the_start(env_class, message):
  with pytest.raises(UserError, match=message):
    play(env_class)


@pytest.mark.parametrize(
  'values, message',
  [
    ({'reward': None}, r'reward None at step 3 of an.*must be a finite number'),
    ({'reward': float('nan')}, 'reward nan at step 3'),
    ({'reward': np.float32('inf')}, 'reward .*inf.* at step 3'),
    ({'reward': 1e39}, r'reward 1e\+39 at step 3'),
    ({'reward': '1.0'}, "reward '1.0' at step 3"),
    ({'reward': 1j}, 'reward 1j at step 3'),
    ({'reward': np.ones(2)}, r'reward array\(\[1., 1.\]\) at step 3'),
    ({'terminated': None}, 'terminated is None at step 3.*must be a bool'),
    ({'terminated': 'no'}, "terminated is 'no' at step 3"),
    ({'truncated': float('nan')}, 'truncated is nan at step 3'),
    ({'truncated': 2}, 'truncated is 2 at step 3'),
    ({'info': None}, 'None as info at step 3.*: a dict'),
    ({'info': []}, 'a list as info at step 3'),
    ({'info': {'success': 'yes'}}, r"info\['success'\] is 'yes' at step 3"),
    ({'info': {'success': 0.4}}, r"info\['success'\] is 0.4 at step 3"),
    ({'more': 1}, r'step\(\) returned 6 values at step 3'),
  ],
)
def test_values_that_change_in_mid_run(values, message):
  with pytest.raises(UserError, match=f"task 't': .*{message}"):
    play(with_methods(later=values))


@pytest.mark.parametrize(
  'values, index, expected',
  [
    ({'reward': np.array([2])}, 'reward', 2),
    ({'reward': True}, 'reward', 1),
    ({'reward': np.int64(3)}, 'reward', 3),
    ({'terminated': np.array([True])}, 'is_terminal', True),
    ({'terminated': 1}, 'is_terminal', True),
    ({'truncated': np.float32(1)}, 'is_last', True),
    ({'info': {'success': np.array([1])}}, 'success', True),
    ({'info': {'success': None}}, 'success', False),
    ({'info': {}}, 'success', False),
  ],
)
def test_values_with_one_clear_meaning(values, index, expected):
  obs = play(with_methods(later=values))[BREAKS_AT]
  assert obs[index] == expected
  assert obs['reward'].dtype == np.float32


@pytest.mark.parametrize(
  'change, found',
  [
    (lambda frame: np.concatenate([frame, frame[..., :1]], -1), 'uint8 .*4'),
    (lambda frame: frame[..., 0], r'uint8 \[64, 64\]'),
    (lambda frame: frame.astype(np.float32), 'float32'),
    (lambda frame: frame.astype(int), 'int64'),
    (lambda frame: frame.tolist(), 'a value of type list'),
    (lambda frame: frame[:0], r'uint8 \[0, 64, 3\]'),
    (lambda frame: None, 'None'),
    (lambda frame: {'image': frame}, 'a value of type dict'),
  ],
)
def test_pictures_that_change_in_mid_run(change, found):
  env_class = with_methods(Observed, change=lambda self, x: change(x))
  message = f'observation is {found}.* at step 3.*must be a frame u8'
  with pytest.raises(UserError, match=message):
    play(env_class)

  def render(self):
    return Observed.observe(self)

  rendered = {'change': lambda self, x: change(x), 'render': render}
  message = rf'at step 3 of an episode: render\(\) returned .*{found}'
  with pytest.raises(UserError, match=message):
    play(with_methods(**rendered))


def test_an_entry_that_goes_missing():
  space = spaces.Dict({'camera': FRAME})
  observe = lambda self: {'camera': picture(0)} if self.count < 3 else {}
  with pytest.raises(UserError, match="no 'camera' at step 3"):
    play(with_methods(Observed, observation_space=space, observe=observe))


def test_a_picture_may_change_its_size_and_be_another_librarys():
  class Tensor:
    def __init__(self, frame):
      self.frame = frame

    def __array__(self, dtype=None, copy=None):
      return self.frame

  bigger = lambda self: Tensor(picture(self.count, 64 + self.count))
  obs = play(with_methods(render=bigger))
  assert all(o['image'].shape == (16, 16, 3) for o in obs)
  assert obs[0]['image'].any()


def test_an_error_of_closing_is_a_warning():
  with pytest.warns(envs.EnvWarning, match=r'close\(\) raised RuntimeError'):
    assert len(play(with_methods(close=fail))) == 6


def test_a_success_that_appears_later_is_a_warning():
  class Late(Rendered):
    def step(self, action):
      *values, _ = super().step(action)
      return *values, {'is_success': True} if self.count > 1 else {}

  with pytest.warns(envs.EnvWarning, match='none at the first') as record:
    assert 'success' not in play(Late)[-1]
  assert len(record) == 1


@pytest.mark.parametrize(
  'text, message',
  [
    ('def make(size): pass', r"make\(\) raised TypeError: .*'size'.*it must "
     r'take no arguments and return a gymnasium.Env'),
    ('def make(): open("absent.bin")', r".*FileNotFoundError: .*'absent.bin' "
     r'\(.*py, line 1\)'),
    ('def make(: pass', r'importing \w+ raised SyntaxError: .*line 1'),
    ('1 / 0', r'importing \w+ raised ZeroDivisionError.*line 1\); correct it'),
  ],
)  # fmt: skip
def test_factories_that_fail(text, message, tmp_path, monkeypatch):
  name = f'lab_{zlib.crc32(text.encode())}'
  (tmp_path / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match=f"task '{name}:make': {message}"):
    envs.make(f'{name}:make', SMALL, 0)


def symbols(size, high=10):
  grid = np.random.default_rng(0).integers(high + 1, size=(size, size, 3))
  return grid.astype(np.uint8)


@pytest.mark.parametrize(
  'space, grid',
  [
    (spaces.Box(0, 255, (7, 7, 3), np.uint8), symbols(7)),
    (spaces.Box(0, 255, (7, 7, 3), np.uint8), symbols(7, 255)),
    (spaces.Box(0, 255, (25, 25, 3), np.uint8), symbols(25)),
    (spaces.Box(0, 10, (64, 64, 3), np.uint8), symbols(64)),
  ],
)
@pytest.mark.parametrize('in_dict', [False, True])
def test_symbols_are_rendered(space, grid, in_dict):
  if in_dict:
    space = spaces.Dict({'image': space, 'direction': spaces.Discrete(4)})
  obs = {'image': grid, 'direction': 0} if in_dict else grid
  env = with_methods(observation_space=space, observe=lambda self: obs)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    simulator = gym.Simulator('t', env(), SMALL, 0)
  assert simulator.image_key is None
  assert simulator.description['frame'] == [64, 64, 3]
  assert simulator.image().max() > 40


def test_pictures_are_not_rendered():
  env = with_methods(Observed, render_mode='rgb_array', render=fail)
  assert gym.Simulator('t', env(), SMALL, 0).image_key == ''


def test_nearly_constant_frames_are_a_warning():
  grid = {'observe': lambda self: symbols(7)}
  space = {'observation_space': spaces.Box(0, 255, (7, 7, 3), np.uint8)}
  dark = {'render': lambda self: np.full((64, 64, 3), 3, np.uint8)}
  for env, hint in (
    (with_methods(Observed, **grid, **space), "render_mode='rgb_array'"),
    (with_methods(**dark), 'check its camera'),
  ):
    with pytest.warns(envs.EnvWarning, match=f'nearly one colour.*{hint}'):
      gym.Simulator('t', env(), SMALL, 0)


def test_checks_cost_less_than_a_percent_of_a_frame():
  checked = foreign.CheckedEnv('t', Observed())
  checked.reset(0)
  large = picture(0, 480)

  def seconds(fn):
    times = []
    for _ in range(50):
      start = time.perf_counter()
      fn()
      times.append(time.perf_counter() - start)
    return min(times)

  def step():
    checked.frame(checked.step(None).obs, '')

  bare = seconds(lambda: checked.env.step(None))
  # Resizing alone is far less than rendering, which takes 3 ms or more.
  assert seconds(step) - bare < 0.2 * seconds(lambda: frames.resize(large, 64))
