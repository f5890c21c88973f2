"""Losses of a world model (DreamerV2, arXiv 2010.02193), without scales.

The image loss is `WorldModel.image_log_prob`: it decodes and compares chunk by
chunk.
"""

import jax
import jax.numpy as jnp
import optax

from vid2act_jax.nets import dists
from vid2act_jax.types import Normal


def kl_loss(
  post: Normal,
  prior: Normal,
  balance: float,
  free: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Balanced KL with free nats on the mean over the whole batch.

  Args:
    post: posterior, [B, L, stoch].
    prior: prior, [B, L, stoch].
    balance: weight of the term that trains the prior.
    free: nats below which a term has no gradient.
    axis_name: the mapped axis that the batch is split over, if any.

  Returns:
    The loss, a scalar, and KL(post || prior) of every state, [B, L].
  """

  def apply_free_nats(value):
    mean = value.mean()
    global_mean = jax.lax.pmean(mean, axis_name) if axis_name else mean
    return jnp.where(jax.lax.stop_gradient(global_mean) > free, mean, free)

  to_prior = dists.kl(post, dists.stop_gradient(prior))
  to_post = dists.kl(dists.stop_gradient(post), prior)
  loss = (1 - balance) * apply_free_nats(to_prior)
  return loss + balance * apply_free_nats(to_post), to_post


def reward_loss(
  mean: jax.Array,
  reward: jax.Array,
  mask: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Unit-Gaussian regression of the reward.

  Args:
    mean: predicted mean, [B, L].
    reward: [B, L].
    mask: f32 [B], 1 for the rows that have rewards; None: all have.
    axis_name: the mapped axis that the batch is split over, if any.

  Returns:
    The mean over these rows, a scalar; 0 without any.
  """
  return _mean_rows(-dists.unit_log_prob(mean, reward, 0), mask, axis_name)


def discount_loss(
  logit: jax.Array,
  discount: jax.Array,
  mask: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Cross-entropy of the continuation: logit and discount [B, L] -> [].

  The last arguments are those of `reward_loss`.
  """
  loss = optax.sigmoid_binary_cross_entropy(logit, discount)
  return _mean_rows(loss, mask, axis_name)


def _mean_rows(loss, mask, axis_name):
  if mask is None:
    return loss.mean()
  count = mask.sum()
  if axis_name:  # So that the mean over devices is that of the whole batch.
    count = jax.lax.pmean(count, axis_name)
  return (mask * loss.mean(1)).sum() / jnp.where(count > 0, count, 1)
