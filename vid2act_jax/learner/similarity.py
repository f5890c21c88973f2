"""Similarity weights of the source domains, and the selected domain."""

import jax
import jax.numpy as jnp


def weights(agent, params, teacher, student) -> jax.Array:
  """Similarity weights, according to the agent's variant.

  Args:
    agent: an `Agent` with a teacher.
    params: of the transfer modules.
    teacher: f32 [N, ..., F_teacher], features under every label.
    student: f32 [..., F].

  Returns:
    f32 [N, ...]; the sum over the domains is 1.
  """
  variant, shape = agent.variant, teacher.shape[:-1]
  if variant.weights == 'uniform':
    return jnp.full(shape, 1 / shape[0])
  if variant.weights == 'single':
    one_hot = jnp.arange(shape[0]) == variant.domain
    one_hot = one_hot.reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.broadcast_to(one_hot, shape).astype(jnp.float32)
  logits = agent.similarity.apply(
    {'params': params['similarity']}, teacher, student
  )
  out = jax.nn.softmax(logits, 0)
  return jax.lax.stop_gradient(out) if variant.weights == 'frozen' else out


def select_domain(agent, weights: jax.Array, noise: jax.Array) -> jax.Array:
  """Selects the most similar domain: weights f32 [N, ...] -> i32 [...].

  With uniform weights it is a random one, by `noise` f32 [N, ...].
  """
  if agent.variant.weights == 'uniform':
    return noise.argmax(0)
  return weights.argmax(0)
