"""Shared by all suites: settings, action repeat, time limit, flags."""

import dataclasses
from typing import Protocol

import numpy as np

from vid2act_jax.envs.actions import ActionSpec
from vid2act_jax.types import UserError

QUALITIES = ('standard', 'fast')


class EnvWarning(UserWarning):
  """An environment works, but probably not as intended."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a task is rendered and stepped.

  size: side of the square image, pixels.
  action_repeat: simulator control steps ("env steps") per agent step.
  time_limit: env steps per episode; a suite's shorter limit also applies.
  camera: name or number of the task's camera; '': the task's default.
  quality: 'standard', the suite's default rendering, or 'fast', without
    shadows, reflections and multisampling.

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
          f'environment setting {key}={getattr(self, key)}: must be at least 1.'
        )
    if self.quality not in QUALITIES:
      raise UserError(
        f'environment setting quality={self.quality!r}: '
        f'choose one of {", ".join(QUALITIES)}.'
      )


@dataclasses.dataclass(frozen=True)
class StepResult:
  """The result of one simulator control step."""

  reward: float
  terminal: bool = False  # a true terminal state: its value is 0
  truncated: bool = False  # the suite's time limit
  success: bool = False  # read only where the simulator has_success


@dataclasses.dataclass(frozen=True)
class Interface:
  """How to act in an environment without this package.

  actions: its own actions.
  image_key: the entry of its observations that is the image; '': the
    observation itself; None: neither, the image is rendered.
  resizes: whether images of any size are resized; otherwise they are rendered
    at their size.
  """

  actions: ActionSpec
  image_key: str | None = None
  resizes: bool = False

  @classmethod
  def from_dict(cls, values: dict) -> 'Interface':
    """Inverts `dataclasses.asdict`, also after JSON.

    Raises:
      KeyError, TypeError, AttributeError: the values are not those of an
        interface.
    """
    actions = ActionSpec.from_dict(values['actions'])
    return cls(**{**values, 'actions': actions})


class Simulator(Protocol):
  """The interface that a suite implements and `Env` wraps."""

  action_dim: int
  has_success: bool
  description: dict  # the suite's part of the metadata, JSON-serializable
  state: np.ndarray | None  # f32 [S], the input of scripted policies
  model: object | None  # MuJoCo's MjModel, if any
  # Optional: `actions`, `image_key` and `resizes`, as in `Interface`.

  def reset(self, seed: int | None = None) -> None:
    """Starts an episode; a seed, 0 to 2**32 - 1, reseeds the generator."""

  def step(self, action: np.ndarray) -> StepResult:
    """Takes one control step; action f32 [A] in [-1, 1]."""

  def image(self) -> np.ndarray:
    """Renders the current state, u8 [H, W, 3]."""

  def close(self) -> None:
    """Releases the renderer."""


class Env:
  """A pixel environment for one task.

  Observations are flat dicts: image u8 [H, W, 3]; reward and discount f32 ();
  is_first, is_last, is_terminal bool (); success bool () where the task
  defines it; state f32 [S] where the suite has scripted policies. The reward
  is the sum over the repeated control steps; success is whether any of them
  succeeded. An environment can only be used in the thread that made it, because
  of its graphics context.
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
    self._done = True

  @property
  def actions(self) -> ActionSpec:
    """The environment's own actions, which [-1, 1] is mapped to."""
    own = getattr(self._simulator, 'actions', None)
    return own or ActionSpec.normalized(self.action_dim)

  @property
  def interface(self) -> Interface:
    """How to act in the environment without this package."""
    image_key = getattr(self._simulator, 'image_key', None)
    resizes = getattr(self._simulator, 'resizes', False)
    return Interface(self.actions, image_key, resizes)

  @property
  def state(self) -> np.ndarray | None:
    """The suite's state observation, f32 [S], or None."""
    return self._simulator.state

  def named_state(self) -> dict[str, np.ndarray] | None:
    """Returns the current state by name, for state policies.

    Unlike `state`, it is computed only on request and is not part of the
    observations.

    Returns:
      Arrays of floats of any shape, in the suite's order; None if the suite
      has no states.
    """
    named_state = getattr(self._simulator, 'named_state', None)
    return named_state() if named_state else None

  def reset(self, seed: int | None = None) -> dict[str, np.ndarray]:
    """Starts an episode: reward 0, discount 1, is_first True.

    Args:
      seed: seed of the generator for this and the following episodes, 0 to
        2**32 - 1; None: continue with the current generator state.
    """
    self._simulator.reset(seed)
    self._steps = 0
    self._done = False
    return self._observe(0.0, StepResult(0.0), False, first=True)

  def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
    """Repeats an action and returns one observation.

    Args:
      action: f32 [A]; clipped to [-1, 1].

    Raises:
      As `advance`.
    """
    result = self.advance(action)
    return self._observe(result.reward, result, result.success)

  def advance(self, action: np.ndarray) -> StepResult:
    """Repeats an action without rendering, as `step` does.

    Args:
      action: f32 [A]; clipped to [-1, 1].

    Returns:
      The sum of the rewards, and whether the episode ended or was a success.

    Raises:
      ValueError: the action has the wrong shape or is not finite.
      RuntimeError: the episode is over, or `reset` was never called.
    """
    if self._done:
      raise RuntimeError(f'{self.task}: the episode is over; call reset().')
    action = self._check_action(action)
    reward, success = 0.0, False
    for _ in range(self._settings.action_repeat):
      result = self._simulator.step(action)
      self._steps += 1
      reward += result.reward
      success |= result.success
      truncated = result.truncated or self._steps >= self._settings.time_limit
      self._done = result.terminal or truncated
      if self._done:
        break
    truncated = truncated and not result.terminal
    return StepResult(reward, result.terminal, truncated, success)

  def close(self):
    """Releases the renderer; may be called twice."""
    self._simulator.close()

  def _check_action(self, action):
    action = np.asarray(action, np.float32)
    if action.shape != (self.action_dim,):
      raise ValueError(
        f'{self.task}: the action must have shape ({self.action_dim},), '
        f'got {action.shape}.'
      )
    if not np.isfinite(action).all():
      raise ValueError(f'{self.task}: the action is not finite: {action}.')
    return action.clip(-1, 1)

  def _observe(self, reward, result, success, first=False):
    obs = {
      'image': self._simulator.image(),
      'reward': np.float32(reward),
      'discount': np.float32(not result.terminal),
      'is_first': np.bool_(first),
      'is_last': np.bool_(self._done),
      'is_terminal': np.bool_(result.terminal),
    }
    if self._simulator.has_success:
      obs['success'] = np.bool_(success)
    if self._simulator.state is not None:
      obs['state'] = self._simulator.state
    return obs
