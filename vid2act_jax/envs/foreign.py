"""Checks every value that other people's environments return.

Values with one clear meaning are accepted: numbers of any kind, also in arrays
of one entry, and 0 and 1 as flags. Everything else is a UserError with the name
of the task and of what it must return.
"""

import contextlib
import pathlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from vid2act_jax.envs import core, frames
from vid2act_jax.types import UserError

SUCCESS_KEYS = ('success', 'is_success')
RESET = 'reset(*, seed=None, options=None) must return (observation, info)'
STEP = (
  'step(action) must return (observation, reward, terminated, truncated, info)'
)
FRAME = 'a frame u8 [H, W, 3]'
RENDER = f'render() must return {FRAME}'
_LARGEST = float(np.finfo(np.float32).max)
_MAX_ERROR = 200  # Characters of an environment's own message.


class Step(NamedTuple):
  """The checked result of a step."""

  obs: Any
  reward: float
  terminated: bool
  truncated: bool
  info: Mapping


@contextlib.contextmanager
def user_errors(task: str, what: str, rule: str = '') -> Iterator[None]:
  """Raises a UserError in place of an error of the task's code.

  Args:
    task: its name.
    what: the code that runs, such as 'step()'.
    rule: what it must do.
  """
  try:
    yield
  except Exception as error:
    raise _to_user_error(error, task, what, rule) from error


def _to_user_error(error, task, what, rule):
  if isinstance(error, UserError):
    return error
  absent = ImportError, gymnasium.error.DependencyNotInstalled
  if isinstance(error, absent):
    return UserError(
      f'task {task!r} needs something that cannot be imported ({error}): '
      'install it, or start in a folder where Python finds it.'
    )
  text = ' '.join(str(error).split())[:_MAX_ERROR]
  # A missing argument or method breaks the rule.
  broken = rule and isinstance(error, TypeError | NotImplementedError)
  return UserError(
    f'task {task!r}: {what} raised {type(error).__name__}'
    f'{": " if text else ""}{text}{_location(error)}; '
    f'{rule if broken else "correct it there"}.'
  )


class CheckedEnv:
  """A gymnasium environment whose return values are checked at every call."""

  def __init__(self, task: str, env: gymnasium.Env):
    self.env = env
    self._task = task
    self._steps = 0

  def reset(self, seed: int | None) -> Any:
    """Starts an episode; returns the observation."""
    self._steps = 0
    result = self._call('reset()', RESET, self.env.reset, seed=seed)
    if not isinstance(result, tuple | list) or len(result) != 2:
      raise self._error(f'reset() returned {_count(result)}', RESET)
    obs, info = result
    self._check_info(info, 'reset()', RESET)
    return obs

  def step(self, action: np.ndarray) -> Step:
    """Takes an own action of the environment."""
    self._steps += 1
    result = self._call('step()', STEP, self.env.step, action)
    if not isinstance(result, tuple | list) or len(result) != 5:
      raise self._error(f'step() returned {_count(result)}', STEP)
    obs, reward, terminated, truncated, info = result
    self._check_info(info, 'step()', STEP)
    return Step(
      obs,
      self._reward(reward),
      self._flag(terminated, 'terminated'),
      self._flag(truncated, 'truncated'),
      info,
    )

  def success(self, info: Mapping, key: str) -> bool:
    """Reads info[key]; missing and None are False."""
    value = info.get(key)
    return False if value is None else self._flag(value, f'info[{key!r}]')

  def frame(self, obs: Any, key: str | None) -> np.ndarray:
    """Returns the current frame, u8 [H, W, 3]; it may be reused by a step.

    Args:
      obs: the observation.
      key: of its entry; '': the observation itself; None: that of `render`.
    """
    if key is None:
      frame = self._call('render()', RENDER, self.env.render)
    elif key:
      known = isinstance(obs, Mapping) and key in obs
      if not known:
        raise self._error(
          f'the observation has no {key!r}',
          f'it must have {FRAME} there, as in its observation_space',
        )
      frame = obs[key]
    else:
      frame = obs
    if not isinstance(frame, np.ndarray) and hasattr(frame, '__array__'):
      frame = self._call('the frame', '', np.asarray, frame)
    if not frames.is_frame(frame):
      raise self._frame_error(frame, key)
    return frame

  def close(self) -> None:
    """Closes the environment; its error is only a warning."""
    try:
      self._call('close()', '', self.env.close)
    except UserError as error:
      warnings.warn(str(error), core.EnvWarning, stacklevel=2)

  def _call(self, what: str, rule: str, fn: Callable, *args, **kwargs):
    try:  # Faster than `user_errors`; this runs at every step.
      return fn(*args, **kwargs)
    except Exception as error:
      raise _to_user_error(error, self._task, what, rule) from error

  def _check_info(self, info, what, rule):
    if not isinstance(info, dict) and not isinstance(info, Mapping):
      kind = 'None' if info is None else f'a {type(info).__name__}'
      raise self._error(f'{what} returned {kind} as info', f'{rule}: a dict')

  def _reward(self, value):
    number = _number(value)
    # Also false for nan.
    if number is None or not abs(number) <= _LARGEST:
      raise self._error(
        f'step() returned the reward {_short(value)}',
        'it must be a finite number, in float32',
      )
    return float(number)

  def _flag(self, value, name):
    if value is True or value is False:
      return value
    number = _number(value)
    if number not in (0, 1):
      raise self._error(f'{name} is {_short(value)}', 'it must be a bool')
    return bool(number)

  def _frame_error(self, frame, key):
    found = frames.describe(frame)
    if key is None:
      return UserError(
        f'task {self._task!r} renders no frame{self._where()}: render() '
        f"returned {found}; with render_mode 'rgb_array' it must return {FRAME}"
        ' at every step.'
      )
    name = f'its observation {key!r}' if key else 'its observation'
    return self._error(
      f'{name} is {found}', f'it must be {FRAME} at every step'
    )

  def _error(self, found, rule):
    return UserError(f'task {self._task!r}: {found}{self._where()}; {rule}.')

  def _where(self):
    return f' at step {self._steps} of an episode' if self._steps else ''


def _number(value):
  """Returns a Python number, or None if this is not one number."""
  if isinstance(value, float | int | np.bool_):
    return value
  try:
    array = np.asarray(value)
  except Exception:  # Of lists in lists, or of another library's tensor.
    return None
  if array.size != 1 or array.dtype.kind not in 'biuf':
    return None
  return array.item()


def _count(result):
  if isinstance(result, tuple | list):
    return f'{len(result)} values'
  return f'one value of type {type(result).__name__}'


def _short(value):
  return ' '.join(repr(value).split())[:60]


def _location(error):
  """Returns ' (file:line)' of the innermost line of the task's own code."""
  own = pathlib.Path(__file__).parent
  places = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if own not in pathlib.Path(frame.filename).parents
    and not frame.filename.startswith('<')
  ]
  if not places:
    return ''
  outside = [x for x in places if 'site-packages' not in x.filename]
  place = (outside or places)[-1]
  return f' ({place.filename}, line {place.lineno})'
