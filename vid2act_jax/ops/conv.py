"""Convolutions of stride two, in three implementations with equal results.

`native` uses XLA's own convolution over blocks of pixels and is fast on a GPU;
see conv_s2d.py. `blocked` keeps all images in blocks and is fast on a TPU; see
conv_blocked.py. `subpixel` uses matrix products and is fast on a CPU; see
conv_im2col.py.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.ops import conv_blocked, conv_im2col, conv_s2d
from vid2act_jax.ops.blocked_image import BlockedImage

IMPLS = {
  'native': conv_s2d,
  'blocked': conv_blocked,
  'subpixel': conv_im2col,
}
# Where each is fast.
BY_PLATFORM = {'cpu': 'subpixel', 'gpu': 'native', 'tpu': 'blocked'}


def frames(pixels: jax.Array, impl: str) -> BlockedImage:
  """Frames in the form that `conv` reads and `conv_transpose` writes.

  Args:
    pixels: [M, S, S, C] of any dtype.
    impl: one of `IMPLS`.
  """
  return IMPLS[impl].frames(pixels)


def conv(image: BlockedImage, kernel: jax.Array, impl: str) -> BlockedImage:
  """Convolution with stride 2 and no padding.

  Args:
    image: S x S pixels with C channels.
    kernel: [k, k, C, D].
    impl: one of `IMPLS`.

  Returns:
    An image of S' x S' pixels with D channels, S' = (S - k) // 2 + 1.
  """
  return IMPLS[impl].conv(image, kernel)


def conv_transpose(
  image: BlockedImage, kernel: jax.Array, impl: str
) -> BlockedImage:
  """Transposed convolution with stride 2 and no padding.

  Pixel (i, j) adds its channels @ kernel[a, b] to the output's pixel
  (2i + a, 2j + b).

  Args:
    image: S x S pixels with C channels.
    kernel: [k, k, C, D].
    impl: one of `IMPLS`.

  Returns:
    An image of S' x S' pixels with D channels, S' = 2 (S - 1) + k.
  """
  if image.size == 1:  # A single matrix product in every implementation.
    k, _, channels, out = kernel.shape
    x = image.pixels().reshape(-1, channels)
    kernel = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    return BlockedImage.of((x @ kernel).reshape(-1, k, k, out))
  return IMPLS[impl].conv_transpose(image, kernel)


def add_bias(image: BlockedImage, bias: jax.Array, impl: str) -> BlockedImage:
  """Adds a bias [C] to all images, or [M, C] to one image each."""
  bias = jnp.tile(bias, image.block_size**2)
  if bias.ndim == 1:
    if impl == 'blocked':  # It has many columns, see `_add_row`.
      return image.map(lambda x: x + bias)
    return image.map(lambda x: _add_row(x, bias))
  return image.map(lambda x: x + bias[:, None, None])


@jax.custom_vjp
def _add_row(x, bias):
  """x [M, G, G, D] + bias [D]; sums the bias's gradient by rows of pixels.

  Devices are slow at sums over few columns, such as the three of an image.
  """
  return x + bias


def _add_row_forward(x, bias):
  return x + bias, None


def _add_row_backward(residuals, grad):
  del residuals
  size, channels = grad.shape[2:]
  columns = grad.reshape(-1, size * channels).sum(0)
  # Without it the compiler merges both sums into one.
  columns = jax.lax.optimization_barrier(columns)
  return grad, columns.reshape(size, channels).sum(0)


_add_row.defvjp(_add_row_forward, _add_row_backward)
