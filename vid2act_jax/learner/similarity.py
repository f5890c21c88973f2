"""How much each source domain counts: the weights, and the one chosen."""

import jax
import jax.numpy as jnp


def weights(agent, params, teacher, student) -> jax.Array:
  """Similarity weights, as the agent's variant has them.

  Args:
    agent: an `Agent` with a teacher.
    params: of the transfer modules.
    teacher: f32 [N, ..., F_teacher], features under every label.
    student: f32 [..., F].

  Returns:
    f32 [N, ...], of sum 1 over the domains.
  """
  variant, shape = agent.variant, teacher.shape[:-1]
  if variant.weights == 'uniform':
    return jnp.full(shape, 1 / shape[0])
  if variant.weights == 'single':
    domain = jnp.arange(shape[0]) == variant.domain
    domain = domain.reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.broadcast_to(domain, shape).astype(jnp.float32)
  logits = agent.similarity.apply(
    {'params': params['similarity']}, teacher, student
  )
  out = jax.nn.softmax(logits, 0)
  return jax.lax.stop_gradient(out) if variant.weights == 'frozen' else out


def select_domain(agent, weights: jax.Array, noise: jax.Array) -> jax.Array:
  """The most similar domain: i32 [...] of weights f32 [N, ...].

  Equal weights know none: then chance (`noise`, f32 [N, ...]) decides.
  """
  if agent.variant.weights == 'uniform':
    return noise.argmax(0)
  return weights.argmax(0)
