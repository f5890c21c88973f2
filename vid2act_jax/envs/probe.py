"""Tiny environments with a known optimal policy, for tests.

probe_reward    reward 1 per step, a constant image
probe_action    reward is minus the mean squared distance of the action from
                OPTIMUM (maximum 0); the image shows the action
probe_wide      probe_action with five action dimensions
probe_count     reward is the action's first entry; the image shows the step
                count and the previous action
probe_terminal  probe_reward that terminates with success after five steps
probe_noise     images of uniform noise, resampled at every step; no reward,
                and two action dimensions without effect
"""

import dataclasses

import numpy as np

from vid2act_jax.envs import core
from vid2act_jax.types import UserError

OPTIMUM = 0.5


@dataclasses.dataclass(frozen=True)
class Spec:
  """Properties of a probe environment; steps are env steps."""

  action_dim: int = 2
  reward: str = 'constant'  # or 'distance', 'first', 'none'
  shows_action: bool = False
  shows_count: bool = False
  shows_noise: bool = False
  terminal_step: int = 0  # the step that terminates with success; 0: never


PROBES = {
  'reward': Spec(),
  'action': Spec(reward='distance', shows_action=True),
  'wide': Spec(action_dim=5, reward='distance', shows_action=True),
  'count': Spec(reward='first', shows_action=True, shows_count=True),
  'terminal': Spec(terminal_step=5),
  'noise': Spec(reward='none', shows_noise=True),
}


def tasks() -> list[str]:
  """Returns the names of all probe environments."""
  return list(PROBES)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a probe environment; raises UserError if a camera is set."""
  if settings.camera:
    raise UserError(
      f"task 'probe_{name}' has no camera {settings.camera!r}: leave "
      'the camera empty.'
    )
  return Simulator(PROBES[name], settings.size, seed)


def read_count(image: np.ndarray) -> int:
  """Reads the step count, modulo 256, from probe_count's u8 [H, W, 3]."""
  return int(image[0, 0, 0])


def read_action(image: np.ndarray, action_dim: int) -> np.ndarray:
  """Reads the action f32 [A] from an image, to within 1/255."""
  columns = _columns(image.shape[1], action_dim)
  pixels = [np.flatnonzero(columns == i)[0] for i in range(action_dim)]
  return image[-1, pixels, 0].astype(np.float32) / 255 * 2 - 1


class Simulator:
  """Keeps a step count and the last action (zeros after a reset)."""

  state = None
  model = None

  def __init__(self, spec: Spec, size: int, seed: int):
    self._spec = spec
    self._size = size
    self.action_dim = spec.action_dim
    self.has_success = bool(spec.terminal_step)
    self.description = {'camera': '', 'flips': [], 'versions': {}}
    self.reset(seed)

  def reset(self, seed: int | None = None):
    if seed is not None:
      self._rng = np.random.default_rng(seed)
    self._count = 0
    self._action = np.zeros(self.action_dim, np.float32)
    self._sample_noise()

  def step(self, action: np.ndarray) -> core.StepResult:
    self._count += 1
    self._action = action
    self._sample_noise()
    done = self._count == self._spec.terminal_step
    return core.StepResult(self._reward(), terminal=done, success=done)

  def image(self) -> np.ndarray:
    image = np.full((self._size, self._size, 3), 128, np.uint8)
    if self._spec.shows_action:
      intensities = np.round((self._action + 1) / 2 * 255).astype(np.uint8)
      image[:] = intensities[_columns(self._size, self.action_dim)][:, None]
    if self._spec.shows_count:
      image[: self._size // 2] = self._count % 256
    if self._spec.shows_noise:
      image[:] = self._noise
    return image

  def close(self):
    """Does nothing: there are no resources to release."""

  def _sample_noise(self):
    if self._spec.shows_noise:
      shape = (self._size, self._size, 3)
      self._noise = self._rng.integers(256, size=shape, dtype=np.uint8)

  def _reward(self):
    if self._spec.reward == 'distance':
      return -float(np.mean(np.square(self._action - OPTIMUM)))
    if self._spec.reward == 'first':
      return float(self._action[0])
    if self._spec.reward == 'none':
      return 0.0
    return 1.0


def _columns(size, action_dim):
  """Returns the action dimension shown by each pixel column, int [size]."""
  return np.arange(size) * action_dim // size
