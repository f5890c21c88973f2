"""The policy, with an explicit recurrent state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vid2act_jax.learner import encode, teachers, transfer
from vid2act_jax.nets import dists
from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import ZERO_NOISE, Rng
from vid2act_jax.types import Carry, Latent, LearnerState

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


def initial_carry(agent: Agent, num: int) -> Carry:
  """Zero states of student and teachers for `num` environments."""
  teacher = predicted = evidence = guided = None
  if agent.teacher:
    domains, horizon = agent.num_domains, agent.variant.distillation.horizon
    teacher = agent.teacher.initial(domains, num)
    if horizon > 1:
      predicted = agent.teacher.initial(horizon - 1, domains, num)
    if agent.variant.weights.kind == 'evidence':
      evidence = jnp.zeros((domains, num))
    if agent.variant.guides_by('jump_start'):
      guided = jnp.zeros(num, bool)
  return Carry(
    student=agent.student.initial(num),
    teacher=teacher,
    action=jnp.zeros((num, agent.action_dim)),
    base=agent.base.initial(num) if agent.base else None,
    predicted=predicted,
    evidence=evidence,
    guided=guided,
  )


def acting_part(state: LearnerState) -> LearnerState:
  """The part of a state, or of its shapes, that `policy` reads."""
  model = dict(state.params['model'])
  world = dict(model['world_model'])
  for name in ('decoder', 'reward', 'discount'):
    world.pop(name, None)
  params = {
    'model': {**model, 'world_model': world},
    'actor': state.params['actor'],
  }
  return state.replace(params=params, opt={}, slow_critic={}, similarity=None)


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
    agent,
    model,
    carry.base,
    image,
    carry.action,
    first,
    student_rng.fold_in(1),
  )
  latent, _ = agent.student.observe_step(
    model['world_model'],
    carry.student,
    embed,
    carry.action,
    first,
    agent.student.latent_noise(student_rng, (num,)),
  )
  new = carry.replace(student=latent, base=base)

  label, extras = None, {}
  if agent.teacher:
    new, label, extras['similarity'] = _select_domain(
      agent, state, new, obs, (student_rng, teacher_rng, guidance_rng)
    )
  new, action = _choose_action(
    agent, state, new, label, first, (guidance_rng, action_rng), explore
  )
  return new.replace(action=action), action, extras


def _select_domain(
  agent: Agent,
  state: LearnerState,
  carry: Carry,
  obs: Mapping[str, jax.Array],
  rngs: Sequence[Rng],
) -> tuple[Carry, jax.Array, jax.Array]:
  """Advances the teachers, and selects the most similar domain.

  Args:
    agent: the networks, with a teacher.
    state: of the agent.
    carry: of the previous step, but for the student's part.
    obs: image and is_first.
    rngs: of student, teacher and guidance.

  Returns:
    The new carry, the domain i32 [E], and the similarity weights f32 [N, E].
  """
  student_rng, teacher_rng, guidance_rng = rngs
  model = state.params['model']
  new, teacher_feat = _observe_teachers(agent, state, carry, obs, teacher_rng)
  weights = transfer.similarity_weights(
    agent,
    model['transfer'],
    teacher_feat,
    _compared_state(agent, model, carry.student, student_rng.fold_in(2)),
    new.evidence,
  )
  # Random also without exploration.
  domain_rng = guidance_rng.fold_in(1).replace(noise_fns=agent.noise_fns)
  label = transfer.select_domain(
    agent, weights, domain_rng.normal(weights.shape)
  )
  return new, label, weights


def _choose_action(
  agent: Agent,
  state: LearnerState,
  carry: Carry,
  label: jax.Array | None,
  first: jax.Array,
  rngs: Sequence[Rng],
  explore: bool,
) -> tuple[Carry, jax.Array]:
  """The actor's action, or in jump-started episodes a generated one.

  Args:
    agent: the networks.
    state: of the agent.
    carry: with the states of this frame.
    label: i32 [E], the domain of the guidance; None without a teacher.
    first: bool [E], whether the frame begins an episode.
    rngs: of guidance and action.
    explore: as in `policy`.
  """
  guidance_rng, action_rng = rngs
  num, guidance_noise, generated = len(first), None, None
  if agent.variant.generates_actions:
    guidance_noise = agent.vae.latent_noise(guidance_rng, (num,))
  if agent.has_base_action or agent.variant.guides_by('jump_start'):
    generated, mask = _generate(agent, state, carry, label, guidance_noise)
  inputs = transfer.actor_input(
    agent,
    state.params['model']['transfer'],
    carry.student,
    label,
    guidance_noise,
    generated,
  )
  dist = apply(agent.actor, state.params['actor'], inputs)
  noise = action_rng.action_normal((num, agent.action_dim))
  action = jnp.clip(dists.sample(dist, noise), -1, 1)
  if explore and agent.variant.guides_by('jump_start'):
    assert generated is not None
    guided = _draw_guided(agent, state, carry.guided, first, action_rng)
    # The policy acts in the dimensions that the source does not have.
    replaced = guided[:, None] & (mask > 0)
    action = jnp.where(replaced, generated, action)
    carry = carry.replace(guided=guided)
  return carry, action


def _observe_teachers(
  agent: Agent,
  state: LearnerState,
  carry: Carry,
  obs: Mapping[str, jax.Array],
  rng: Rng,
) -> tuple[Carry, jax.Array]:
  """Advances the teachers by one frame.

  Args:
    agent: the networks, with a teacher.
    state: of the agent.
    carry: of the previous step, but for the student's part.
    obs: image and is_first.
    rng: for the noise.

  Returns:
    The new carry, and the features to compare with the student's, f32 [N, E,
    F_teacher].
  """
  model, params, first = agent.teacher, state.teacher, obs['is_first']
  assert model is not None
  embed = teachers.embed_all(agent, params, obs['image'][:, None])[:, :, 0]
  action = teachers.fit_actions(carry.action, agent.teacher_mask)
  noise = model.latent_noise(rng, action.shape[:2])

  def observe(params, label, latent, embed, action, noise):
    if label is not None:
      label = jnp.broadcast_to(label, first.shape)
    return model.observe_step(
      params, latent, embed, action, first, noise, label
    )

  latent, post = teachers.for_each_domain(
    agent, observe, params, carry.teacher, embed, action, noise
  )
  new = carry.replace(teacher=latent)
  if carry.evidence is not None:
    kl = teachers.prediction_kl(agent, params, latent, post)
    evidence = transfer.add_evidence(carry.evidence, kl, first)
    new = new.replace(evidence=evidence)
  if not agent.variant.distillation.horizon:
    return new, feature(latent)
  predicted = _predict_teachers(agent, params, carry, latent, first, rng)
  if carry.predicted is not None:
    shorter = jax.tree.map(lambda x: x[:-1], predicted)
    new = new.replace(predicted=shorter)
  return new, feature(jax.tree.map(lambda x: x[-1], predicted))


def _predict_teachers(agent, params, carry, latent, first, rng) -> Latent:
  """The teachers' states predicted 1 to K steps ahead, [K, N, E, ...].

  At the start of an episode they are the posterior states `latent` [N, E, ...].
  """
  before = jax.tree.map(lambda x: x[None], carry.teacher)
  if carry.predicted is not None:
    join = lambda *xs: jnp.concatenate(xs)
    before = jax.tree.map(join, before, carry.predicted)
  by_domain = jax.tree.map(lambda x: x.swapaxes(0, 1), before)
  shape = by_domain.deter.shape[:-1]  # [N, K, E]
  action = teachers.fit_actions(carry.action, agent.teacher_mask)
  action = jnp.broadcast_to(action[:, None], (*shape, action.shape[-1]))
  noise = agent.teacher.latent_noise(rng.fold_in(1), shape)
  predicted = teachers.imagine_step(agent, params, by_domain, action, noise)
  predicted = jax.tree.map(lambda x: x.swapaxes(0, 1), predicted)
  return jax.tree.map(
    lambda x, y: jnp.where(first[..., None], x, y), latent, predicted
  )


def _compared_state(agent, model, latent, rng) -> jax.Array:
  """The student's features that are compared with the teachers', [E, F]."""
  if agent.variant.distillation.horizon:
    prior = agent.student.prior(model['world_model'], latent.deter)
    noise = agent.student.latent_noise(rng, latent.deter.shape[:-1])
    latent = latent.replace(stoch=dists.sample(prior, noise))
  return feature(latent)


def _draw_guided(agent, state, guided, first, rng) -> jax.Array:
  """Whether generated actions act, bool [E]; drawn for whole episodes."""
  strength = transfer.jump_start_strength(agent, state.step)
  share = agent.variant.guidance.jump_start_share * strength
  draw = jax.random.uniform(rng.fold_in(1).key, first.shape)
  return jnp.where(first, draw < share, guided)


def _generate(agent, state, carry, label, noise):
  """The generator's actions at the teacher's own states; see its function."""
  params = state.params['model']['transfer']
  feat = transfer.select(feature(carry.teacher), label)
  states = transfer.generator_states(agent, params, feat)
  return transfer.generate_actions(agent, params, states, label, noise)
