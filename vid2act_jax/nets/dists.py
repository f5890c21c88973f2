"""Operations on diagonal Gaussian distributions."""

import jax
import jax.numpy as jnp

from vid2act_jax.types import Normal

MIN_STD, MAX_STD = 0.1, 2.1  # Bounds of `bounded_std`.
_LOG_2PI = 1.8378770664093453


def bounded_std(raw: jax.Array) -> jax.Array:
  """Maps a raw output to (MIN_STD, MAX_STD); their mean at zero."""
  return (MAX_STD - MIN_STD) * jax.nn.sigmoid(raw / 2) + MIN_STD


def from_stats(stats: jax.Array) -> Normal:
  """Splits [..., 2D] into mean (first half) and bounded std."""
  mean, raw = jnp.split(stats, 2, -1)
  return Normal(mean, bounded_std(raw))


def sample(dist: Normal, noise: jax.Array) -> jax.Array:
  """Reparameterised sample; `noise` is standard normal, of the mean's shape."""
  return dist.mean + dist.std * noise


def stop_gradient(dist: Normal) -> Normal:
  """The same distribution without gradients."""
  return jax.tree.map(jax.lax.stop_gradient, dist)


def kl(left: Normal, right: Normal) -> jax.Array:
  """KL(left || right), summed over the last axis: [...]."""
  return kl_of_elements(left, right).sum(-1)


def kl_of_elements(left: Normal, right: Normal) -> jax.Array:
  """KL(left || right) of every element: [..., D]."""
  ratio = jnp.square(left.std / right.std)
  shift = jnp.square((left.mean - right.mean) / right.std)
  return 0.5 * (ratio + shift - 1 - jnp.log(ratio))


def entropy(dist: Normal) -> jax.Array:
  """Entropy in nats, summed over the last axis: [...]."""
  return (0.5 * (1 + _LOG_2PI) + jnp.log(dist.std)).sum(-1)


def unit_log_prob(mean: jax.Array, value: jax.Array, ndims: int) -> jax.Array:
  """log Normal(value; mean, 1), summed over the last `ndims` axes."""
  logp = -0.5 * (jnp.square(value - mean) + _LOG_2PI)
  return logp.sum(tuple(range(-ndims, 0))) if ndims else logp


def clip_straight_through(x: jax.Array) -> jax.Array:
  """Clips to [-1, 1] with a straight-through gradient."""
  return x + jax.lax.stop_gradient(jnp.clip(x, -1, 1) - x)
