"""One finetuning update: the whole objective, in the order it is computed.

  1. Model: the losses of the student's world model (DreamerV2), distillation
     from the frozen teacher, and the action VAE (Vid2Act, arXiv 2306.03360).
  2. Behavior: actor and critic, on trajectories that the updated model imagines
     (`actor_critic`).

A loss of the model is the mean over the batch (of distillation and the VAE: the
sum over domains of such means), times its scale in `LossScales`. The losses of
actor and critic have no scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vid2act_jax.learner import (
  actor_critic,
  encode,
  imagination,
  rehearsal,
  teachers,
  transfer,
  update,
)
from vid2act_jax.learner.settings import total
from vid2act_jax.learner.world_model_loss import (
  WorldModelOutputs,
  world_model_losses,
)
from vid2act_jax.losses.transfer import distillation_loss, vae_loss
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import (
  Batch,
  FinetuneBatch,
  LearnerState,
  Metrics,
  Params,
)

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


def finetune_step(
  agent: Agent,
  state: LearnerState,
  batch: FinetuneBatch,
  key: jax.Array,
  axis_name: str | None = None,
) -> tuple[LearnerState, Metrics]:
  """One update of the student, the transfer modules, the actor and the critic.

  Args:
    agent: the networks, optimizers and hyperparameters.
    state: the state before the update.
    batch: target [B, L, ...] and sources [N, B, L, ...] (None without action
      replay).
    key: the root key, the same for every update.
    axis_name: the mapped axis that B is split over, if any.

  Returns:
    The new state, and metrics: scalars, and with a teacher `similarity` and,
    with weights by evidence, `teacher_kl`, both [N].
  """
  rng = agent.rng(update.step_key(state, key), axis_name)
  *model_rngs, behavior_rng = rng.split(3)

  # 1. Model: world model, distillation and action VAE, with one optimizer.
  batch = rehearsal.select_domains(state, batch, axis_name)
  grad_fn = jax.value_and_grad(model_loss, argnums=1, has_aux=True)
  (_, (metrics, outputs, transfer_outputs)), grads = grad_fn(
    agent, state.params['model'], state.teacher, batch, model_rngs
  )
  new, model_norm = update.apply_gradients(
    agent.optimizers['model'], state, 'model', grads, axis_name
  )
  new = transfer.freeze_generator(agent, state, new)

  # 2. Behavior: actor and critic, on trajectories of the updated model.
  start = imagination_start(agent, batch, outputs, transfer_outputs)
  length = batch.target.reward.shape[1]
  behavior_rng = behavior_rng.replace(parts=rehearsal.parts(batch, length))
  new, behavior_metrics, norms = actor_critic.behavior_step(
    agent, new, start, behavior_rng
  )

  # 3. The update counts only if all its metrics are finite.
  metrics = {**metrics, **behavior_metrics}
  if axis_name:
    metrics = jax.lax.pmean(metrics, axis_name)
  metrics = {**metrics, 'model_grad_norm': model_norm, **norms}
  if state.similarity is not None:
    new = rehearsal.update_similarity(new, metrics['similarity'])
  return update.skip_nonfinite(state, new, metrics)


def model_loss(
  agent: Agent,
  params: Params,
  teacher: Params,
  batch: FinetuneBatch,
  rngs: Sequence[Rng],
) -> tuple[
  jax.Array, tuple[Metrics, WorldModelOutputs, transfer.TransferOutputs | None]
]:
  """The loss of the world model and of the transfer modules.

  Args:
    agent: the networks and hyperparameters.
    params: {world_model, base, transfer}.
    teacher: the frozen teacher's {encoder, rssm}; {} without one.
    batch: of this update.
    rngs: for the noise of the teacher, and for all other noise.

  Returns:
    The loss; metrics, and outputs of the forward pass.
  """
  teacher_rng, rng = rngs
  world_rng, transfer_rng = rng.split()
  compared_rng = world_rng.fold_in(2)
  rows, settings = rehearsal.join_rows(agent, batch), agent.settings.loss
  student = rows.batch
  world_rng = world_rng.replace(parts=rehearsal.parts(batch))

  # The teacher and the student observe their sequences in the same loop.
  frozen_scans = []
  if agent.teacher:
    frozen_scans = teachers.teacher_scans(agent, teacher, batch, teacher_rng)
  embed, other_losses = encode.embed(
    agent, params, student, world_rng.fold_in(1)
  )
  observe = agent.student.observe_scan(
    params['world_model'],
    agent.student.project_embed(params['world_model'], embed),
    student.action,
    student.is_first,
    agent.student.latent_noise(world_rng, student.reward.shape, row_axis=0),
  )
  world_losses, metrics, outputs = world_model_losses(
    agent.student,
    params['world_model'],
    observe,
    student,
    settings,
    rng.axis_name,
    frozen_scans,
    rows.reward_mask,
  )

  transfer_outputs = None
  if agent.teacher:
    features = teachers.compute_features(
      agent, teacher, batch, outputs.frozen_outputs, teacher_rng.fold_in(1)
    )
    losses, transfer_metrics, transfer_outputs = transfer_losses(
      agent,
      params['transfer'],
      _compared_states(agent, outputs, batch, compared_rng),
      features,
      batch,
      transfer_rng,
    )
    other_losses = {**other_losses, **losses}
    metrics = {**metrics, **transfer_metrics}

  # Summed in this order: another one would round differently.
  world_losses = settings.scales.apply(world_losses)
  other_losses = settings.scales.apply(other_losses)
  loss = total(world_losses) + total(other_losses)
  metrics = {'model_loss': loss, **metrics, **world_losses, **other_losses}
  return loss, (metrics, outputs, transfer_outputs)


def _compared_states(agent, outputs, batch, rng) -> jax.Array:
  """The student's features of the target batch that are distilled, [B, L, F].

  Next to predicted states of the teacher these are predicted, too: one step
  ahead, by the prior.
  """
  # The rows of the target come first.
  crop = lambda x: x[: batch.target.reward.shape[0]]
  latent, prior = jax.tree.map(crop, (outputs.latent, outputs.prior))
  if agent.variant.distillation.horizon:
    shape = latent.deter.shape[:2]
    noise = agent.student.latent_noise(rng, shape, row_axis=0)
    latent = latent.replace(stoch=dists.sample(prior, noise))
  return feature(latent)


def transfer_losses(
  agent: Agent,
  params: Params,
  student: jax.Array,
  features: teachers.TeacherFeatures,
  batch: FinetuneBatch,
  rng: Rng,
) -> tuple[Metrics, Metrics, transfer.TransferOutputs]:
  """Distillation on the target batch, the action VAE on the source batches.

  Args:
    agent: the networks, with a teacher.
    params: of the transfer modules.
    student: f32 [B, L, F], the student's features s of the target batch.
    features: the teacher's, s^i under the label of domain i.
    batch: of this update.
    rng: for the noise.

  Returns:
    The losses before scaling, metrics, and outputs of the forward pass.
  """
  settings = agent.variant.distillation
  if settings.direction == 'none':
    student = jax.lax.stop_gradient(student)
  # Similarity weights: w = softmax_i(Dense([s^i, s])), or by evidence.
  evidence = None
  if features.kl is not None:
    is_first = batch.target.is_first
    evidence = transfer.accumulate_evidence(features.kl, is_first)
  weights = transfer.similarity_weights(
    agent, params, features.target, student, evidence
  )
  # Domain-selective distillation: sum_i max(w^i, floor) |distill(s^i) - s|^2.
  if settings.direction == 'to_teacher':
    mapped = transfer.predict_teachers(agent, params, student)
    other = features.target
  else:
    mapped = transfer.distill(agent, params, features.target)
    other = student
  distillation, distance = distillation_loss(
    weights, mapped, other, settings.floor, settings.distance
  )
  losses = {'distillation': distillation}
  metrics = {
    'similarity': weights.mean((1, 2)),
    'similarity_entropy': jax.scipy.special.entr(weights).sum(0).mean(),
  }
  if features.kl is not None:
    metrics['teacher_kl'] = features.kl.mean((1, 2))
  # Generative action replay: a VAE of the actions taken at source states.
  replay = None
  if agent.trains_generator:
    assert features.source is not None and batch.sources is not None
    used = _generator_domains(agent, metrics['similarity'], rng.axis_name)
    losses['vae'], vae_metrics, replay = replay_loss(
      agent, params, features.source, batch.sources, used, rng
    )
    metrics = {**metrics, **vae_metrics}
  # The domain whose guidance the policy reads in imagination: argmax_i w^i.
  domain_noise = rng.fold_in(1).normal(weights.shape, row_axis=1)
  label = transfer.select_domain(agent, weights, domain_noise)
  demonstration = None
  if agent.variant.guides_by('prior'):
    demonstration = transfer.demonstrate(
      agent, params, features.target, weights, label
    )
  outputs = transfer.TransferOutputs(
    weights, distance, label, replay, demonstration
  )
  return losses, metrics, outputs


def _generator_domains(agent, similarity, axis_name) -> jax.Array:
  """f32 [N]: 1 for the domains that the generator learns from, else 0."""
  weights, num = agent.variant.weights, agent.num_domains
  if weights.kind == 'single':
    return jax.nn.one_hot(weights.domain, num)
  if agent.variant.generator.domains == 'all':
    return jnp.ones(num)
  if axis_name:
    similarity = jax.lax.pmean(similarity, axis_name)
  return jax.nn.one_hot(similarity.argmax(), num)


def replay_loss(
  agent: Agent,
  params: Params,
  source: jax.Array,
  sources: Batch,
  used: jax.Array,
  rng: Rng,
) -> tuple[jax.Array, Metrics, transfer.ReplayOutputs]:
  """The loss of the action VAE: reconstruction and KL, summed over domains.

  Args:
    agent: the networks, with action replay.
    params: of the transfer modules.
    source: f32 [N, B, L, F_teacher], the teacher's features of the sources.
    sources: [N, B, L, ...].
    used: f32 [N], 1 for the domains to learn from, else 0.
    rng: for the noise.
  """
  mask = agent.source_mask
  # The action taken at a state is stored with the next one.
  action = (sources.action * mask[:, None, None])[:, :, 1:]
  replay = transfer.reconstruct_actions(agent, params, source, action, rng)
  error, kl = vae_loss(replay.recon, action, replay.latent, mask)
  loss = (used * (error + agent.settings.transfer.vae_kl * kl)).sum()
  metrics = {
    'vae_error': (used * error).sum() / used.sum(),
    'vae_kl': (used * kl).sum() / used.sum(),
  }
  return loss, metrics, replay


def imagination_start(
  agent: Agent,
  batch: FinetuneBatch,
  outputs: WorldModelOutputs,
  transfer_outputs: transfer.TransferOutputs | None,
) -> imagination.Start:
  """All states of the student's sequences as starts of imagination.

  M = B L, with rehearsal (B + R) L.
  """
  rows = rehearsal.join_rows(agent, batch)
  label = demonstration = None
  if transfer_outputs:
    label = rehearsal.join_labels(rows, transfer_outputs.label)
    demonstration = transfer_outputs.demonstration
  if demonstration:
    demonstration = rehearsal.join_demonstrations(agent, rows, demonstration)
  start = imagination.Start(
    outputs.latent, label, rows.batch.discount, demonstration
  )
  flat = lambda x: jax.lax.stop_gradient(x.reshape(-1, *x.shape[2:]))
  return jax.tree.map(flat, start)
