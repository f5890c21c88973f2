"""Strided convolutions in two forms with the same numbers.

`native` is XLA's own convolution: the right one on GPU and TPU, but for two
things that cost a GPU many times their due. Few channels (the picture's three)
are made four times as many by taking blocks of 2 x 2 pixels together; and a
transposed convolution is written as the transpose of a convolution, so that the
gradient of its kernel is the one that libraries have, that of a convolution.

`subpixel` is for CPU, where XLA's strided and dilated convolutions, and above
all their weight gradients, are many times slower than a matrix product. There a
convolution is one product with the pixels under all taps side by side, and so
are its weight gradient and the input's gradient of a transposed convolution. A
transposed convolution is one of stride one, whose channels become blocks of
2 x 2 pixels. Pixels side by side take many times a picture's memory: they are
fast for as few pictures at a time as fit the caches.
"""

import jax
import jax.numpy as jnp

FORMS = ('native', 'subpixel')
_DIMS = ('NHWC', 'HWIO', 'NHWC')
_PICTURE = 4  # Channels up to which a convolution of them is slow on a GPU.


def conv(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
  """Convolution with stride 2 and no padding.

  Args:
    x: [M, S, S, C].
    kernel: [k, k, C, D], k even.
    form: one of `FORMS`.

  Returns:
    [M, S', S', D] with S' = (S - k) // 2 + 1.
  """
  return (_native if form == 'native' else _conv_columns)(x, kernel)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """x [M, S, S, D] + bias [D]; sums the bias's gradient by rows of pixels.

  Devices are slow at sums over so few columns as a picture's three.
  """
  return x + bias


def _add_bias_forward(x, bias):
  return x + bias, None


def _add_bias_backward(residuals, grad):
  del residuals
  size, channels = grad.shape[2:]
  columns = grad.reshape(-1, size * channels).sum(0)
  # The compiler would make one sum of both.
  columns = jax.lax.optimization_barrier(columns)
  return grad, columns.reshape(size, channels).sum(0)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _native(x, kernel):
  few = x.shape[-1] <= _PICTURE and kernel.shape[0] % 2 == 0
  if not few:
    return _correlate(x, kernel, 2)
  # To as many as fill the width of a tensor core: 16 in a block.
  more = (0, _PICTURE - x.shape[-1])
  x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), more))
  kernel = jnp.pad(kernel, ((0, 0), (0, 0), more, (0, 0)))
  return _correlate(*_to_blocks(x, kernel), 1)


def _to_blocks(x, kernel):
  """Pixels of 2 x 2 become channels, in the picture and in the kernel."""
  m, size, _, c = x.shape
  half = kernel.shape[0] // 2
  grid = (size - kernel.shape[0]) // 2 + half
  x = x[:, : 2 * grid, : 2 * grid].reshape(m, grid, 2, grid, 2, c)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(m, grid, grid, 4 * c)
  kernel = kernel.reshape(half, 2, half, 2, c, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(half, half, 4 * c, -1)
  return x, kernel


def conv_transpose(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
  """Transposed convolution with stride 2 and no padding.

  Pixel (i, j) of `x` adds x[i, j] @ kernel[a, b] to the output's pixel
  (2i + a, 2j + b).

  Args:
    x: [M, S, S, C].
    kernel: [k, k, C, D].
    form: one of `FORMS`.

  Returns:
    [M, S', S', D] with S' = 2 (S - 1) + k.
  """
  k, out = kernel.shape[0], kernel.shape[3]
  m, size, _, c = x.shape
  if size == 1:  # One product, in whatever form the rest is.
    kernel = kernel.transpose(2, 0, 1, 3).reshape(c, -1)
    return (x.reshape(m, c) @ kernel).reshape(m, k, k, out)
  if form == 'native':
    return _native_transpose(x, kernel.swapaxes(2, 3))
  return _transpose_subpixel(x, kernel)


@jax.custom_vjp
def _native_transpose(x, kernel):
  """The transpose of `_native`: [M, S, S, C], [k, k, D, C] -> [.., D]."""
  m, size, _, _ = x.shape
  stop = 2 * (size - 1) + kernel.shape[0]
  y = jax.ShapeDtypeStruct((m, stop, stop, kernel.shape[2]), x.dtype)
  return jax.linear_transpose(lambda y: _native(y, kernel), y)(x)[0]


def _native_transpose_forward(x, kernel):
  return _native_transpose(x, kernel), (x, kernel)


def _native_transpose_backward(residuals, grad):
  x, kernel = residuals
  x_grad, pull = jax.vjp(lambda kernel: _native(grad, kernel), kernel)
  return x_grad, *pull(x)


_native_transpose.defvjp(_native_transpose_forward, _native_transpose_backward)


def _correlate(x, kernel, stride):
  """[M, S, S, C], [k, k, C, D] -> [M, G, G, D], G = (S - k) // stride + 1."""
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), 'VALID', dimension_numbers=_DIMS
  )


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
  m, size, _, c = x.shape
  half = (k + 1) // 2
  odd = k % 2
  kernel = jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))
  # Each of the four output phases is a convolution with every second tap.
  kernel = kernel.reshape(half, 2, half, 2, c, out)[::-1, :, ::-1]
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(half, half, c, 4 * out)
  margin = (half - 1, half - 1)
  y = _correlate(jnp.pad(x, ((0, 0), margin, margin, (0, 0))), kernel, 1)
  grid = y.shape[1]
  y = y.reshape(m, grid, grid, 2, 2, out).transpose(0, 1, 3, 2, 4, 5)
  stop = 2 * (size - 1) + k
  return y.reshape(m, 2 * grid, 2 * grid, out)[:, :stop, :stop]


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
