"""The policy, with an explicit recurrent state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vid2act_jax.learner import encode, teachers, transfer
from vid2act_jax.nets import dists
from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import ZERO_NOISE, Rng
from vid2act_jax.types import Carry, Latent, LearnerState, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


def initial_carry(agent: Agent, num: int) -> Carry:
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


def policy(
  agent: Agent,
  state: LearnerState,
  carry: Carry,
  obs: Mapping[str, jax.Array],
  key: jax.Array,
  explore: bool,
) -> tuple[Carry, jax.Array, dict[str, jax.Array]]:
  """Selects actions for E environments.

  The teacher has a separate recurrent state for each domain, as in training.

  Args:
    agent: the networks.
    state: only parameters and teacher are used.
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
  image, first = obs['image'], obs['is_first']
  num = image.shape[0]
  rng = agent.rng(key)
  if not explore:
    rng = rng.replace(noise_fns=ZERO_NOISE)
  student_rng, teacher_rng, guidance_rng, action_rng = rng.split(4)

  embed, base = encode.embed_step(
    agent, model, carry.base, image, first, student_rng.fold_in(1)
  )
  latent, _ = agent.student.observe_step(
    model['world_model'],
    carry.student,
    embed,
    carry.action,
    first,
    agent.student.latent_noise(student_rng, (num,)),
  )

  teacher, label, guidance_noise, extras = None, None, None, {}
  if agent.teacher:
    teacher = _teacher_step(
      agent, state.teacher, carry, image, first, teacher_rng
    )
    weights = transfer.similarity_weights(
      agent, model['transfer'], feature(teacher), feature(latent)
    )
    extras['similarity'] = weights
    # Random also without exploration.
    domain_rng = guidance_rng.fold_in(1).replace(noise_fns=agent.noise_fns)
    label = transfer.select_domain(
      agent, weights, domain_rng.normal(weights.shape)
    )
  if agent.uses_action_replay:
    guidance_noise = agent.vae.latent_noise(guidance_rng, (num,))

  inputs = transfer.actor_input(
    agent, model['transfer'], latent, label, guidance_noise
  )
  dist = apply(agent.actor, state.params['actor'], inputs)
  noise = action_rng.action_normal((num, agent.action_dim))
  action = jnp.clip(dists.sample(dist, noise), -1, 1)
  return Carry(latent, teacher, action, base), action, extras


def _teacher_step(
  agent: Agent,
  params: Params,
  carry: Carry,
  image: jax.Array,
  first: jax.Array,
  rng: Rng,
) -> Latent:
  """Advances the teachers' states [N, E, ...] by one frame."""
  model = agent.teacher
  assert model is not None
  embed = teachers.embed_all(model, params, image[:, None])[:, :, 0]
  action = teachers.fit_actions(carry.action, agent.source_mask)
  domains = jnp.arange(agent.num_domains)[:, None]
  label = jnp.broadcast_to(domains, action.shape[:2])
  first = jnp.broadcast_to(first, action.shape[:2])
  noise = model.latent_noise(rng, action.shape[:2])
  latent, _ = model.observe_step(
    params, carry.teacher, embed, action, first, noise, label
  )
  return latent
