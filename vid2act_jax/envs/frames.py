"""Frames of environments: their size, and whether they show anything."""

import numpy as np
from PIL import Image

MIN_SIDE = 16  # Of a picture, in pixels; smaller ones are grids of symbols.
# Grids of symbols hold numbers up to about ten; a picture has more contrast.
_MIN_CONTRAST = 16


def is_frame(value: object) -> bool:
  """Whether this is a picture u8 [H, W, 3]."""
  return (
    isinstance(value, np.ndarray)
    and value.dtype == np.uint8
    and value.ndim == 3
    and value.shape[2] == 3
    and value.size > 0
  )


def describe(value: object) -> str:
  """Describes a value that should have been a frame: 'float32 [64, 64, 3]'."""
  if isinstance(value, np.ndarray):
    return f'{value.dtype} {list(value.shape)}'
  return 'None' if value is None else f'a value of type {type(value).__name__}'


def has_contrast(frame: np.ndarray) -> bool:
  """Whether a frame u8 [H, W, 3] is more than nearly one colour."""
  return int(frame.max()) - int(frame.min()) >= _MIN_CONTRAST


def resize(frame: np.ndarray, size: int) -> np.ndarray:
  """Resizes a frame to a square, without cropping; returns a copy.

  Args:
    frame: u8 [H, W, 3].
    size: side of the square, pixels.
  """
  if frame.shape[:2] == (size, size):
    return frame.copy()
  resized = Image.fromarray(frame).resize((size, size), Image.Resampling.BOX)
  return np.array(resized)
