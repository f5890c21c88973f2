"""Returns of imagined trajectories."""

import jax
import jax.numpy as jnp


def lambda_returns(
  reward: jax.Array, value: jax.Array, discount: jax.Array, lambda_: float
) -> jax.Array:
  """The λ-returns of DreamerV2 (arXiv 2010.02193, equation 4).

      R_t = r_t + γ_t ((1 - λ) v_{t+1} + λ R_{t+1}),  R_{H-1} := v_{H-1}

  Args:
    reward: [H, ...], at every state.
    value: [H, ...], at every state; the last one is the bootstrap value.
    discount: γ, [H, ...], after every state; 0 where an episode terminates.
    lambda_: λ.

  Returns:
    [H - 1, ...], the returns of all states but the last.
  """

  def step(next_return, x):
    r, v_next, gamma = x
    ret = r + gamma * ((1 - lambda_) * v_next + lambda_ * next_return)
    return ret, ret

  xs = (reward[:-1], value[1:], discount[:-1])
  # Unrolled: a few additions, without the overhead of a loop on a device.
  return jax.lax.scan(step, value[-1], xs, reverse=True, unroll=True)[1]


def discount_weights(discount: jax.Array) -> jax.Array:
  """The weight of each state: the product of the discounts before it.

  Args:
    discount: γ, [H, ...].

  Returns:
    [H, ...]; 1 at the start.
  """
  prev_discount = jnp.concatenate([jnp.ones_like(discount[:1]), discount[:-1]])
  return jnp.cumprod(prev_discount, 0)
