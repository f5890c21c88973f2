"""Returns of imagined trajectories."""

import jax
import jax.numpy as jnp


def lambda_returns(
  reward: jax.Array, value: jax.Array, discount: jax.Array, lambda_: float
) -> jax.Array:
  """The λ-returns of DreamerV2 (arXiv 2010.02193, equation 4), in order.

      R_t = r_t + γ_t ((1 - λ) v_{t+1} + λ R_{t+1}),  R_{H-1} := v_{H-1}

  Args:
    reward: [H, ...], at every state.
    value: [H, ...], at every state; the last one bootstraps.
    discount: γ, [H, ...], of what follows a state: 0 where an episode ends.
    lambda_: λ.

  Returns:
    [H - 1, ...], the returns of all states but the last.
  """

  def step(future, x):
    r, v_next, after = x
    ret = r + after * ((1 - lambda_) * v_next + lambda_ * future)
    return ret, ret

  xs = (reward[:-1], value[1:], discount[:-1])
  # Unrolled: some additions, not a loop that a device has to wait for.
  return jax.lax.scan(step, value[-1], xs, reverse=True, unroll=True)[1]


def discount_weights(discount: jax.Array) -> jax.Array:
  """How much a state counts: the product of the discounts before it.

  Args:
    discount: γ, [H, ...].

  Returns:
    [H, ...]; 1 at the start.
  """
  before = jnp.concatenate([jnp.ones_like(discount[:1]), discount[:-1]])
  return jnp.cumprod(before, 0)
