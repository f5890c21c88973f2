"""Converts actions of other programs to f32 [R, A] in [-1, 1].

As for environments: a Box of any shape is flattened, an index of a Discrete
with n actions becomes n numbers, of which the largest marks the action.
"""

import math
import os
from typing import Any

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import notes
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

_MAX_ACTIONS = 10_000  # Of a Discrete.


def convert(
  value: np.ndarray,
  options: Options,
  metadata: dict[str, Any],
  where: str | os.PathLike,
) -> np.ndarray:
  """Converts the actions of an episode.

  Args:
    value: numbers [R] or [R, ...].
    options: whether they are indices, are scaled and are clipped.
    metadata: of the source; clipped values are counted in it.
    where: name of the episode for error messages.

  Raises:
    UserError: they are out of range, or may be indices.
  """
  if not value.ndim:
    raise UserError(f"{where}: 'action' is one number; restore or remove it.")
  count = metadata.get('num_actions') or options.discrete_actions
  if count and options.scale_actions:
    raise UserError(
      f"{where}: 'action' is an index of {count} actions, which has no scale; "
      'leave --scale-actions out.'
    )
  if count:
    return _one_hot(value, count, metadata, where)
  flat = value.reshape(len(value), math.prod(value.shape[1:]))
  if value.dtype.kind in 'iu' and flat.shape[1] == 1 and (flat >= 0).all():
    # 0 and 1 would pass as numbers in [-1, 1].
    raise UserError(
      f"{where}: 'action' holds one integer from 0 to {flat.max(initial=0)} in "
      'each row; if they are indices of N actions, pass --discrete-actions N, '
      'else save them as floats.'
    )
  # Values beyond float32 become infinite, which `validate` rejects.
  with np.errstate(over='ignore'):
    action = flat.astype(np.float32)
  if options.scale_actions:
    action = _scale(action, metadata, where)
  if options.repairs.clip_actions:
    clipped = np.where(np.isfinite(action), action.clip(-1, 1), action)
    outside = np.abs(action) > 1 + eps.ACTION_SLACK
    notes.count(metadata, 'actions', action.size)
    notes.count(metadata, 'clipped_actions', int(outside.sum()))
    return clipped
  _check_range(action, options, metadata, where)
  return action


def box_bounds(
  low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The values of a Box that -1 and 1 stand for.

  Args:
    low, high: the bounds, [...]; either may be infinite.

  Returns:
    Finite bounds, f64; without a bound, -1 and 1; with one, 2 apart.
  """
  largest = np.finfo(np.float32).max  # Some use this for "unbounded".
  low, high = low.astype(np.float64), high.astype(np.float64)
  low_unbounded, high_unbounded = low <= -largest, high >= largest
  low = np.where(low_unbounded, np.where(high_unbounded, -1, high - 2), low)
  return low, np.where(high_unbounded, low + 2, high)


def _one_hot(value, count, metadata, where):
  first = metadata.get('first_action', 0)
  if count > _MAX_ACTIONS:
    raise UserError(
      f'{where}: {count} discrete actions, at most {_MAX_ACTIONS} can be '
      'imported; choose another dataset.'
    )
  if value.size != len(value):
    raise UserError(
      f"{where}: 'action' has the shape {value.shape}, should be one index in "
      'each row; leave --discrete-actions out.'
    )
  value = value.reshape(len(value))
  if not np.isin(value, first + np.arange(count)).all():
    raise UserError(
      f"{where}: 'action' runs from {value.min():g} to {value.max():g}, should "
      f'be an index from {first} to {first + count - 1}; pass the number of '
      'actions with --discrete-actions.'
    )
  out = np.eye(count, dtype=np.float32)[value.astype(int) - first]
  if metadata['alignment'] == 'prev' and not value[:1].any():
    out[:1] = 0  # No action precedes the first frame.
  return out


def _scale(action, metadata, where):
  """Maps the bounds to -1 and 1."""
  low = np.array(metadata['action_low'], np.float64)
  high = np.array(metadata['action_high'], np.float64)
  if low.shape != action.shape[1:]:
    raise UserError(
      f"{where}: 'action' has {action.shape[1]} dimensions, the bounds "
      f'{low.size}; leave --scale-actions out.'
    )
  # A dimension that is constant becomes 0.
  span = np.where(high > low, high - low, np.inf)
  scaled = (2 * (action - (low + high) / 2) / span).astype(np.float32)
  # If the bounds are already -1 and 1, the values stay bit for bit.
  scaled = np.where((low == -1) & (high == 1), action, scaled)
  if metadata['alignment'] == 'prev':
    scaled[:1] = action[:1]  # No action precedes the first frame.
  return scaled


def _check_range(action, options, metadata, where):
  finite = action[np.isfinite(action)]
  if not (np.abs(finite) > 1 + eps.ACTION_SLACK).any():
    return
  low, high = metadata.get('action_low'), metadata.get('action_high')
  clip = 'pass --clip-actions to clip them'
  if options.scale_actions:
    hint = f'they leave the bounds that the source declares; {clip}'
  elif low is not None and ({*low} != {-1} or {*high} != {1}):
    hint = (
      f'pass --scale-actions to map {low} to {high} to [-1, 1], or '
      '--clip-actions to clip them'
    )
  else:
    hint = f'{clip}, or scale the source first'
  raise UserError(
    f"{where}: 'action' runs from {finite.min():g} to {finite.max():g}, "
    f'should stay within [-1, 1]; {hint}.'
  )
