"""One finetuning update: the whole objective, in the order it is computed.

  1. Model: the losses of the student's world model (DreamerV2), distillation
     from the frozen teacher, and the action VAE (Vid2Act, arXiv 2306.03360).
  2. Behavior: actor and critic, on trajectories that the updated model imagines
     (DreamerV2, arXiv 2010.02193).

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
  encode,
  imagination,
  teachers,
  transfer,
  update,
)
from vid2act_jax.learner.settings import total
from vid2act_jax.learner.world_model_loss import (
  WorldModelOutputs,
  world_model_losses,
)
from vid2act_jax.losses import behavior, returns
from vid2act_jax.losses.transfer import distillation_loss, vae_loss
from vid2act_jax.nets import dists
from vid2act_jax.nets.apply import apply
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
    The new state, and metrics: scalars, and `similarity` [N] with a teacher.
  """
  rng = agent.rng(update.step_key(state, key), axis_name)
  *model_rngs, behavior_rng = rng.split(3)

  # 1. Model: world model, distillation and action VAE, with one optimizer.
  grad_fn = jax.value_and_grad(model_loss, argnums=1, has_aux=True)
  (_, (metrics, outputs, transfer_outputs)), grads = grad_fn(
    agent, state.params['model'], state.teacher, batch, model_rngs
  )
  new, model_norm = update.apply_gradients(
    agent.optimizers['model'], state, 'model', grads, axis_name
  )

  # 2. Behavior: actor and critic, on trajectories of the updated model.
  start = imagination_start(batch, outputs, transfer_outputs)
  new, behavior_metrics, norms = behavior_step(agent, new, start, behavior_rng)

  # 3. The update counts only if all its metrics are finite.
  metrics = {**metrics, **behavior_metrics}
  if axis_name:
    metrics = jax.lax.pmean(metrics, axis_name)
  metrics = {**metrics, 'model_grad_norm': model_norm, **norms}
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
  target, settings = batch.target, agent.settings.loss

  # The teacher and the student observe their sequences in the same loop.
  frozen_scans = []
  if agent.teacher:
    scan = teachers.teacher_scan(agent, teacher, batch, teacher_rng)
    frozen_scans.append(scan)
  embed, other_losses = encode.embed(
    agent, params, target, world_rng.fold_in(1)
  )
  observe = agent.student.observe_scan(
    params['world_model'],
    embed,
    target.action,
    target.is_first,
    agent.student.latent_noise(world_rng, target.reward.shape, row_axis=0),
  )
  world_losses, metrics, outputs = world_model_losses(
    agent.student,
    params['world_model'],
    observe,
    target,
    settings,
    rng.axis_name,
    frozen_scans,
  )

  transfer_outputs = None
  if agent.teacher:
    ((teacher_latent, _),) = outputs.frozen_outputs
    features = teachers.split_features(agent, batch, teacher_latent)
    losses, transfer_metrics, transfer_outputs = transfer_losses(
      agent,
      params['transfer'],
      feature(outputs.latent),
      features,
      batch.sources,
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


def transfer_losses(
  agent: Agent,
  params: Params,
  student: jax.Array,
  features: teachers.TeacherFeatures,
  sources: Batch | None,
  rng: Rng,
) -> tuple[Metrics, Metrics, transfer.TransferOutputs]:
  """Distillation on the target batch, the action VAE on the source batches.

  Args:
    agent: the networks, with a teacher.
    params: of the transfer modules.
    student: f32 [B, L, F], the student's features s of the target batch.
    features: the teacher's, s^i under the label of domain i.
    sources: [N, B, L, ...]; None without action replay.
    rng: for the noise.

  Returns:
    The losses before scaling, metrics, and outputs of the forward pass.
  """
  variant = agent.variant
  if not variant.distill:
    student = jax.lax.stop_gradient(student)
  # Similarity weights: w = softmax_i(Dense([s^i, s])).
  weights = transfer.similarity_weights(agent, params, features.target, student)
  # Domain-selective distillation: sum_i max(w^i, floor) |distill(s^i) - s|^2.
  distilled = transfer.distill(agent, params, features.target)
  single = variant.weights == 'single'
  floor = 0.0 if single else agent.settings.transfer.importance_floor
  distillation, distance = distillation_loss(weights, distilled, student, floor)
  losses = {'distillation': distillation}
  metrics = {
    'similarity': weights.mean((1, 2)),
    'similarity_entropy': jax.scipy.special.entr(weights).sum(0).mean(),
  }
  # Generative action replay: a VAE of the actions taken at source states.
  replay = None
  if agent.uses_action_replay:
    assert features.source is not None and sources is not None
    losses['vae'], vae_metrics, replay = replay_loss(
      agent, params, features.source, sources, rng
    )
    metrics = {**metrics, **vae_metrics}
  # The domain whose guidance the policy reads in imagination: argmax_i w^i.
  domain_noise = rng.fold_in(1).normal(weights.shape, row_axis=1)
  label = transfer.select_domain(agent, weights, domain_noise)
  outputs = transfer.TransferOutputs(weights, distance, label, replay)
  return losses, metrics, outputs


def replay_loss(
  agent: Agent,
  params: Params,
  source: jax.Array,
  sources: Batch,
  rng: Rng,
) -> tuple[jax.Array, Metrics, transfer.ReplayOutputs]:
  """The loss of the action VAE: reconstruction and KL, summed over domains.

  Args:
    agent: the networks, with action replay.
    params: of the transfer modules.
    source: f32 [N, B, L, F_teacher], the teacher's features of the sources.
    sources: [N, B, L, ...].
    rng: for the noise.
  """
  mask, num = agent.source_mask, agent.num_domains
  # The action taken at a state is stored with the next one.
  action = (sources.action * mask[:, None, None])[:, :, 1:]
  replay = transfer.reconstruct_actions(agent, params, source, action, rng)
  error, kl = vae_loss(replay.recon, action, replay.latent, mask)
  used = jnp.ones(num)
  if agent.variant.weights == 'single':
    used = jax.nn.one_hot(agent.variant.domain, num)
  loss = (used * (error + agent.settings.transfer.vae_kl * kl)).sum()
  metrics = {
    'vae_error': (used * error).sum() / used.sum(),
    'vae_kl': (used * kl).sum() / used.sum(),
  }
  return loss, metrics, replay


def imagination_start(
  batch: FinetuneBatch,
  outputs: WorldModelOutputs,
  transfer_outputs: transfer.TransferOutputs | None,
) -> imagination.Start:
  """All states of the target batch as starts of imagination: M = B L."""
  start = imagination.Start(
    outputs.latent,
    transfer_outputs.label if transfer_outputs else None,
    batch.target.discount,
  )
  flat = lambda x: jax.lax.stop_gradient(x.reshape(-1, *x.shape[2:]))
  return jax.tree.map(flat, start)


def behavior_step(
  agent: Agent, state: LearnerState, start: imagination.Start, rng: Rng
) -> tuple[LearnerState, Metrics, Metrics]:
  """Updates actor and critic on trajectories of the updated model.

  Args:
    agent: the networks, optimizers and hyperparameters.
    state: with the updated parameters of the model.
    start: of M trajectories.
    rng: for the noise.

  Returns:
    The new state, metrics, and gradient norms.
  """
  due = state.step % agent.settings.behavior.slow_period == 0
  slow = jax.tree.map(
    lambda new, old: jnp.where(due, new, old),
    state.params['critic'],
    state.slow_critic,
  )
  state = state.replace(slow_critic=slow)

  actor_fn = jax.value_and_grad(actor_loss, argnums=2, has_aux=True)
  (loss, (metrics, imagined, target, weights)), actor_grads = actor_fn(
    agent, state, state.params['actor'], start, rng
  )
  feat = jax.lax.stop_gradient(imagined.feat[:-1])
  critic_fn = jax.value_and_grad(critic_loss, argnums=1)
  value_loss, critic_grads = critic_fn(
    agent, state.params['critic'], feat, target, weights
  )
  metrics = {'actor_loss': loss, 'value_loss': value_loss, **metrics}
  norms = {}
  for name, metric, grads in (
    ('actor', 'actor_grad_norm', actor_grads),
    ('critic', 'value_grad_norm', critic_grads),
  ):
    state, norms[metric] = update.apply_gradients(
      agent.optimizers[name], state, name, grads, rng.axis_name
    )
  return state, metrics, norms


def actor_loss(
  agent: Agent,
  state: LearnerState,
  actor_params: Params,
  start: imagination.Start,
  rng: Rng,
) -> tuple[
  jax.Array, tuple[Metrics, imagination.Imagined, jax.Array, jax.Array]
]:
  """The actor's loss on imagined λ-returns with the slow critic.

  Returns:
    The loss; metrics, the trajectories [H, M, ...], their λ-returns
    [H - 1, M] and their states' weights [H - 1, 1 or M].
  """
  settings = agent.settings.behavior
  model = state.params['model']
  imagined = imagination.imagine(agent, model, actor_params, start, rng)
  world = model['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  value = apply(agent.critic, state.slow_critic, imagined.feat)
  discount = _discounts(agent, world, imagined.feat, start.discount)
  target = returns.lambda_returns(reward, value, discount, settings.lambda_)
  weights = returns.discount_weights(jax.lax.stop_gradient(discount))[:-1]
  entropy = dists.entropy(imagined.dist)
  loss = behavior.actor_loss(target, entropy[:-1], weights, settings.entropy)
  metrics = {
    'actor_ent': entropy.mean(),
    'imagined_return': target.mean(),
    **behavior.reward_stats(reward),
  }
  if agent.student.predict_continue:
    metrics['imagined_discount'] = discount[1:].mean()
  return loss, (metrics, imagined, target, weights)


def _discounts(agent, world, feat, first):
  """γ after every state, [H, M]; [H, 1] without a discount head."""
  fixed = jnp.full((len(feat), 1), agent.settings.behavior.discount)
  if not agent.student.predict_continue:
    return fixed
  cont = jax.nn.sigmoid(agent.student.predict_discount(world, feat[1:]))
  return fixed * jnp.concatenate([first[None], cont])


def critic_loss(
  agent: Agent,
  params: Params,
  feat: jax.Array,
  target: jax.Array,
  weights: jax.Array,
) -> jax.Array:
  """Regression to the returns of `actor_loss`; feat [H - 1, M, F]."""
  value = apply(agent.critic, params, feat)
  return behavior.critic_loss(value, target, weights)
