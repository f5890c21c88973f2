"""Convolutions of stride two, in two forms with the same numbers.

`native` is XLA's own convolution, among blocks of pixels: the right one on GPU
and TPU; see conv_s2d.py. `subpixel` is made of products of matrices: the
right one on CPU; see conv_im2col.py.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.nets import conv_im2col, conv_s2d
from vid2act_jax.nets.blocked_image import BlockedImage

FORMS = {'native': conv_s2d, 'subpixel': conv_im2col}


def conv(picture: BlockedImage, kernel: jax.Array, form: str) -> BlockedImage:
  """Convolution with stride 2 and no padding.

  Args:
    picture: of S x S pixels with C channels.
    kernel: [k, k, C, D].
    form: one of `FORMS`.

  Returns:
    One of S' x S' pixels with D channels, S' = (S - k) // 2 + 1.
  """
  return FORMS[form].conv(picture, kernel)


def conv_transpose(
  picture: BlockedImage, kernel: jax.Array, form: str
) -> BlockedImage:
  """Transposed convolution with stride 2 and no padding.

  Pixel (i, j) adds its channels @ kernel[a, b] to the output's pixel
  (2i + a, 2j + b).

  Args:
    picture: of S x S pixels with C channels.
    kernel: [k, k, C, D].
    form: one of `FORMS`.

  Returns:
    One of S' x S' pixels with D channels, S' = 2 (S - 1) + k.
  """
  if picture.size == 1:  # One product, in whatever form the rest is.
    k, _, channels, out = kernel.shape
    x = picture.pixels().reshape(-1, channels)
    kernel = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    return BlockedImage.of((x @ kernel).reshape(-1, k, k, out))
  return FORMS[form].conv_transpose(picture, kernel)


def add_bias(picture: BlockedImage, bias: jax.Array) -> BlockedImage:
  """Adds [C] to all pixels, or [M, C] to those of each picture."""
  bias = jnp.tile(bias, picture.side**2)
  if bias.ndim == 1:
    return picture.map(lambda x: _add_row(x, bias))
  return picture.map(lambda x: x + bias[:, None, None])


@jax.custom_vjp
def _add_row(x, bias):
  """x [M, G, G, D] + bias [D]; sums the bias's gradient by rows of pixels.

  Devices are slow at sums over so few columns as a picture's three.
  """
  return x + bias


def _add_row_forward(x, bias):
  return x + bias, None


def _add_row_backward(residuals, grad):
  del residuals
  size, channels = grad.shape[2:]
  columns = grad.reshape(-1, size * channels).sum(0)
  # The compiler would make one sum of both.
  columns = jax.lax.optimization_barrier(columns)
  return grad, columns.reshape(size, channels).sum(0)


_add_row.defvjp(_add_row_forward, _add_row_backward)
