"""Convolutions for CPU: matrix products over image patches (im2col).

On CPU, XLA's strided and dilated convolutions are many times slower than a
matrix product, above all their weight gradients. So a convolution is one matrix
product with the patches under the kernel. So are its weight gradient and the
input gradient of a transposed convolution. A transposed convolution is a
convolution of stride one whose output channels become blocks of 2 x 2 pixels.
The patches take many times the memory of an image. They are fast only for as
few images at a time as fit into the caches.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.ops.blocked_image import BlockedImage


def frames(pixels: jax.Array) -> BlockedImage:
  """See `conv.frames`."""
  return BlockedImage.of(pixels)


def conv(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  return BlockedImage.of(_conv_im2col(image.pixels(), kernel))


def conv_transpose(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  return BlockedImage.of(_transpose_subpixel(image.pixels(), kernel))


@jax.custom_vjp
def _conv_im2col(x, kernel):
  """The convolution as one matrix product."""
  k, out = kernel.shape[0], kernel.shape[3]
  return _matmul(_patches(x, k), kernel.reshape(-1, out))


def _im2col_forward(x, kernel):
  return _conv_im2col(x, kernel), (x, kernel)


def _im2col_backward(residuals, grad):
  x, kernel = residuals
  k = kernel.shape[0]
  x_grad = _transpose_subpixel(grad, kernel.swapaxes(2, 3))
  # The last rows and columns, which the kernel does not reach.
  padding = (0, x.shape[1] - x_grad.shape[1])
  x_grad = jnp.pad(x_grad, ((0, 0), padding, padding, (0, 0)))
  kernel_grad = _kernel_grad(grad, _patches(x, k), k)
  return x_grad, kernel_grad.transpose(1, 2, 3, 0)


_conv_im2col.defvjp(_im2col_forward, _im2col_backward)


@jax.custom_vjp
def _transpose_subpixel(x, kernel):
  """The transposed convolution as a convolution of stride one."""
  k, out = kernel.shape[0], kernel.shape[3]
  _, size, _, c = x.shape
  half = (k + 1) // 2
  odd = k % 2
  kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
  # Each of the four output phases is a convolution with every second tap.
  kernel = kernel.reshape(half, 2, half, 2, c, out)[::-1, :, ::-1]
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(half, half, c, 4 * out)
  padding = (half - 1, half - 1)
  y = jax.lax.conv_general_dilated(
    jnp.pad(x, ((0, 0), padding, padding, (0, 0))),
    kernel,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return BlockedImage(y, 2 * (size - 1) + k, block_size=2).pixels()


def _subpixel_forward(x, kernel):
  return _transpose_subpixel(x, kernel), (x, kernel)


def _subpixel_backward(residuals, grad):
  x, kernel = residuals
  k, c = kernel.shape[0], kernel.shape[2]
  patches = _patches(grad, k)  # for both gradients
  x_grad = _matmul(patches, kernel.swapaxes(2, 3).reshape(-1, c))
  return x_grad, _kernel_grad(x, patches, k).transpose(1, 2, 0, 3)


_transpose_subpixel.defvjp(_subpixel_forward, _subpixel_backward)


def _patches(x, k):
  """The k x k patches under the kernel: [M, S, S, C] -> [M, G, G, k k C]."""
  span = (x.shape[1] - k) // 2 * 2 + 1
  taps = [
    x[:, i : i + span : 2, j : j + span : 2] for i in range(k) for j in range(k)
  ]
  return jnp.concatenate(taps, -1)


def _matmul(x, matrix):
  """[M, G, G, C] @ [C, D] -> [M, G, G, D], as a product of two matrices."""
  y = x.reshape(-1, x.shape[-1]) @ matrix
  return y.reshape(*x.shape[:-1], -1)


def _kernel_grad(small, patches, k):
  """[M, G, G, D], [M, G, G, k k C] -> [D, k, k, C]: fastest in this order."""
  rows = lambda x: x.reshape(-1, x.shape[-1])
  product = rows(small).T @ rows(patches)
  return product.reshape(len(product), k, k, -1)
