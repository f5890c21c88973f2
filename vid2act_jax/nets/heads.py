"""Reward, critic and actor: multi-layer perceptrons on features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists
from vid2act_jax.types import Normal

_kernel_init = nn.initializers.glorot_uniform()


class MLP(nn.Module):
  """`layers` hidden layers with ELU and a linear output of size `out`."""

  layers: int
  units: int
  out: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., I] -> [..., out]."""
    for i in range(self.layers):
      dense = nn.Dense(self.units, kernel_init=_kernel_init, name=f'hidden{i}')
      x = nn.elu(dense(x))
    return nn.Dense(self.out, kernel_init=_kernel_init, name='out')(x)


class ScalarHead(nn.Module):
  """The mean of a unit Gaussian over a scalar: a reward or a value."""

  layers: int
  units: int

  @nn.compact
  def __call__(self, feat: jax.Array) -> jax.Array:
    """[..., F] -> [...]."""
    return MLP(self.layers, self.units, 1, name='mlp')(feat)[..., 0]


class Actor(nn.Module):
  """A Gaussian over actions with a bounded mean."""

  layers: int
  units: int
  action_dim: int

  @nn.compact
  def __call__(self, x: jax.Array) -> Normal:
    """[..., F (+ guidance)] -> Normal over [..., A], before clipping."""
    stats = MLP(self.layers, self.units, 2 * self.action_dim, name='mlp')(x)
    mean, raw = jnp.split(stats, 2, -1)
    return Normal(jnp.tanh(mean), dists.bounded_std(raw))
