"""Dense layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.ops.matmul import matmul

kernel_init = nn.initializers.glorot_uniform()


class Dense(nn.Module):
  """[..., I] -> [..., features], computed in `dtype`.

  `nn.Dense` takes another `matmul` only by an argument that Flax will remove.
  """

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x @ kernel + bias."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', kernel_init, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros_init(), shape[1:])
    return matmul(x.astype(self.dtype), kernel) + bias.astype(self.dtype)


class SplitDense(nn.Module):
  """Dense over concatenated inputs whose products are computed separately."""

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
    """The product of input `index`, a vector or i32 label: [..., features]."""
    start = sum(self.parts[:index])
    kernel = self.kernel[start : start + self.parts[index]]
    if jnp.issubdtype(x.dtype, jnp.integer):
      return kernel[x]
    return x.astype(self.dtype) @ kernel
