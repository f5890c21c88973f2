"""Gymnasium environments with known values, supported and unsupported."""

import gymnasium
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (32, 48, 3), np.uint8)


class Tiny(gymnasium.Env):
  """Reward: the action. Image: step count (left), random sample (right)."""

  observation_space = spaces.Dict(
    {'picture': IMAGE, 'position': spaces.Box(-1, 1, (2,))}
  )
  action_space = spaces.Box(0, 4, (1,))

  def __init__(self, infos=(), terminal_after=0, truncated_after=0):
    self._infos = infos
    self._done_steps = terminal_after, truncated_after

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._count, self._sample = 0, self.np_random.integers(256)
    return self._observe(), {}

  def step(self, action):
    assert self.action_space.contains(action)
    self._count += 1
    done = (self._count == step for step in self._done_steps)
    info = dict(self._infos[self._count - 1]) if self._infos else {}
    return self._observe(), action.sum(), *done, info

  def _observe(self):
    image = np.full((32, 48, 3), self._count, np.uint8)
    image[:, 24:] = self._sample
    return {'picture': image, 'position': np.zeros(2, np.float32)}


class Rendered(gymnasium.Env):
  """Has no image observation; render() returns the image."""

  metadata = {'render_modes': ['rgb_array']}
  observation_space = spaces.Box(-1, 1, (2,))
  action_space = spaces.Discrete(3, start=5)
  frame = np.arange(768, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)

  def __init__(self, render_mode=None):
    self.render_mode = render_mode

  def reset(self, *, seed=None, options=None):
    return np.zeros(2, np.float32), {}

  def step(self, action):
    return np.zeros(2, np.float32), action, False, False, {}

  def render(self):
    return self.frame


gymnasium.register('tests/Tiny-v0', Tiny, max_episode_steps=3)
gymnasium.register('tests/Rendered-v0', Rendered)


def make_terminal():
  infos = {'success': False}, {}, {'success': np.True_}
  return Tiny(infos, terminal_after=3, truncated_after=3)


def make_truncated():
  return Tiny([{'is_success': True}] * 2, truncated_after=2)


def make_rendered():
  return Rendered('rgb_array')


def make_shapes():
  """A Box of shape [2, 3] with all kinds of bounds, and two images."""
  env = Tiny()
  low = np.array([[0, -np.inf, 5], [-np.inf, -1, -3.4028235e38]], np.float32)
  high = np.array([[4, np.inf, np.inf], [9, 1, 3.4028235e38]], np.float32)
  env.action_space = spaces.Box(low, high)
  env.observation_space = spaces.Dict({'other': IMAGE, 'picture': IMAGE})
  return gymnasium.wrappers.TransformObservation(
    env,
    lambda obs: {'other': 0 * obs['picture'], 'pixels': obs['picture']},
    spaces.Dict({'other': IMAGE, 'pixels': IMAGE}),
  )


def make_nothing():
  return 3


def make_unrenderable():
  return Rendered()


def make_frameless():
  env = make_rendered()
  env.frame = None
  return env


def make_buttons():
  env = Tiny()
  env.action_space = spaces.MultiDiscrete([2, 2])
  return env
