"""Convolutions for GPU and TPU: XLA's own, among blocks of pixels.

Among blocks of 2 x 2 pixels a convolution of stride two is one of stride one,
for which libraries have better kernels than for strides. A GPU takes many times
its due where there are few channels, as in the images: there the blocks are
twice as large on both sides of the convolution, which puts some zeros into the
kernel and 48 channels in place of three.

Layers agree in their blocks, so that pixels seldom have to be laid anew.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.nets.blocked_image import BlockedImage

_FEW = 4  # Channels up to which blocks are twice as large.


def conv(picture: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv`."""
  side = _side(kernel)
  size = (picture.size - kernel.shape[0]) // 2 + 1
  kernel = _among_blocks(kernel, side)
  x = picture.blocks(2 * side).x
  # As many blocks as the output needs: the last may be one that no kernel
  # reaches, or one more than there are.
  need = -(-size // side) + kernel.shape[0] - 1
  margin = (0, need - x.shape[1], 0)
  x = jax.lax.pad(
    x, jnp.zeros((), x.dtype), ((0, 0, 0), margin, margin, (0, 0, 0))
  )
  return BlockedImage(_correlate(x, kernel), size, side)


def conv_transpose(picture: BlockedImage, kernel: jax.Array) -> BlockedImage:
  """See `conv.conv_transpose`."""
  side = _side(kernel)
  size = 2 * (picture.size - 1) + kernel.shape[0]
  kernel = _among_blocks(kernel.swapaxes(2, 3), side)
  y = _transpose(picture.blocks(side).x, kernel)
  return BlockedImage(y, size, 2 * side)


def _side(kernel):
  """Of the blocks on the small side of a convolution."""
  return 2 if min(kernel.shape[2:]) <= _FEW else 1


def _among_blocks(kernel, side):
  """A kernel from blocks of twice this side to blocks of this side.

  [k, k, C, D] -> [n, n, (2 side)^2 C, side^2 D]: the kernel of each pixel in a
  block stands two pixels behind that of the pixel before.
  """
  k, _, channels, out = kernel.shape
  n = -(-(2 * (side - 1) + k) // (2 * side))
  rest = 2 * side * n - k

  def shifts(kernel, axis):
    def behind(before):
      margin = [(0, 0)] * kernel.ndim
      margin[axis] = before, rest - before
      return jnp.pad(kernel, margin)

    return jnp.stack([behind(2 * pixel) for pixel in range(side)], -2)

  kernel = shifts(shifts(kernel, 0), 1)
  kernel = kernel.reshape(n, 2 * side, n, 2 * side, channels, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return kernel.reshape(n, n, 4 * side**2 * channels, side**2 * out)


@jax.custom_vjp
def _transpose(x, kernel):
  """The transpose of `_correlate`: [M, G, G, D], [n, n, C, D] -> [.., C].

  XLA does not see a convolution's gradient in that of a transposed one, so that
  the kernel's gradient is written as the former.
  """
  m, grid, _, _ = x.shape
  size = grid + kernel.shape[0] - 1
  y = jax.ShapeDtypeStruct((m, size, size, kernel.shape[2]), x.dtype)
  return jax.linear_transpose(lambda y: _correlate(y, kernel), y)(x)[0]


def _transpose_forward(x, kernel):
  return _transpose(x, kernel), (x, kernel)


def _transpose_backward(residuals, grad):
  x, kernel = residuals
  x_grad, pull = jax.vjp(lambda kernel: _correlate(grad, kernel), kernel)
  return x_grad, *pull(x)


_transpose.defvjp(_transpose_forward, _transpose_backward)


def _correlate(x, kernel):
  """[M, G, G, C], [n, n, C, D] -> [M, G', G', D], G' = G - n + 1."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
