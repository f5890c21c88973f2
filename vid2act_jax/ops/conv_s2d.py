"""Convolutions for GPU and TPU: XLA's own, over blocks (space to depth).

Over blocks of 2 x 2 pixels a convolution of stride two becomes one of stride
one, for which libraries have faster kernels. A GPU is slow with few channels,
as in images. There the blocks of both input and output are twice as large. This
adds some zeros to the kernel, and 48 channels replace three.

Neighbouring layers use the same block size, so pixels are seldom rearranged.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.ops.blocked_image import BlockedImage

_FEW_CHANNELS = 4  # Up to this number blocks are twice as large.


def conv(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  block_size = _small_block_size(kernel)
  size = (image.size - kernel.shape[0]) // 2 + 1
  kernel = _block_kernel(kernel, block_size)
  x = image.blocks(2 * block_size).x
  # Exactly the blocks that the output needs: the kernel may not reach the last
  # block, or one more may be needed.
  num_blocks = -(-size // block_size) + kernel.shape[0] - 1
  padding = (0, num_blocks - x.shape[1], 0)
  x = jax.lax.pad(
    x, jnp.zeros((), x.dtype), ((0, 0, 0), padding, padding, (0, 0, 0))
  )
  return BlockedImage(_correlate(x, kernel), size, block_size)


def conv_transpose(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  block_size = _small_block_size(kernel)
  size = 2 * (image.size - 1) + kernel.shape[0]
  kernel = _block_kernel(kernel.swapaxes(2, 3), block_size)
  y = _transpose(image.blocks(block_size).x, kernel)
  return BlockedImage(y, size, 2 * block_size)


def _small_block_size(kernel):
  """The block size of the smaller image; that of the larger is twice it."""
  return 2 if min(kernel.shape[2:]) <= _FEW_CHANNELS else 1


def _block_kernel(kernel, block_size):
  """The kernel from blocks of 2 block_size to blocks of block_size.

  [k, k, C, D] -> [n, n, (2 block_size)^2 C, block_size^2 D]. The kernel of each
  pixel in an output block is shifted by two input pixels from the one before.
  """
  k, _, channels, out = kernel.shape
  n = -(-(2 * (block_size - 1) + k) // (2 * block_size))
  total_padding = 2 * block_size * n - k

  def shifts(kernel, axis):
    def shift(offset):
      padding = [(0, 0)] * kernel.ndim
      padding[axis] = offset, total_padding - offset
      return jnp.pad(kernel, padding)

    return jnp.stack([shift(2 * pixel) for pixel in range(block_size)], -2)

  kernel = shifts(shifts(kernel, 0), 1)
  kernel = kernel.reshape(n, 2 * block_size, n, 2 * block_size, channels, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return kernel.reshape(n, n, 4 * block_size**2 * channels, block_size**2 * out)


@jax.custom_vjp
def _transpose(x, kernel):
  """The transpose of `_correlate`: [M, G, G, D], [n, n, C, D] -> [.., C].

  XLA does not recognise the kernel gradient of a transposed convolution as that
  of a convolution. So it is written as the latter.
  """
  m, grid, _, _ = x.shape
  size = grid + kernel.shape[0] - 1
  y = jax.ShapeDtypeStruct((m, size, size, kernel.shape[2]), x.dtype)
  return jax.linear_transpose(lambda y: _correlate(y, kernel), y)(x)[0]


def _transpose_forward(x, kernel):
  return _transpose(x, kernel), (x, kernel)


def _transpose_backward(residuals, grad):
  x, kernel = residuals
  x_grad, vjp_fn = jax.vjp(lambda kernel: _correlate(grad, kernel), kernel)
  return x_grad, *vjp_fn(x)


_transpose.defvjp(_transpose_forward, _transpose_backward)


def _correlate(x, kernel):
  """[M, G, G, C], [n, n, C, D] -> [M, G', G', D], G' = G - n + 1."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
