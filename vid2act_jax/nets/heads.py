"""Reward, critic and actor: multi-layer perceptrons on features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists
from vid2act_jax.nets.dense import Dense
from vid2act_jax.ops.elu import elu
from vid2act_jax.types import Normal

# A base action is clipped to this: nearer to a bound, the network could hardly
# change it.
_MAX_BASE = 0.98


class MLP(nn.Module):
  """`layers` hidden layers with ELU and a linear output of size `out`."""

  layers: int
  units: int
  out: int
  dtype: str = 'float32'  # computed in; the output is float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., I] -> f32 [..., out]."""

    for i in range(self.layers):
      x = elu(Dense(self.units, self.dtype, name=f'hidden{i}')(x))
    return Dense(self.out, self.dtype, name='out')(x).astype(jnp.float32)


class ScalarHead(nn.Module):
  """A scalar: the mean of a reward or a value, or the logit of a discount."""

  layers: int
  units: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, feat: jax.Array) -> jax.Array:
    """[..., F] -> [...]."""
    mlp = MLP(self.layers, self.units, 1, self.dtype, name='mlp')
    return mlp(feat)[..., 0]


class Actor(nn.Module):
  """A Gaussian over actions with a bounded mean.

  residual: the last A inputs are a base action. Without an output of the
  network it is the mean (residual policy learning, arXiv 1812.06298).
  """

  layers: int
  units: int
  action_dim: int
  dtype: str = 'float32'
  residual: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> Normal:
    """[..., F (+ guidance, + A)] -> Normal over [..., A], before clipping."""
    out = 2 * self.action_dim
    stats = MLP(self.layers, self.units, out, self.dtype, name='mlp')(x)
    mean, raw = jnp.split(stats, 2, -1)
    if self.residual:
      base = jnp.clip(x[..., -self.action_dim :], -_MAX_BASE, _MAX_BASE)
      mean += jnp.arctanh(base.astype(jnp.float32))
    return Normal(jnp.tanh(mean), dists.bounded_std(raw))
