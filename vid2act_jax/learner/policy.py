"""The policy, with an explicit recurrent state."""

import jax
import jax.numpy as jnp

from vid2act_jax.learner import encode, imagination, similarity, teachers
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Carry


def initial_carry(agent, num: int) -> Carry:
  """Zero states of student and teachers for `num` environments."""
  teacher = None
  if agent.teacher:
    teacher = agent.teacher.initial(agent.num_domains, num)
  return Carry(
    student=agent.student.initial(num),
    teacher=teacher,
    action=jnp.zeros((num, agent.action_dim)),
    base=agent.base.initial(num) if agent.base else None,
  )


def policy(agent, state, carry: Carry, obs, key, explore: bool):
  """Selects actions for E environments.

  The teacher has a separate recurrent state for each domain, as in training.

  Args:
    agent: an `Agent`.
    state: its LearnerState; only parameters and teacher are used.
    carry: from the previous step, or `initial_carry`.
    obs: {image: u8 [E, 64, 64, 3], is_first: bool [E]}; more keys are ignored.
    key: for the noise; a new one for every step.
    explore: sample everything, as in training; otherwise take the means of
      states, guidance and action, as in evaluation. With uniform similarity
      weights the domain is random in both cases.

  Returns:
    The new carry, actions f32 [E, A] in [-1, 1], and extras: with transfer,
    `similarity` f32 [N, E].
  """
  model = state.params['model']
  world = model['world_model']
  keys = jax.random.split(key, 4)

  def noise(key, draw, *shape):
    return draw(key, shape) if explore else jnp.zeros(shape)

  image, first = obs['image'], obs['is_first']
  num = image.shape[0]
  draw, student = agent.draws.latent, agent.student
  base_noise = None
  if agent.base:
    size = num, agent.base.sizes.stoch
    base_noise = noise(jax.random.fold_in(keys[0], 1), draw, *size)
  embed, base = encode.embed_step(
    agent, model, carry.base, image, first, base_noise
  )
  latent, _ = student.observe_step(
    world,
    carry.student,
    embed,
    carry.action,
    first,
    noise(keys[0], draw, num, student.sizes.stoch),
  )

  teacher, label, vae_noise, extras = None, None, None, {}
  if agent.teacher:
    teacher = _teacher_step(
      agent, state.teacher, carry, image, first,
      noise(keys[1], draw, agent.num_domains, num, agent.teacher.sizes.stoch),
    )  # fmt: skip
    weights = similarity.weights(
      agent, model['transfer'], feature(teacher), feature(latent)
    )
    extras['similarity'] = weights
    domain_noise = draw(jax.random.fold_in(keys[2], 1), weights.shape)
    label = similarity.select_domain(agent, weights, domain_noise)
  if agent.replays:
    vae_noise = noise(keys[2], draw, num, agent.vae.latent_dim)

  inputs = imagination.actor_input(agent, model, latent, label, vae_noise)
  dist = agent.actor.apply({'params': state.params['actor']}, inputs)
  actor_noise = noise(keys[3], agent.draws.actor, num, agent.action_dim)
  action = jnp.clip(dists.sample(dist, actor_noise), -1, 1)
  return Carry(latent, teacher, action, base), action, extras


def _teacher_step(agent, params, carry, image, first, noise):
  """Advances the teachers' states [N, E, ...] by one frame."""
  model = agent.teacher
  embed = teachers.embed_all(model, params, image[:, None])[:, :, 0]
  action = teachers.fit_actions(carry.action, agent.source_mask)
  domains = jnp.arange(agent.num_domains)[:, None]
  label = jnp.broadcast_to(domains, action.shape[:2])
  first = jnp.broadcast_to(first, action.shape[:2])
  latent, _ = model.observe_step(
    params, carry.teacher, embed, action, first, noise, label
  )
  return latent
