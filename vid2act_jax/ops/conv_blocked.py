"""Convolutions for TPU: all images stay in blocks of pixels (space to depth).

A TPU has 128 lanes for channels, which the pixels of a block fill. To move
pixels between channels and rows takes it nearly as long as a convolution. So
every layer reads and writes blocks of 2 x 2 pixels, and the images are in
blocks of 4 x 4. Kernels have more zeros, and pixels do not move, but once: the
frames, as bytes.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.ops import conv_s2d
from vid2act_jax.ops.blocked_image import BlockedImage

_FRAME_BLOCK = 4
_BLOCK = 2  # Of the layers' outputs.


def frames(pixels: jax.Array) -> BlockedImage:
  """See `conv.frames`."""
  m, size, _, channels = pixels.shape
  grid = -(-size // _FRAME_BLOCK)
  padding = (0, grid * _FRAME_BLOCK - size)
  pixels = jnp.pad(pixels, ((0, 0), padding, padding, (0, 0)))
  # The barriers keep the compiler from rearranging floating-point numbers
  # instead, and from doing so once for each use.
  x = pixels.reshape(m, grid, _FRAME_BLOCK, grid, _FRAME_BLOCK * channels)
  x = jax.lax.optimization_barrier(x).swapaxes(2, 3).reshape(m, grid, grid, -1)
  return BlockedImage(jax.lax.optimization_barrier(x), size, _FRAME_BLOCK)


def conv(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  if image.block_size == 1:
    image = image.blocks(_FRAME_BLOCK)
  return conv_s2d.blocked_conv(image, kernel, _BLOCK)


def conv_transpose(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  few = kernel.shape[3] <= conv_s2d.FEW_CHANNELS
  block_size = _FRAME_BLOCK if few else _BLOCK
  if block_size > 2 * image.block_size:
    image = image.blocks(_BLOCK)
  return conv_s2d.blocked_transpose(_zero_beyond(image), kernel, block_size)


def _zero_beyond(image):
  """The image with zeros beyond its pixels."""
  grid, block_size = image.x.shape[1], image.block_size
  if grid * block_size == image.size:
    return image
  inside = jnp.arange(grid * block_size) < image.size
  inside = inside.reshape(grid, block_size)
  channels = image.x.shape[3] // block_size**2
  mask = inside[:, None, :, None] & inside[None, :, None, :]
  mask = jnp.repeat(mask.reshape(grid, grid, -1), channels, -1)
  return image.map(lambda x: jnp.where(mask, x, 0))
