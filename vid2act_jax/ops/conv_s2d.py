"""Convolutions over blocks of pixels (space to depth), for GPU and TPU.

The convolution is XLA's own. Over blocks a convolution of stride two has a
stride of one if the blocks of its input are twice as large as those of its
output. For that libraries have faster kernels. A GPU is slow with few channels,
as in images. There all blocks are twice as large. This adds some zeros to the
kernel, and 48 channels replace three.

Neighbouring layers use the same block size, so pixels are seldom rearranged.
"""

import functools

import jax
import jax.numpy as jnp

from vid2act_jax.ops.blocked_image import BlockedImage

FEW_CHANNELS = 4  # Up to this number blocks are twice as large.


def frames(pixels: jax.Array) -> BlockedImage:
  """See `conv.frames`."""
  return BlockedImage.of(pixels)


def conv(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  small = _small_block_size(kernel)
  return blocked_conv(image.blocks(2 * small), kernel, small)


def conv_transpose(image: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  small = _small_block_size(kernel)
  return blocked_transpose(image.blocks(small), kernel, 2 * small)


def blocked_conv(
  image: BlockedImage, kernel: jax.Array, block_size: int
) -> BlockedImage:
  """A convolution to blocks of another size; see `conv.conv`.

  Args:
    image: in blocks that divide 2 block_size. Where its last blocks are not
      full, they hold finite values.
    kernel: [k, k, C, D].
    block_size: of the output.
  """
  size = (image.size - kernel.shape[0]) // 2 + 1
  stride = 2 * block_size // image.block_size
  kernel = _block_kernel(kernel, image.block_size, block_size)
  x = image.x
  # Exactly the blocks that the output needs: the kernel may not reach the last
  # block, or one more may be needed.
  num_blocks = (-(-size // block_size) - 1) * stride + kernel.shape[0]
  padding = (0, num_blocks - x.shape[1], 0)
  x = jax.lax.pad(
    x, jnp.zeros((), x.dtype), ((0, 0, 0), padding, padding, (0, 0, 0))
  )
  return BlockedImage(_correlate(x, kernel, stride, 0), size, block_size)


def blocked_transpose(
  image: BlockedImage, kernel: jax.Array, block_size: int
) -> BlockedImage:
  """A transposed convolution to blocks of another size.

  Args:
    image: in blocks of which 2 are a multiple of block_size. Where its last
      blocks are not full, they are zero.
    kernel: [k, k, C, D].
    block_size: of the output.
  """
  size = 2 * (image.size - 1) + kernel.shape[0]
  stride = 2 * image.block_size // block_size
  kernel = _block_kernel(kernel.swapaxes(2, 3), block_size, image.block_size)
  # The last blocks of the result that have no pixels.
  num_blocks = (image.x.shape[1] - 1) * stride + kernel.shape[0]
  surplus = num_blocks - -(-size // block_size)
  y = _transpose(image.x, kernel, stride, surplus)
  return BlockedImage(y, size, block_size)


def _small_block_size(kernel):
  """The block size of the smaller image; that of the larger is twice it."""
  return 2 if min(kernel.shape[2:]) <= FEW_CHANNELS else 1


def _block_kernel(kernel, large, small):
  """The kernel from blocks of the larger image to blocks of the smaller one.

  [k, k, C, D] -> [n, n, large^2 C, small^2 D]. The kernel of each pixel in a
  block of the smaller image is shifted by two pixels of the larger one from the
  one before.
  """
  k, _, channels, out = kernel.shape
  n = -(-(2 * (small - 1) + k) // large)
  total_padding = large * n - k

  def shifts(kernel, axis):
    def shift(offset):
      padding = [(0, 0)] * kernel.ndim
      padding[axis] = offset, total_padding - offset
      return jnp.pad(kernel, padding)

    return jnp.stack([shift(2 * pixel) for pixel in range(small)], -2)

  kernel = shifts(shifts(kernel, 0), 1)
  kernel = kernel.reshape(n, large, n, large, channels, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return kernel.reshape(n, n, large**2 * channels, small**2 * out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _transpose(x, kernel, stride, surplus):
  """The transpose of `_correlate`: [M, G, G, D], [n, n, C, D] -> [.., C].

  XLA does not recognise the kernel gradient of a transposed convolution as that
  of a convolution. So it is written as the latter.
  """
  m, grid, _, _ = x.shape
  size = (grid - 1) * stride + kernel.shape[0] - surplus
  y = jax.ShapeDtypeStruct((m, size, size, kernel.shape[2]), x.dtype)
  forward = lambda y: _correlate(y, kernel, stride, surplus)
  return jax.linear_transpose(forward, y)(x)[0]


def _transpose_forward(x, kernel, stride, surplus):
  return _transpose(x, kernel, stride, surplus), (x, kernel)


def _transpose_backward(stride, surplus, residuals, grad):
  x, kernel = residuals
  forward = lambda kernel: _correlate(grad, kernel, stride, surplus)
  x_grad, vjp_fn = jax.vjp(forward, kernel)
  return x_grad, *vjp_fn(x)


_transpose.defvjp(_transpose_forward, _transpose_backward)


def _correlate(x, kernel, stride, padding):
  """[M, G, G, C], [n, n, C, D] -> [M, G', G', D]; padding: after the last."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((0, padding), (0, padding)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
