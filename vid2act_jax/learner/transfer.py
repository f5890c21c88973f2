"""Transfer from the teacher's domains to the student (arXiv 2306.03360).

One function for each part: the similarity weights, the domain that they select,
the maps between features, the action VAE, and the guidance of the policy. Their
losses are in `finetune.transfer_losses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner.teachers import action_mask
from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import Latent, LearnerState, Normal, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent

_MAX_GUIDANCE_NOISE = 0.5  # Noise of the guidance is clipped to this.
# Evidence of earlier frames is forgotten at this rate a frame, so that weights
# of short sequences in training and of long episodes are alike.
_EVIDENCE_DECAY = 0.95


class ReplayOutputs(flax.struct.PyTreeNode):
  """Outputs of the action VAE on the source batches."""

  states: jax.Array  # f32 [N, B, L, F], that the actions were taken at
  recon: jax.Array  # f32 [N, B, L - 1, A], reconstructed actions
  latent: Normal  # [N, B, L - 1, 2A]


class Demonstration(flax.struct.PyTreeNode):
  """Actions of the sources that the actor is drawn to, state by state."""

  action: jax.Array  # f32 [..., A]
  # f32 [..., A]: the similarity weight of the domain; 0 for dimensions that the
  # domain does not have
  weight: jax.Array


class TransferOutputs(flax.struct.PyTreeNode):
  """Outputs of the forward pass of the transfer losses."""

  similarity: jax.Array  # f32 [N, B, L], weights: their sum over N is 1
  distance: jax.Array  # f32 [N, B, L]
  label: jax.Array  # i32 [B, L], the domain of the guidance
  replay: ReplayOutputs | None
  demonstration: Demonstration | None  # [B, L, ...], with guidance by a prior


def similarity_weights(
  agent: Agent,
  params: Params,
  teacher: jax.Array,
  student: jax.Array,
  evidence: jax.Array | None = None,
) -> jax.Array:
  """Similarity weights of the domains, according to the agent's variant.

  Args:
    agent: the networks, with a teacher.
    params: of the transfer modules.
    teacher: f32 [N, ..., F_teacher], features under every label.
    student: f32 [..., F].
    evidence: f32 [N, ...], from `accumulate_evidence`; for weights by evidence.

  Returns:
    f32 [N, ...]; the sum over the domains is 1.
  """
  weights, shape = agent.variant.weights, teacher.shape[:-1]
  if weights.kind == 'uniform':
    return jnp.full(shape, 1 / shape[0])
  if weights.kind == 'single':
    one_hot = jnp.arange(shape[0]) == weights.domain
    one_hot = one_hot.reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.broadcast_to(one_hot, shape).astype(jnp.float32)
  if weights.kind == 'evidence':
    assert evidence is not None
    return jax.nn.softmax(evidence / weights.temperature, 0)
  logits = apply(agent.similarity, params['similarity'], teacher, student)
  out = jax.nn.softmax(logits, 0)
  return jax.lax.stop_gradient(out) if weights.kind == 'frozen' else out


def add_evidence(
  before: jax.Array, kl: jax.Array, is_first: jax.Array
) -> jax.Array:
  """The evidence for every domain after one more frame.

  A teacher that predicts the frames of the target under its label has a small
  KL of posterior to prior. The evidence is minus the sum of these KLs, one term
  of a lower bound of the frames' log-likelihood; older frames count less. The
  other term, the reconstruction, would need the teacher's decoder.

  Args:
    before: f32 [N, ...], the evidence before the frame.
    kl: f32 [N, ...], of the frame, in nats.
    is_first: bool [...]; the evidence starts again.
  """
  return jnp.where(is_first, 0, _EVIDENCE_DECAY * before) - kl


def accumulate_evidence(kl: jax.Array, is_first: jax.Array) -> jax.Array:
  """`add_evidence` along sequences: [N, B, L], bool [B, L] -> [N, B, L]."""

  def step(before, x):
    evidence = add_evidence(before, *x)
    return evidence, evidence

  steps = jnp.moveaxis(kl, -1, 0), is_first.T
  _, out = jax.lax.scan(step, jnp.zeros(kl.shape[:-1]), steps)
  return jnp.moveaxis(out, 0, -1)


def select_domain(
  agent: Agent, weights: jax.Array, noise: jax.Array
) -> jax.Array:
  """Selects the most similar domain: weights f32 [N, ...] -> i32 [...].

  With uniform weights it is a random one, by `noise` f32 [N, ...].
  """
  if agent.variant.weights.kind == 'uniform':
    return noise.argmax(0)
  return weights.argmax(0)


def distill(agent: Agent, params: Params, feat: jax.Array) -> jax.Array:
  """Maps teacher features [..., F_teacher] to the student's [..., F]."""
  return apply(agent.distill, params['distill'], feat)


def predict_teachers(
  agent: Agent, params: Params, feat: jax.Array
) -> jax.Array:
  """Maps student features [..., F] to those of every teacher.

  Returns:
    f32 [N, ..., F_teacher].
  """
  out = apply(agent.predict_teachers, params['predict_teachers'], feat)
  out = out.reshape(*feat.shape[:-1], agent.num_domains, -1)
  return jnp.moveaxis(out, -2, 0)


def generator_states(
  agent: Agent, params: Params, teacher: jax.Array
) -> jax.Array:
  """The generator's input for teacher features: [..., F_teacher] -> [..., F].

  The generator trains neither the distillation map nor, through it, the
  student.
  """
  if agent.variant.distillation.direction == 'to_teacher':
    return teacher
  return jax.lax.stop_gradient(distill(agent, params, teacher))


def student_generator_states(
  agent: Agent, params: Params, feat: jax.Array, label: jax.Array
) -> jax.Array:
  """The generator's input for student features [..., F], label i32 [...]."""
  if agent.variant.distillation.direction != 'to_teacher':
    return feat
  return select(predict_teachers(agent, params, feat), label)


def select(per_domain: jax.Array, label: jax.Array) -> jax.Array:
  """Each row's entry of its domain: [N, ..., F], i32 [...] -> [..., F]."""
  index = label[None, ..., None]
  return jnp.take_along_axis(per_domain, index, 0)[0]


def reconstruct_actions(
  agent: Agent, params: Params, source: jax.Array, action: jax.Array, rng: Rng
) -> ReplayOutputs:
  """Runs the action VAE: the actions taken at the teacher's states.

  Args:
    agent: the networks, with a generator.
    params: of the transfer modules.
    source: f32 [N, B, L, F_teacher], features of the source batches.
    action: f32 [N, B, L - 1, A], the masked actions taken at them.
    rng: for the VAE's latents.
  """
  states = generator_states(agent, params, source)
  shape = action.shape[:-1]
  label = jnp.arange(len(source))[:, None, None]
  recon, latent = apply(
    agent.vae,
    params['vae'],
    states[:, :, :-1],
    action,
    jnp.broadcast_to(label, shape),
    agent.vae.latent_noise(rng, shape, row_axis=1),
  )
  return ReplayOutputs(states, recon, latent)


def guidance(
  agent: Agent,
  params: Params,
  states: jax.Array,
  label: jax.Array,
  noise: jax.Array,
) -> jax.Array:
  """The guidance: the last hidden layer of the VAE's decoder.

  Args:
    agent: the networks, with a generator.
    params: of the transfer modules.
    states: f32 [..., F], the generator's input.
    label: i32 [...], the domains.
    noise: from `ActionVAE.latent_noise`, [...]. It is clipped.
  """
  return apply(
    agent.vae,
    params['vae'],
    states,
    jnp.clip(noise, -_MAX_GUIDANCE_NOISE, _MAX_GUIDANCE_NOISE),
    label,
    method='guidance',
  )


def generate_actions(
  agent: Agent,
  params: Params,
  states: jax.Array,
  label: jax.Array,
  noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Generates the actions of a source domain in the target's action space.

  Args: as in `guidance`.

  Returns:
    Actions f32 [..., A], zero in dimensions that the domain does not have, and
    f32 [..., A], 1 for those that it has.
  """
  hidden = guidance(agent, params, states, label, noise)
  action = apply(agent.vae, params['vae'], hidden, method='decode')
  padding = max(agent.action_dim - action.shape[-1], 0)
  action = jnp.pad(action, [(0, 0)] * (action.ndim - 1) + [(0, padding)])
  masks = action_mask(agent.source_action_dims, agent.action_dim)
  mask = jnp.asarray(masks)[label]
  return action[..., : agent.action_dim] * mask, mask


def demonstrate(
  agent: Agent,
  params: Params,
  teacher: jax.Array,
  weights: jax.Array,
  label: jax.Array,
) -> Demonstration:
  """Generates actions at the teacher's states of the most similar domain.

  Args:
    agent: the networks, with a generator.
    params: of the transfer modules.
    teacher: f32 [N, ..., F_teacher], features under every label.
    weights: f32 [N, ...], similarity weights.
    label: i32 [...], the domains.
  """
  states = generator_states(agent, params, select(teacher, label))
  noise = jnp.zeros((*label.shape, agent.vae.latent_dim))
  action, mask = generate_actions(agent, params, states, label, noise)
  weight = select(weights[..., None], label)
  return jax.lax.stop_gradient(Demonstration(action, weight * mask))


def freeze_generator(
  agent: Agent, old: LearnerState, new: LearnerState
) -> LearnerState:
  """Keeps the generator's parameters once its share of the training is over."""
  until = agent.variant.generator.until
  if not agent.variant.generates_actions or until == 1:
    return new
  active = old.step < until * agent.settings.num_updates
  before = old.params['model']['transfer']['vae']
  model = new.params['model']
  vae = jax.tree.map(
    lambda x, y: jnp.where(active, x, y), model['transfer']['vae'], before
  )
  model = {**model, 'transfer': {**model['transfer'], 'vae': vae}}
  return new.replace(params={**new.params, 'model': model})


def jump_start_strength(agent: Agent, step: jax.Array) -> jax.Array:
  """The strength of the guidance by jump start, f32 [], from 1 to 0."""
  updates = agent.variant.guidance.updates
  return jnp.clip(1 - step / updates, 0, 1) if updates else jnp.zeros(())


def prior_strength(agent: Agent, step: jax.Array) -> jax.Array:
  """The strength of the guidance by a prior, f32 [], from 1 down.

  It falls geometrically, to a thousandth in the updates of the guidance, and
  further after them. The policy leaves the prior where a small strength
  balances the gradient of the returns, and a linear fade would pass that
  strength within a few updates.
  """
  updates = agent.variant.guidance.updates
  return 1e-3 ** (step / updates) if updates else jnp.zeros(())


def actor_input(
  agent: Agent,
  params: Params,
  latent: Latent,
  label: jax.Array | None,
  noise: jax.Array | None,
  base: jax.Array | None = None,
) -> jax.Array:
  """The input of the actor: [s, guidance, base action], the last two if used.

  They are those at the student's state, under the label of the most similar
  domain.

  Args:
    agent: the networks.
    params: of the transfer modules.
    latent: student states [M, ...].
    label: i32 [M], each state's most similar domain, or None.
    noise: from `ActionVAE.latent_noise`, [M, ...]; None without guidance.
    base: generated actions f32 [M, A] where the teacher's own state is known;
      None: generated at the student's state.
  """
  feat = feature(latent)
  if not (agent.reads_guidance or agent.has_base_action):
    return feat
  assert label is not None and noise is not None
  states = student_generator_states(agent, params, feat, label)
  parts = [feat]
  if agent.reads_guidance:
    parts.append(guidance(agent, params, states, label, noise))
  if agent.has_base_action:
    if base is None:
      base, _ = generate_actions(agent, params, states, label, noise)
    parts.append(base)
  return jnp.concatenate(parts, -1)
