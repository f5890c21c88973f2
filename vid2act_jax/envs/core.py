"""What every suite shares: settings, action repeat, time limit, flags."""

import dataclasses
from typing import Protocol

import numpy as np

from vid2act_jax.types import UserError

QUALITIES = ('standard', 'fast')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a task is shown and stepped.

  size: side of the square picture, pixels.
  action_repeat: simulator control steps ("env steps") per agent step.
  time_limit: env steps per episode; a suite's own shorter limit holds too.
  camera: name or number of the task's camera; '' is the task's own choice.
  quality: 'standard', the suite's own picture, or 'fast', without shadows,
    reflections and multisampling.

  Raises UserError for values out of range.
  """

  size: int = 64
  action_repeat: int = 2
  time_limit: int = 1000
  camera: str = ''
  quality: str = 'standard'

  def __post_init__(self):
    for key in ('size', 'action_repeat', 'time_limit'):
      if getattr(self, key) < 1:
        raise UserError(
          f'environment setting {key}={getattr(self, key)}: '
          'it must be at least 1.'
        )
    if self.quality not in QUALITIES:
      raise UserError(
        f'environment setting quality={self.quality!r}: '
        f'choose one of {", ".join(QUALITIES)}.'
      )


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one simulator control step gave."""

  reward: float
  terminal: bool = False  # the task ended: no value beyond this state
  truncated: bool = False  # the suite's own time limit
  success: bool = False  # read only where the simulator has_success


class Simulator(Protocol):
  """What a suite provides; `Env` makes an environment of it."""

  action_dim: int
  has_success: bool
  description: dict  # the suite's part of the metadata, fit for JSON
  state: np.ndarray | None  # f32 [S], what scripted policies read
  model: object | None  # MuJoCo's MjModel, where it has one

  def reset(self, seed: int | None = None) -> None:
    """Starts an episode; a seed, 0 to 2**32 - 1, restarts what is random."""

  def step(self, action: np.ndarray) -> Outcome:
    """Takes one control step; action f32 [A] in [-1, 1]."""

  def image(self) -> np.ndarray:
    """Returns the picture of the present state, u8 [H, W, 3]."""

  def close(self) -> None:
    """Gives the renderer back."""


class Env:
  """One task from pixels.

  Observations are flat dicts: image u8 [H, W, 3]; reward and discount f32 ();
  is_first, is_last, is_terminal bool (); success bool () where the task
  defines it; state f32 [S] where the suite has scripted policies. The reward
  is the sum over the repeated control steps; success, whether any of them
  succeeded. An environment belongs to the thread that made it, as its
  graphics context does.
  """

  def __init__(self, task: str, settings: Settings, simulator: Simulator):
    self.task = task
    self.action_dim = simulator.action_dim
    self.description = {
      'task': task,
      'action_dim': simulator.action_dim,
      'size': settings.size,
      'action_repeat': settings.action_repeat,
      'time_limit': settings.time_limit,
      'quality': settings.quality,
      **simulator.description,
    }
    self._settings = settings
    self._simulator = simulator
    self._steps = 0
    self._ended = True

  @property
  def state(self) -> np.ndarray | None:
    """The suite's state observation, f32 [S], or None where it has none."""
    return self._simulator.state

  def reset(self, seed: int | None = None) -> dict[str, np.ndarray]:
    """Starts an episode: reward 0, discount 1, is_first True.

    Args:
      seed: of this episode and, until another is given, those that follow,
        0 to 2**32 - 1; None goes on with the last one's random numbers.
    """
    self._simulator.reset(seed)
    self._steps = 0
    self._ended = False
    return self._observe(0.0, Outcome(0.0), False, first=True)

  def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
    """Repeats an action and observes once.

    Args:
      action: f32 [A]; clipped to [-1, 1].

    Raises:
      ValueError: for an action of another shape, or not finite.
      RuntimeError: when the episode is over (or never began).
    """
    if self._ended:
      raise RuntimeError(f'{self.task}: the episode is over; call reset().')
    action = self._checked(action)
    reward, success = 0.0, False
    for _ in range(self._settings.action_repeat):
      outcome = self._simulator.step(action)
      self._steps += 1
      reward += outcome.reward
      success |= outcome.success
      over = outcome.truncated or self._steps >= self._settings.time_limit
      self._ended = outcome.terminal or over
      if self._ended:
        break
    return self._observe(reward, outcome, success)

  def close(self):
    """Gives the renderer back; closing twice is fine."""
    self._simulator.close()

  def _checked(self, action):
    action = np.asarray(action, np.float32)
    if action.shape != (self.action_dim,):
      raise ValueError(
        f'{self.task}: an action has shape ({self.action_dim},), '
        f'got {action.shape}.'
      )
    if not np.isfinite(action).all():
      raise ValueError(f'{self.task}: the action is not finite: {action}.')
    return action.clip(-1, 1)

  def _observe(self, reward, outcome, success, first=False):
    obs = {
      'image': self._simulator.image(),
      'reward': np.float32(reward),
      'discount': np.float32(not outcome.terminal),
      'is_first': np.bool_(first),
      'is_last': np.bool_(self._ended),
      'is_terminal': np.bool_(outcome.terminal),
    }
    if self._simulator.has_success:
      obs['success'] = np.bool_(success)
    if self._simulator.state is not None:
      obs['state'] = self._simulator.state
    return obs
