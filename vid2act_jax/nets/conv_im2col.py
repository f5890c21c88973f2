"""Convolutions for CPU: products of matrices.

XLA's strided and dilated convolutions, and above all their weight gradients,
are many times slower there than a matrix product. So a convolution is one
product with the pixels under all taps side by side, and so are its weight
gradient and the input's gradient of a transposed convolution. A transposed
convolution is one of stride one, whose channels become blocks of 2 x 2 pixels.
Pixels side by side take many times a picture's memory: they are fast for as few
pictures at a time as fit the caches.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.nets.blocked_image import BlockedImage


def conv(picture: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  return BlockedImage.of(_conv_columns(picture.pixels(), kernel))


def conv_transpose(picture: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  return BlockedImage.of(_transpose_subpixel(picture.pixels(), kernel))


@jax.custom_vjp
def _conv_columns(x, kernel):
  """The convolution as one product."""
  k, out = kernel.shape[0], kernel.shape[3]
  return _matmul(_columns(x, k), kernel.reshape(-1, out))


def _columns_forward(x, kernel):
  return _conv_columns(x, kernel), (x, kernel)


def _columns_backward(residuals, grad):
  x, kernel = residuals
  k = kernel.shape[0]
  x_grad = _transpose_subpixel(grad, kernel.swapaxes(2, 3))
  # The last rows and columns that no tap has reached.
  margin = (0, x.shape[1] - x_grad.shape[1])
  x_grad = jnp.pad(x_grad, ((0, 0), margin, margin, (0, 0)))
  kernel_grad = _kernel_grad(grad, _columns(x, k), k)
  return x_grad, kernel_grad.transpose(1, 2, 3, 0)


_conv_columns.defvjp(_columns_forward, _columns_backward)


@jax.custom_vjp
def _transpose_subpixel(x, kernel):
  """The transposed convolution as one of stride one."""
  k, out = kernel.shape[0], kernel.shape[3]
  _, size, _, c = x.shape
  half = (k + 1) // 2
  odd = k % 2
  kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
  # Each of the four output phases is a convolution with every second tap.
  kernel = kernel.reshape(half, 2, half, 2, c, out)[::-1, :, ::-1]
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(half, half, c, 4 * out)
  margin = (half - 1, half - 1)
  y = jax.lax.conv_general_dilated(
    jnp.pad(x, ((0, 0), margin, margin, (0, 0))),
    kernel,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return BlockedImage(y, 2 * (size - 1) + k, side=2).pixels()


def _subpixel_forward(x, kernel):
  return _transpose_subpixel(x, kernel), (x, kernel)


def _subpixel_backward(residuals, grad):
  x, kernel = residuals
  k, c = kernel.shape[0], kernel.shape[2]
  columns = _columns(grad, k)  # for both gradients
  x_grad = _matmul(columns, kernel.swapaxes(2, 3).reshape(-1, c))
  return x_grad, _kernel_grad(x, columns, k).transpose(1, 2, 0, 3)


_transpose_subpixel.defvjp(_subpixel_forward, _subpixel_backward)


def _columns(x, k):
  """The pixels under k x k taps: [M, S, S, C] -> [M, G, G, k k C]."""
  span = (x.shape[1] - k) // 2 * 2 + 1
  taps = [
    x[:, i : i + span : 2, j : j + span : 2] for i in range(k) for j in range(k)
  ]
  return jnp.concatenate(taps, -1)


def _matmul(x, matrix):
  """[M, G, G, C] @ [C, D] -> [M, G, G, D], as a product of two matrices."""
  y = x.reshape(-1, x.shape[-1]) @ matrix
  return y.reshape(*x.shape[:-1], -1)


def _kernel_grad(small, columns, k):
  """[M, G, G, D], [M, G, G, k k C] -> [D, k, k, C]: fastest in this order."""
  rows = lambda x: x.reshape(-1, x.shape[-1])
  product = rows(small).T @ rows(columns)
  return product.reshape(len(product), k, k, -1)
