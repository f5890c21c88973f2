"""Dense layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

kernel_init = nn.initializers.glorot_uniform()
_WIDTH = 16  # Bytes that a row's length is to be a multiple of,
_MANY = 128  # with more columns than these.


class Dense(nn.Module):
  """[..., I] -> [..., features], computed in `dtype`.

  Flax's own would take `product` by an argument that it is about to lose.
  """

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """The product with the kernel, and the bias."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', kernel_init, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros_init(), shape[1:])
    return matmul(x.astype(self.dtype), kernel) + bias.astype(self.dtype)


class SplitDense(nn.Module):
  """Dense over concatenated parts whose products can be taken apart."""

  features: int
  parts: tuple[int, ...]
  dtype: str = 'float32'  # computed in

  def setup(self):
    shape = (sum(self.parts), self.features)
    kernel = self.param('kernel', kernel_init, shape)
    zeros = nn.initializers.zeros_init()
    bias = self.param('bias', zeros, (self.features,))
    self.kernel, self.bias = kernel.astype(self.dtype), bias.astype(self.dtype)

  def __call__(self, index: int, x: jax.Array) -> jax.Array:
    """Part `index`'s share [..., features]: of a vector, or of an i32 label."""
    start = sum(self.parts[:index])
    kernel = self.kernel[start : start + self.parts[index]]
    if jnp.issubdtype(x.dtype, jnp.integer):
      return kernel[x]
    return x.astype(self.dtype) @ kernel


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[..., I] @ [I, D]; in half precision with zeros up to a GPU's widths.

  Matrices whose rows are no multiple of 16 bytes, as those of 250 features, are
  out of reach of its fastest kernels, and the zeros cost next to nothing where
  there are many columns.
  """
  width = _WIDTH // x.dtype.itemsize
  if x.dtype.itemsize > 2:
    return x @ kernel
  inner, outer = (-size % width * (size > _MANY) for size in kernel.shape)
  out = kernel.shape[1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, inner)])
  kernel = jnp.pad(kernel, ((0, inner), (0, outer)))
  return (x @ kernel)[..., :out]
