"""Actor and critic losses on imagined trajectories (DreamerV2)."""

import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists


def actor_loss(
  returns: jax.Array,
  entropy: jax.Array,
  weights: jax.Array,
  entropy_scale: float,
) -> jax.Array:
  """The actor's loss with dynamics gradients, through the returns.

  Args:
    returns: λ-returns [H - 1, M].
    entropy: of the actor's distribution, nats, [H - 1, M].
    weights: of the states, [H - 1, 1 or M].
    entropy_scale: weight of the entropy relative to the return.
  """
  objective = returns + entropy_scale * entropy
  return -(weights * objective).mean()


def critic_loss(
  value: jax.Array, returns: jax.Array, weights: jax.Array
) -> jax.Array:
  """Unit-Gaussian regression of values to returns.

  Args:
    value: [H - 1, M].
    returns: λ-returns [H - 1, M].
    weights: of the states, [H - 1, 1 or M].
  """
  target = jax.lax.stop_gradient(returns)
  logp = dists.unit_log_prob(value, target, 0)
  return -(weights * logp).mean()


def reward_stats(reward: jax.Array) -> dict[str, jax.Array]:
  """Mean and unbiased standard deviation of imagined rewards, as metrics."""
  return {'reward_mean': reward.mean(), 'reward_std': jnp.std(reward, ddof=1)}
