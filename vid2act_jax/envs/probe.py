"""Tiny environments whose best behaviour is known, for tests.

probe_reward    reward 1 a step, a constant picture
probe_action    reward minus the mean squared distance of the action from
                OPTIMUM (so 0 is best); the picture shows the action
probe_wide      the same with five action dimensions
probe_count     reward is the action's first entry; the picture shows the
                step count and the action that led to it
probe_terminal  as probe_reward, and ends well after five steps
probe_noise     pictures of uniform noise, every one drawn anew; no rewards,
                and two actions that do nothing
"""

import dataclasses

import numpy as np

from vid2act_jax.envs import core
from vid2act_jax.types import UserError

OPTIMUM = 0.5


@dataclasses.dataclass(frozen=True)
class Spec:
  """One probe; steps are env steps."""

  action_dim: int = 2
  reward: str = 'constant'  # or 'distance', 'first', 'none'
  shows_action: bool = False
  shows_count: bool = False
  shows_noise: bool = False
  ends_after: int = 0  # steps until it terminates with success; 0 is never


PROBES = {
  'reward': Spec(),
  'action': Spec(reward='distance', shows_action=True),
  'wide': Spec(action_dim=5, reward='distance', shows_action=True),
  'count': Spec(reward='first', shows_action=True, shows_count=True),
  'terminal': Spec(ends_after=5),
  'noise': Spec(reward='none', shows_noise=True),
}


def tasks() -> list[str]:
  """Names of all probes."""
  return list(PROBES)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a probe; only noise is random. UserError for a camera."""
  if settings.camera:
    raise UserError(
      f"task 'probe_{name}' has no camera {settings.camera!r}: leave "
      'the camera empty.'
    )
  return Simulator(PROBES[name], settings.size, seed)


def read_count(image: np.ndarray) -> int:
  """The step count, modulo 256, shown by probe_count's u8 [H, W, 3]."""
  return int(image[0, 0, 0])


def read_action(image: np.ndarray, action_dim: int) -> np.ndarray:
  """The action f32 [A] a picture shows, to within 1/255."""
  columns = _columns(image.shape[1], action_dim)
  middles = [np.flatnonzero(columns == i)[0] for i in range(action_dim)]
  return image[-1, middles, 0].astype(np.float32) / 255 * 2 - 1


class Simulator:
  """Counts its steps and remembers the last action (zeros after a reset)."""

  state = None
  model = None

  def __init__(self, spec: Spec, size: int, seed: int):
    self._spec = spec
    self._size = size
    self.action_dim = spec.action_dim
    self.has_success = bool(spec.ends_after)
    self.description = {'camera': '', 'flips': [], 'versions': {}}
    self.reset(seed)

  def reset(self, seed: int | None = None):
    if seed is not None:
      self._random = np.random.default_rng(seed)
    self._count = 0
    self._action = np.zeros(self.action_dim, np.float32)
    self._draw_noise()

  def step(self, action: np.ndarray) -> core.Outcome:
    self._count += 1
    self._action = action
    self._draw_noise()
    done = self._count == self._spec.ends_after
    return core.Outcome(self._reward(), terminal=done, success=done)

  def image(self) -> np.ndarray:
    image = np.full((self._size, self._size, 3), 128, np.uint8)
    if self._spec.shows_action:
      levels = np.round((self._action + 1) / 2 * 255).astype(np.uint8)
      image[:] = levels[_columns(self._size, self.action_dim)][:, None]
    if self._spec.shows_count:
      image[: self._size // 2] = self._count % 256
    if self._spec.shows_noise:
      image[:] = self._noise
    return image

  def close(self):
    """Holds nothing."""

  def _draw_noise(self):
    if self._spec.shows_noise:
      shape = (self._size, self._size, 3)
      self._noise = self._random.integers(256, size=shape, dtype=np.uint8)

  def _reward(self):
    if self._spec.reward == 'distance':
      return -float(np.mean(np.square(self._action - OPTIMUM)))
    if self._spec.reward == 'first':
      return float(self._action[0])
    if self._spec.reward == 'none':
      return 0.0
    return 1.0


def _columns(size, action_dim):
  """Which action dimension each pixel column shows, int [size]."""
  return np.arange(size) * action_dim // size
