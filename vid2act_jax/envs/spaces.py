"""Actions and pictures in the spaces that gymnasium environments declare."""

import numpy as np
from gymnasium import spaces

from vid2act_jax.data.formats.actions import box_bounds
from vid2act_jax.envs.actions import ActionSpec
from vid2act_jax.types import UserError

_IMAGE_KEYS = ('image', 'pixels')


def action_spec(task: str, space: spaces.Space | None) -> ActionSpec:
  """Returns the actions of a space; UserError if they are not supported."""
  if isinstance(space, spaces.Discrete):
    return ActionSpec.discrete(int(space.n), int(space.start))
  if not isinstance(space, spaces.Box):
    raise UserError(
      f'task {task!r} has the action space {space}: wrap it so that it is a '
      'Box or a Discrete.'
    )
  low, high = box_bounds(space.low, space.high)
  if not low.size or not np.all(low <= high):  # Also false for nan.
    raise UserError(
      f'task {task!r} has the action space {space}: it must have at least one '
      'entry, and bounds that are numbers.'
    )
  return ActionSpec.box(low, high, str(space.dtype))


def image_key(space: spaces.Space | None) -> str | None:
  """Returns '' for the observation itself, the key of an entry, or None."""
  if _is_image(space):
    return ''
  if not isinstance(space, spaces.Dict):
    return None
  keys = [key for key, entry in space.items() if _is_image(entry)]
  preferred = [key for key in _IMAGE_KEYS if key in keys]
  if preferred or len(keys) == 1:
    return (preferred or keys)[0]
  return None


def _is_image(space):
  return (
    isinstance(space, spaces.Box)
    and space.dtype == np.uint8
    and len(space.shape) == 3
    and space.shape[-1] == 3
    and space.high.max(initial=0) == 255  # Symbols have fewer values.
  )
