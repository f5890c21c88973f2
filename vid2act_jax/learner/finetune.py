"""One finetuning update: model and transfer, then actor and critic."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner import (
  encode,
  imagination,
  similarity,
  teachers,
  update,
)
from vid2act_jax.learner.noise import by_row
from vid2act_jax.losses import behavior, returns, transfer
from vid2act_jax.losses.world_model import Forward, world_model_loss
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import FinetuneBatch, LearnerState, Metrics, Normal


@flax.struct.dataclass
class TransferForward:
  """Outputs of the forward pass of the transfer losses."""

  similarity: jax.Array  # f32 [N, B, L]
  distance: jax.Array  # f32 [N, B, L]
  label: jax.Array  # i32 [B, L], the domain of the guidance
  replay: 'ReplayForward | None'


@flax.struct.dataclass
class ReplayForward:
  """Outputs of the action VAE on the source batches."""

  distilled: jax.Array  # f32 [N, B, L, F]
  recon: jax.Array  # f32 [N, B, L - 1, A], actions
  latent: Normal  # [N, B, L - 1, 2A]


def step(
  agent,
  state: LearnerState,
  batch: FinetuneBatch,
  key: jax.Array,
  axis_name: str | None = None,
) -> tuple[LearnerState, Metrics]:
  """One update of the student, the transfer modules, the actor and the critic.

  Args:
    agent: an `Agent`.
    state: its state.
    batch: target [B, L, ...] and sources [N, B, L, ...] (None without action
      replay).
    key: the root key, the same for every update.
    axis_name: the mapped axis that B is split over, if any.

  Returns:
    The new state, and metrics: scalars, and `similarity` [N] with a teacher.
  """
  key = update.step_key(state, key)
  *model_keys, behavior_key = jax.random.split(key, 3)
  grad_fn = jax.value_and_grad(model_loss, argnums=1, has_aux=True)
  (_, (metrics, forward, transfer_forward)), grads = grad_fn(
    agent, state.params['model'], state.teacher, batch, model_keys, axis_name
  )
  new, norms = update_model(agent, state, grads, axis_name)
  start = imagination_start(batch, forward, transfer_forward)
  new, behavior_metrics, behavior_norms = behavior_step(
    agent, new, start, behavior_key, axis_name
  )
  metrics = {**metrics, **behavior_metrics}
  if axis_name:
    metrics = jax.lax.pmean(metrics, axis_name)
  return update.skip_nonfinite(
    state, new, {**metrics, **norms, **behavior_norms}
  )


def model_loss(
  agent, params, teacher, batch: FinetuneBatch, keys, axis_name=None
) -> tuple[jax.Array, tuple[Metrics, Forward, TransferForward | None]]:
  """World-model, distillation and VAE losses.

  Args:
    agent: an `Agent`.
    params: {world_model, base, transfer}.
    teacher: the frozen teacher's {encoder, rssm}; {} without one.
    batch: of this update.
    keys: for the noise of the teacher, and for all other noise.
    axis_name: the mapped axis that B is split over, if any.
  """
  teacher_key, key = keys
  world_key, vae_key = jax.random.split(key)
  frozen_scans = ()
  if agent.teacher:
    frozen_scans = (
      teachers.teacher_inputs(agent, teacher, batch, teacher_key, axis_name),
    )
  spec, target = agent.loss, batch.target
  shape = (*target.reward.shape, agent.student.sizes.stoch)
  embed, base_losses = encode.embed(
    agent, params, target, jax.random.fold_in(world_key, 1), axis_name
  )
  loss, (metrics, forward) = world_model_loss(
    agent.student,
    params['world_model'],
    embed,
    target,
    by_row(agent.draws.latent, world_key, shape, 0, axis_name),
    spec.scales,
    spec.kl_balance,
    spec.kl_free,
    axis_name=axis_name,
    frozen_scans=frozen_scans,
  )
  losses, transfer_forward = base_losses, None
  if agent.teacher:
    teacher_features = teachers.split_features(
      agent, batch, forward.frozen_outputs[0][0]
    )
    student = feature(forward.latent)
    transfer_losses, transfer_metrics, transfer_forward = _transfer_losses(
      agent,
      params['transfer'],
      student,
      teacher_features,
      batch.sources,
      vae_key,
      axis_name,
    )
    losses = {**losses, **transfer_losses}
    metrics = {**metrics, **transfer_metrics}
  loss = loss + sum(losses.values())
  metrics = {'model_loss': loss, **metrics, **losses}
  return loss, (metrics, forward, transfer_forward)


def _transfer_losses(
  agent, params, student, teacher_features, sources, key, axis_name=None
):
  """Distillation on the target batch, the action VAE on the source batches.

  Returns:
    The losses, other metrics, and the forward pass.
  """
  variant = agent.variant
  if not variant.distill:
    student = jax.lax.stop_gradient(student)
  target = teacher_features.target
  weights = similarity.weights(agent, params, target, student)
  distillation, distance = transfer.distillation_loss(
    weights,
    _distill(agent, params, target),
    student,
    0.0 if variant.weights == 'single' else agent.transfer.importance_floor,
  )
  losses = {'distillation_loss': agent.loss.scales.distillation * distillation}
  metrics = {
    'similarity': weights.mean((1, 2)),
    'similarity_entropy': jax.scipy.special.entr(weights).sum(0).mean(),
  }
  replay = None
  if agent.replays:
    vae_losses, vae_metrics, replay = _replay_loss(
      agent, params, teacher_features.source, sources, key, axis_name
    )
    losses, metrics = {**losses, **vae_losses}, {**metrics, **vae_metrics}
  domain_noise = by_row(
    agent.draws.latent,
    jax.random.fold_in(key, 1),
    weights.shape,
    1,
    axis_name,
  )
  label = similarity.select_domain(agent, weights, domain_noise)
  forward = TransferForward(weights, distance, label, replay)
  return losses, metrics, forward


def _distill(agent, params, feat):
  return agent.distill.apply({'params': params['distill']}, feat)


def _replay_loss(agent, params, source, sources, key, axis_name=None):
  """The action VAE: losses, other metrics, and the forward pass.

  Args:
    agent: an `Agent` with action replay.
    params: of the transfer modules.
    source: f32 [N, B, L, F], the teacher's features of the sources.
    sources: `Batch` [N, B, L, ...].
    key: for the noise.
    axis_name: the mapped axis that B is split over, if any.
  """
  mask, num = agent.source_mask, agent.num_domains
  distilled = jax.lax.stop_gradient(_distill(agent, params, source))
  action = (sources.action * mask[:, None, None])[:, :, 1:]
  shape = (*action.shape[:-1], agent.vae.latent_dim)
  noise = by_row(agent.draws.latent, key, shape, 1, axis_name)
  label = jnp.arange(num)[:, None, None]
  recon, latent = agent.vae.apply(
    {'params': params['vae']},
    distilled[:, :, :-1],
    action,
    jnp.broadcast_to(label, action.shape[:-1]),
    noise,
  )
  error, kl = transfer.vae_loss(recon, action, latent, mask)
  used = jnp.ones(num)
  if agent.variant.weights == 'single':
    used = jax.nn.one_hot(agent.variant.domain, num)
  vae = (used * (error + agent.transfer.vae_kl * kl)).sum()
  losses = {'vae_loss': agent.loss.scales.vae * vae}
  metrics = {
    'vae_error': (used * error).sum() / used.sum(),
    'vae_kl': (used * kl).sum() / used.sum(),
  }
  return losses, metrics, ReplayForward(distilled, recon, latent)


def update_model(agent, state, grads, axis_name=None):
  """Applies the model's gradients; returns the state and {model_grad_norm}."""
  state, norm = update.apply_gradients(
    agent.optimizers['model'], state, 'model', grads, axis_name
  )
  return state, {'model_grad_norm': norm}


def imagination_start(
  batch: FinetuneBatch,
  forward: Forward,
  transfer_forward: TransferForward | None,
) -> imagination.Start:
  """All states of the target batch as starts of imagination: M = B L."""
  start = imagination.Start(
    forward.latent,
    transfer_forward and transfer_forward.label,
    batch.target.discount,
  )
  flat = lambda x: jax.lax.stop_gradient(x.reshape(-1, *x.shape[2:]))
  return jax.tree.map(flat, start)


def behavior_step(agent, state, start, key, axis_name=None):
  """Updates actor and critic on trajectories of the updated model.

  Args:
    agent: an `Agent`.
    state: with the updated parameters of the model.
    start: `imagination.Start` of M trajectories.
    key: for the noise.
    axis_name: the mapped axis that the states are split over, if any.

  Returns:
    The new state, metrics, and gradient norms.
  """
  due = state.step % agent.behavior.slow_period == 0
  slow = jax.tree.map(
    lambda new, old: jnp.where(due, new, old),
    state.params['critic'],
    state.slow_critic,
  )
  state = state.replace(slow_critic=slow)

  actor_fn = jax.value_and_grad(actor_loss, argnums=2, has_aux=True)
  (loss, (metrics, imagined, target, weights)), actor_grads = actor_fn(
    agent, state, state.params['actor'], start, key, axis_name
  )
  feat = jax.lax.stop_gradient(imagined.feat[:-1])
  critic_fn = jax.value_and_grad(critic_loss, argnums=1)
  value_loss, critic_grads = critic_fn(
    agent, state.params['critic'], feat, target, weights
  )
  metrics = {'actor_loss': loss, 'value_loss': value_loss, **metrics}
  norms = {}
  for name, key, grads in (
    ('actor', 'actor_grad_norm', actor_grads),
    ('critic', 'value_grad_norm', critic_grads),
  ):
    state, norms[key] = update.apply_gradients(
      agent.optimizers[name], state, name, grads, axis_name
    )
  return state, metrics, norms


def actor_loss(
  agent, state, actor_params, start, key, axis_name=None
) -> tuple[jax.Array, tuple[Metrics, Any, jax.Array, jax.Array]]:
  """The actor's loss on imagined λ-returns with the slow critic.

  Returns:
    The loss; metrics, the `Imagined` trajectories [H, M, ...], their λ-returns
    [H - 1, M] and their states' weights [H - 1, 1 or M].
  """
  b = agent.behavior
  model = state.params['model']
  imagined = imagination.imagine(
    agent, model, actor_params, start, key, axis_name
  )
  world = model['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  value = agent.critic.apply({'params': state.slow_critic}, imagined.feat)
  discount = _discounts(agent, world, imagined.feat, start.discount)
  target = returns.lambda_returns(reward, value, discount, b.lambda_)
  weights = returns.discount_weights(jax.lax.stop_gradient(discount))[:-1]
  entropy = dists.entropy(imagined.dist)
  loss = behavior.actor_loss(target, entropy[:-1], weights, b.entropy)
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
  fixed = jnp.full((len(feat), 1), agent.behavior.discount)
  if not agent.student.predict_continue:
    return fixed
  cont = jax.nn.sigmoid(agent.student.predict_discount(world, feat[1:]))
  return fixed * jnp.concatenate([first[None], cont])


def critic_loss(agent, params, feat, target, weights) -> jax.Array:
  """Regression to the returns of `actor_loss`; feat [H - 1, M, F]."""
  value = agent.critic.apply({'params': params}, feat)
  return behavior.critic_loss(value, target, weights)
