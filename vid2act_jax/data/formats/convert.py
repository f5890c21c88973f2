"""Making episodes of the schema from what other programs keep.

They keep actions in one of two ways. 'led': row t holds the action that led to
frame t, as in our schema. 'at': row t holds the action taken at frame t and
what came of it, and belongs to frame t + 1. An 'at' source with as many actions
as frames loses the last one: no frame follows it.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import limits
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

Where = str | os.PathLike


@dataclasses.dataclass
class Steps:
  """What a source says of an episode of T frames, in its own alignment.

  Of the frames: image, state, is_first, is_last. The others are of the rows,
  R = T, or T - 1 where an 'at' source has no action for the last frame.
  Numbers of any type.
  """

  image: np.ndarray  # u8 [T, H, W, 3], from `prepare`
  action: Any  # [R, A]
  reward: Any = None  # [R]; None: zeros
  discount: Any = None  # [R]; None: 0 at a true end, else 1
  is_terminal: Any = None  # [R]; None: the last where its discount is 0
  success: Any = None  # [R]
  state: Any = None  # [T, S]
  is_first: Any = None  # [T]; None: the first
  is_last: Any = None  # [T]; None: the last


def prepare(
  frames: Iterable[np.ndarray], options: Options, where: Where
) -> np.ndarray:
  """Checks, resizes and flips frames, one at a time.

  Args:
    frames: u8 [H, W, 3] or [3, H, W] each.
    options: the size and the flips.
    where: what the message calls the episode.

  Returns:
    u8 [T, size, size, 3].

  Raises:
    UserError: there are none or too many, one is not an RGB image of bytes,
      or it is not square and no size is asked for.
  """
  done, size = [], 0
  for frame in frames:
    done.append(_prepare_frame(frame, options, where))
    size += done[-1].nbytes
    if size > limits.MOST_BYTES:
      raise UserError(
        f'{where}: its frames take more than {limits.MOST_BYTES / 1e9:.3g} GB;'
        ' squeeze them by --size 64, or cut it into shorter episodes.'
      )
  if not done:
    raise UserError(f'{where}: holds no frames; restore or remove it.')
  return np.stack(done)


def build(
  steps: Steps, options: Options, about: Mapping, where: Where
) -> dict[str, np.ndarray]:
  """Makes a valid episode of the schema.

  Args:
    steps: what the source holds, aligned as `about` says.
    options: whether to scale the actions.
    about: of the source: 'alignment' and, where known, the action bounds.
    where: what the messages call the episode.

  Raises:
    UserError: something is missing, not finite, out of range or of the wrong
      shape or type.
  """
  frames, led = len(steps.image), about['alignment'] == 'led'
  action = numbers(steps.action, 'action', where, 2)
  allowed = (frames,) if led else (frames, frames - 1)
  if len(action) not in allowed:
    raise UserError(
      f'{where}: has {frames} frames and {len(action)} actions, should have '
      f'{" or ".join(map(str, allowed))} actions; restore or remove it.'
    )
  episode = {
    'image': steps.image,
    'action': _to_led(_scale(action, options, about, where), frames, led),
  }
  for key, first in (('reward', 0), ('discount', 1)):
    value = getattr(steps, key)
    if value is not None:
      value = _rows(value, key, where, len(action))
      episode[key] = _to_led(value, frames, led, first)
  for key in ('is_terminal', 'success'):
    value = getattr(steps, key)
    if value is not None:
      value = _rows(truths(value, key, where), key, where, len(action))
      episode[key] = _to_led(value.astype(bool), frames, led)
  for key in ('is_first', 'is_last'):
    value = getattr(steps, key)
    if value is not None:
      episode[key] = truths(value, key, where)
  if steps.state is not None:
    episode['state'] = steps.state
  _fill(episode, frames)
  _check_first(episode, where)
  eps.validate(episode, where)
  return episode


def numbers(value: Any, key: str, where: Where, ndim: int) -> np.ndarray:
  """Numbers of any type as f32 [T] or [T, N]; [T, 1] passes for [T].

  Raises:
    UserError: they are missing, not numbers or of another shape.
  """
  if value is None:
    raise UserError(f'{where}: {key!r} is missing; restore or remove it.')
  value = np.asarray(value)
  if value.dtype.kind not in 'biuf':
    raise UserError(
      f'{where}: {key!r} is {value.dtype}, should be numbers; restore or '
      'remove it.'
    )
  if ndim == 1 and value.ndim == 2 and value.shape[1] == 1:
    value = value[:, 0]
  if value.ndim != ndim:
    raise UserError(
      f'{where}: {key!r} has the shape {value.shape}, should be '
      f'{"[T]" if ndim == 1 else "[T, N]"}; restore or remove it.'
    )
  # What float32 cannot hold becomes infinite, and is refused as such.
  with np.errstate(over='ignore'):
    return value.astype(np.float32)


def truths(value: Any, key: str, where: Where) -> np.ndarray:
  """Zeros and ones of any type as bool [T].

  Raises:
    UserError: there are other numbers among them.
  """
  value = numbers(value, key, where, 1)
  if not np.isin(value, (0, 1)).all():
    raise UserError(
      f'{where}: {key!r} should be 0 or 1 everywhere; restore or remove it.'
    )
  return value.astype(bool)


def fit_state(value: Any, frames: int) -> np.ndarray | None:
  """State as f32 [T, S]; None where the schema has no place for it."""
  value = np.asarray(value)
  fits = value.dtype.kind in 'iuf' and value.ndim == 2 and value.shape[1] > 0
  return value.astype(np.float32) if fits and len(value) == frames else None


def _prepare_frame(frame, options, where):
  if frame.dtype != np.uint8:
    raise UserError(
      f"{where}: 'image' is {frame.dtype}, should be uint8; convert it first."
    )
  if frame.ndim == 3 and frame.shape[2] != 3 and frame.shape[0] == 3:
    frame = np.moveaxis(frame, 0, 2)
  if frame.ndim != 3 or frame.shape[2] != 3:
    raise UserError(
      f"{where}: a frame of 'image' has the shape {frame.shape}, should be "
      '[H, W, 3]; choose another image with --image-key.'
    )
  height, width = frame.shape[:2]
  if not frame.size or (height != width and options.size is None):
    raise UserError(
      f"{where}: 'image' is {height}x{width}, should be square; squeeze it by "
      '--size 64, or crop it first.'
    )
  if options.size and (height, width) != (options.size, options.size):
    # Every pixel is the mean of the area it covers: small things stay visible.
    image = Image.fromarray(np.ascontiguousarray(frame))
    size = (options.size, options.size)
    frame = np.asarray(image.resize(size, Image.Resampling.BOX))
  if 'vertical' in options.flips:
    frame = frame[::-1]
  if 'horizontal' in options.flips:
    frame = frame[:, ::-1]
  return frame


def _rows(value, key, where, rows):
  value = numbers(value, key, where, 1)
  if len(value) != rows:
    raise UserError(
      f'{where}: {key!r} has {len(value)} rows, the actions {rows}; restore or '
      'remove it.'
    )
  return value


def _to_led(value, frames, led, first=0):
  """Rows of either alignment as those that led to the frames."""
  if led:
    return value
  shifted = np.full((frames, *value.shape[1:]), first, value.dtype)
  shifted[1:] = value[: frames - 1]
  return shifted


def _scale(action, options, about, where):
  low, high = about.get('action_low'), about.get('action_high')
  if options.scale_actions:
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    if low.shape != action.shape[1:]:
      raise UserError(
        f"{where}: 'action' has {action.shape[1]} dimensions, the bounds "
        f'{low.size}; leave --scale-actions out.'
      )
    # A number that never changes says nothing: it becomes 0.
    span = np.where(high > low, high - low, np.inf)
    scaled = (2 * (action - (low + high) / 2) / span).astype(np.float32)
    # Where the bounds are those already, not a bit is to change.
    scaled = np.where((low == -1) & (high == 1), action, scaled)
    if about['alignment'] == 'led':
      scaled[:1] = action[:1]  # There was none.
    action, way = scaled, 'the bounds that the source declares do not hold'
  elif low is not None:
    way = f'pass --scale-actions to map {low} to {high} there'
  else:
    way = 'scale the source first'
  if (np.abs(action[np.isfinite(action)]) > 1 + eps.ACTION_SLACK).any():
    raise UserError(
      f"{where}: 'action' runs from {action.min():g} to {action.max():g}, "
      f'should stay within [-1, 1]; {way}.'
    )
  return action


def _fill(episode, frames):
  """What the source says nothing of."""
  at = np.arange(frames)
  episode.setdefault('reward', np.zeros(frames, np.float32))
  episode.setdefault('is_first', at == 0)
  episode.setdefault('is_last', at == frames - 1)
  if 'is_terminal' not in episode:
    discount = episode.get('discount', np.ones(frames))
    episode['is_terminal'] = (at == frames - 1) & (discount == 0)
  episode.setdefault('discount', 1 - episode['is_terminal'].astype(np.float32))


def _check_first(episode, where):
  for key in ('action', 'reward'):
    if np.nan_to_num(episode[key][0]).any():
      raise UserError(
        f'{where}: {key!r} is not zero at frame 0, to which no action led; '
        'where the source keeps the actions taken AT the frames, pass '
        '--align at.'
      )
