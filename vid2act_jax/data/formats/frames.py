"""Checks, resizes and flips the frames of other programs."""

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image

from vid2act_jax.data import limits
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError


def prepare_images(
  frames: Iterable[np.ndarray], options: Options, where: str | os.PathLike
) -> np.ndarray:
  """Checks, resizes and flips frames, one at a time.

  Args:
    frames: each u8 [H, W, 3] or [3, H, W]; grey: [H, W] or [H, W, 1].
    options: the size and the flips.
    where: name of the episode for error messages.

  Returns:
    u8 [T, size, size, 3].

  Raises:
    UserError: there are no frames or too many, a frame is not an image of
      uint8, or it is not square and no size is given.
  """
  prepared, num_bytes = [], 0
  for frame in frames:
    prepared.append(_prepare_frame(frame, options, where))
    num_bytes += prepared[-1].nbytes
    if num_bytes > limits.MAX_BYTES:
      raise UserError(
        f'{where}: its frames take more than {limits.MAX_BYTES / 1e9:.3g} GB;'
        ' resize them with --size 64, or split it into shorter episodes.'
      )
  if not prepared:
    raise UserError(f'{where}: holds no frames; restore or remove it.')
  return np.stack(prepared)


def _prepare_frame(frame, options, where):
  if frame.dtype != np.uint8:
    raise UserError(
      f"{where}: 'image' is {frame.dtype}, should be uint8; convert it first."
    )
  if frame.ndim == 3 and frame.shape[2] != 3 and frame.shape[0] in (1, 3):
    frame = np.moveaxis(frame, 0, 2)
  if frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 1):
    frame = np.repeat(frame.reshape(*frame.shape[:2], 1), 3, 2)  # Grey.
  if frame.ndim != 3 or frame.shape[2] != 3:
    raise UserError(
      f"{where}: a frame of 'image' has the shape {frame.shape}, should be "
      '[H, W, 3]; choose another image with --image-key.'
    )
  height, width = frame.shape[:2]
  if not frame.size or (height != width and options.size is None):
    raise UserError(
      f"{where}: 'image' is {height}x{width}, should be square; resize it "
      'with --size 64, or crop it first.'
    )
  if options.size and (height, width) != (options.size, options.size):
    # Box filter: small objects stay visible.
    image = Image.fromarray(np.ascontiguousarray(frame))
    size = (options.size, options.size)
    frame = np.asarray(image.resize(size, Image.Resampling.BOX))
  if 'vertical' in options.flips:
    frame = frame[::-1]
  if 'horizontal' in options.flips:
    frame = frame[:, ::-1]
  return frame
