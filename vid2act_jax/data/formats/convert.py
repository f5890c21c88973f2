"""Converts episodes of other programs to the schema.

There are two alignments of actions. 'prev': row t holds the action that
preceded frame t, as in the schema. 'next': row t holds the action taken at
frame t with its reward and discount, which the schema stores at frame t + 1. A
source of 'next' actions that has as many of them as frames loses the last one,
because no frame follows it.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import actions, notes
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

Where = str | os.PathLike


@dataclasses.dataclass
class Steps:
  """An episode of T frames without its images, in the source's alignment.

  Per frame: state, is_first, is_last. The others are per row: R = T, or T - 1
  if a source of 'next' actions has none for the last frame. Any numeric dtypes.
  """

  action: Any  # [R, ...]
  reward: Any = None  # [R]; None: the source has none, zeros are stored
  discount: Any = None  # [R]; None: 0 at a terminal, else 1
  is_terminal: Any = None  # [R]; None: the last if its discount is 0
  success: Any = None  # [R]
  state: Any = None  # [T, ...]
  is_first: Any = None  # [T]; None: the first frame
  is_last: Any = None  # [T]; None: the last frame


def build_episode(
  image: np.ndarray,
  steps: Steps,
  options: Options,
  metadata: dict[str, Any],
  where: Where,
) -> dict[str, np.ndarray]:
  """Builds a valid episode of the schema.

  Args:
    image: u8 [T, H, W, 3], from `frames.prepare_images`.
    steps: the rest of the source's episode, with the alignment of `metadata`.
    options: how to convert the actions.
    metadata: of the source: 'alignment' and what is known of the actions;
      what a user should know is counted in it.
    where: name of the episode for error messages.

  Raises:
    UserError: an array is missing, not finite, out of range or of the wrong
      shape or dtype.
  """
  frames, is_prev = len(image), metadata['alignment'] == 'prev'
  action = _check_numbers(steps.action, 'action', where)
  allowed = (frames,) if is_prev else (frames, frames - 1)
  rows = len(action) if action.ndim else 0
  if rows not in allowed:
    raise UserError(
      f'{where}: has {frames} frames and {rows} actions, should have '
      f'{" or ".join(map(str, allowed))} actions; restore or remove it.'
    )
  if not is_prev:
    action = action[: frames - 1]  # The last one need not be valid.
  action = actions.convert(action, options, metadata, where)
  episode = {'image': image, 'action': _to_prev(action, frames, is_prev)}
  for key, first in (('reward', 0), ('discount', 1)):
    value = getattr(steps, key)
    if value is not None:
      value = _to_rows(value, key, where, rows)
      if key == 'discount':
        value = _round_off(value)
      episode[key] = _to_prev(value, frames, is_prev, first)
  for key in ('is_terminal', 'success'):
    value = getattr(steps, key)
    if value is not None:
      value = _to_rows(to_bools(value, key, where), key, where, rows)
      episode[key] = _to_prev(value.astype(bool), frames, is_prev)
  for key in ('is_first', 'is_last'):
    value = getattr(steps, key)
    if value is not None:
      episode[key] = to_bools(value, key, where)
  if steps.state is not None:
    episode['state'] = steps.state
  if not is_prev and rows == frames > 1 and steps.reward is not None:
    _last_reward(episode, steps.reward, options, metadata)
  _set_defaults(episode, frames)
  _check_first(episode, where)
  eps.validate(episode, where)
  return episode


def to_numbers(value: Any, key: str, where: Where) -> np.ndarray:
  """Converts numbers to f32 [T]; [T, 1] is accepted as [T].

  Raises:
    UserError: they are missing, not numbers or of another shape.
  """
  value = _check_numbers(value, key, where)
  if value.ndim == 2 and value.shape[1] == 1:
    value = value[:, 0]
  if value.ndim != 1:
    raise UserError(
      f'{where}: {key!r} has the shape {value.shape}, should be [T]; restore '
      'or remove it.'
    )
  # Values beyond float32 become infinite, which `validate` rejects.
  with np.errstate(over='ignore'):
    return value.astype(np.float32)


def to_bools(value: Any, key: str, where: Where) -> np.ndarray:
  """Converts zeros and ones of any dtype to bool [T].

  Raises:
    UserError: there are other values.
  """
  value = to_numbers(value, key, where)
  if not np.isin(value, (0, 1)).all():
    raise UserError(
      f'{where}: {key!r} should be 0 or 1 everywhere; restore or remove it.'
    )
  return value.astype(bool)


def to_state(
  value: Any, frames: int, required: bool, where: Where
) -> np.ndarray | None:
  """Converts state to f32 [T, S].

  Args:
    value: [T, ...].
    frames: T.
    required: whether the user has named it.
    where: name of the episode for error messages.

  Returns:
    None if it does not fit the schema and is not required.

  Raises:
    UserError: it does not fit the schema and is required.
  """
  value = np.asarray(value)
  fits = value.dtype.kind in 'biuf' and value.size and len(value) == frames
  if fits:
    with np.errstate(over='ignore'):
      value = value.reshape(frames, -1).astype(np.float32)
    if required or np.isfinite(value).all():
      return value  # `validate` rejects it if it is not finite.
    return None
  if required:
    raise UserError(
      f'{where}: the state is {value.dtype} of the shape {value.shape}, should '
      f'be numbers of {frames} rows; choose another with --state-key, or leave '
      'it out.'
    )
  return None


def join(arrays: Sequence[Any], key: str, where: Where) -> Any:
  """Joins arrays [R, ...] to [R, N]; a single one is not changed.

  Raises:
    UserError: they have other types than numbers, or other lengths.
  """
  if len(arrays) == 1:
    return arrays[0]
  arrays = [_check_numbers(array, key, where) for array in arrays]
  lengths = [len(array) if array.ndim else 0 for array in arrays]
  if len({*lengths}) > 1 or not lengths[0]:
    raise UserError(
      f'{where}: the arrays of {key!r} have {lengths} rows; name others.'
    )
  flat = [array.reshape(lengths[0], -1) for array in arrays]
  return np.concatenate(flat, 1)


def _check_numbers(value, key, where):
  if value is None:
    raise UserError(f'{where}: {key!r} is missing; restore or remove it.')
  value = np.asarray(value)
  if value.dtype.kind not in 'biuf':
    raise UserError(
      f'{where}: {key!r} is {value.dtype}, should be numbers; restore or '
      'remove it.'
    )
  return value


def _to_rows(value, key, where, rows):
  value = to_numbers(value, key, where)
  if len(value) != rows:
    raise UserError(
      f'{where}: {key!r} has {len(value)} rows, the actions {rows}; restore or '
      'remove it.'
    )
  return value


def _to_prev(value, frames, is_prev, first=0):
  """Aligns rows with the frames that follow them (prev_action)."""
  if is_prev:
    return value
  shifted = np.full((frames, *value.shape[1:]), first, value.dtype)
  shifted[1:] = value[: frames - 1]
  return shifted


def _round_off(discount):
  """Clips what leaves [0, 1] by a rounding error."""
  clipped = discount.clip(0, 1)
  near = np.abs(clipped - discount) <= eps.ACTION_SLACK
  return np.where(near, clipped, discount)


def _last_reward(episode, reward, options, metadata):
  """Keeps or counts the reward of the last action, which no frame follows."""
  last = np.nan_to_num(np.asarray(reward, np.float32).reshape(-1)[-1])
  if options.repairs.keep_last_reward:
    episode['reward'][-1] += last
  elif last and not episode['reward'].any():
    notes.count(metadata, 'last_rewards')


def _set_defaults(episode, frames):
  """Adds arrays that the source does not have."""
  frame = np.arange(frames)
  episode.setdefault('reward', np.zeros(frames, np.float32))
  episode.setdefault('is_first', frame == 0)
  episode.setdefault('is_last', frame == frames - 1)
  if 'is_terminal' not in episode:
    discount = episode.get('discount', np.ones(frames))
    episode['is_terminal'] = (frame == frames - 1) & (discount == 0)
  episode.setdefault('discount', 1 - episode['is_terminal'].astype(np.float32))


def _check_first(episode, where):
  for key in ('action', 'reward'):
    if np.nan_to_num(episode[key][0]).any():
      raise UserError(
        f'{where}: {key!r} is not zero at frame 0, which no action precedes; '
        'if the source stores the actions taken at the frames, pass '
        '--align next.'
      )
