"""Pretraining of the teacher: one world model for N labelled domains.

Along with it, a generator of the source actions is trained on its states. No
gradient of the generator reaches the teacher.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import open_loop, update
from vid2act_jax.learner.settings import LossSettings, TransferSettings, total
from vid2act_jax.learner.teachers import action_mask
from vid2act_jax.learner.world_model_loss import world_model_losses
from vid2act_jax.losses.transfer import vae_loss
from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.transfer import ActionVAE
from vid2act_jax.nets.world_model import WorldModel, feature
from vid2act_jax.rng import NoiseFns, Rng
from vid2act_jax.types import Batch, LearnerState, Metrics, Params


def action_vae(
  settings: TransferSettings, action_dims: tuple[int, ...], dtype: str
) -> ActionVAE:
  """The VAE of the actions of source domains of these sizes."""
  return ActionVAE(
    settings.vae_hidden,
    settings.guidance_size,
    max(action_dims),
    len(action_dims),
    dtype,
  )


def init_vae(vae: ActionVAE, key: jax.Array, feat: jax.Array) -> Params:
  """Initial parameters of the VAE; feat f32 [1, F] is of its input's size."""
  action, noise = jnp.zeros((1, vae.action_dim)), jnp.zeros((1, vae.latent_dim))
  return vae.init(key, feat, action, jnp.zeros(1, int), noise)['params']


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrainer:
  """Trains the mixture teacher: one world model for N labelled domains.

  Like an `Agent` it holds no arrays: all training state is in the
  `LearnerState` that its step takes and returns.
  """

  teacher: WorldModel
  source_action_dims: tuple[int, ...]
  loss: LossSettings
  optimizers: dict[str, optax.GradientTransformation]
  # Of the generator; None: it is not trained.
  transfer: TransferSettings | None = None
  noise_fns: NoiseFns = NoiseFns()
  source_rewards: tuple[bool, ...] | None = None  # None: all have rewards

  @property
  def learns_reward(self) -> bool:
    """Whether the reward head is trained: a source has rewards."""
    return self.source_rewards is None or any(self.source_rewards)

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A]: 1 for the action dimensions that a domain has."""
    return action_mask(self.source_action_dims, max(self.source_action_dims))

  @property
  def teacher_mask(self) -> np.ndarray:
    """f32 [N, A_teacher]: 1 for the actions that the teacher reads."""
    return self.source_mask[:, : self.teacher.action_dim]

  @property
  def generator(self) -> ActionVAE:
    """The generator of the source actions."""
    assert self.transfer is not None
    dtype = self.teacher.compute.dtype
    return action_vae(self.transfer, self.source_action_dims, dtype)

  def init(self, key: jax.Array) -> LearnerState:
    """Returns the initial state."""
    params = {'model': self.teacher.init(key)}
    if self.transfer:
      feat = jnp.zeros((1, self.teacher.feat_dim))
      key = jax.random.fold_in(key, 1)
      params['generator'] = init_vae(self.generator, key, feat)
    opt = {k: self.optimizers[k].init(v) for k, v in params.items()}
    return LearnerState(jnp.zeros((), jnp.int32), params, opt, {}, {})

  def pretrain_step(
    self,
    state: LearnerState,
    batch: Batch,
    key: jax.Array,
    axis_name: str | None = None,
  ) -> tuple[LearnerState, Metrics]:
    """One update of the teacher on all source domains.

    Args:
      state: the state before the update.
      batch: [N, B, L, ...]; actions zero-padded to the widest domain.
      key: the root key, the same for every update.
      axis_name: the mapped axis that B is split over, if any.

    Returns:
      The new state, and scalar metrics.
    """
    rng = Rng(update.step_key(state, key), axis_name, self.noise_fns)
    noise = self.teacher.latent_noise(rng, batch.reward.shape, row_axis=1)
    rows, label = self._flatten_domains(batch)

    def loss_fn(params):
      observe = self.teacher.observe_scan(
        params,
        self.teacher.embed(params, rows.image, label),
        rows.action[..., : self.teacher.action_dim],
        rows.is_first,
        _merge_rows(noise),
        label,
      )
      losses, metrics, outputs = world_model_losses(
        self.teacher,
        params,
        observe,
        rows,
        self.loss,
        axis_name,
        reward_mask=self._reward_mask(label),
      )
      if not self.learns_reward:
        del losses['reward']
      scaled = self.loss.scales.apply(losses)
      loss = total(scaled)
      metrics = {'model_loss': loss, **metrics, **scaled}
      return loss, (metrics, feature(outputs.latent))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, (metrics, feat)), grads = grad_fn(state.params['model'])
    new, norm = update.apply_gradients(
      self.optimizers['model'], state, 'model', grads, axis_name
    )
    if self.transfer:
      new, generator_metrics = self._update_generator(
        new, jax.lax.stop_gradient(feat), rows, batch.reward.shape, rng
      )
      metrics = {**metrics, **generator_metrics}
    if axis_name:
      metrics = jax.lax.pmean(metrics, axis_name)
    metrics = {**metrics, 'model_grad_norm': norm}
    return update.skip_nonfinite(state, new, metrics)

  def _update_generator(self, state, feat, rows, shape, rng):
    """Trains the generator on the teacher's states [N * B, L, F]."""
    settings = self.transfer
    assert settings is not None
    unflatten = lambda x: x.reshape(*shape, x.shape[-1])
    # The action taken at a state is stored with the next one.
    feat = unflatten(feat)[:, :, :-1]
    action = unflatten(rows.action)[:, :, 1:]
    label = jnp.arange(shape[0])[:, None, None]
    label = jnp.broadcast_to(label, action.shape[:-1])
    noise = self.generator.latent_noise(
      rng.fold_in(1), action.shape[:-1], row_axis=1
    )

    def loss_fn(params, *inputs):
      recon, latent = apply(self.generator, params, *inputs)
      error, kl = vae_loss(recon, inputs[1], latent, self.source_mask)
      metrics = {'generator_error': error.mean(), 'generator_kl': kl.mean()}
      return (error + settings.generator_kl * kl).sum(), metrics

    grad_fn = jax.grad(loss_fn, has_aux=True)
    num = min(settings.generator_updates, action.shape[2])
    for i in range(num):
      # Every num-th frame: those side by side are alike.
      inputs = [x[:, :, i::num] for x in (feat, action, label, noise)]
      grads, metrics = grad_fn(state.params['generator'], *inputs)
      state, _ = update.apply_gradients(
        self.optimizers['generator'], state, 'generator', grads, rng.axis_name
      )
    return state, metrics

  def teacher_params(self, state: LearnerState) -> Params:
    """Parameters of the teacher for `Agent.init`.

    With those of the generator; without the reward head if it is not trained.
    """
    params = dict(state.params['model'])
    if not self.learns_reward:
      del params['reward']
    if self.transfer:
      params['generator'] = state.params['generator']
    return params

  def open_loop(
    self, state: LearnerState, batch: Batch, key: jax.Array
  ) -> jax.Array:
    """Open-loop videos of every domain; see `open_loop.open_loop`."""
    each = -(-open_loop.ROWS // self.teacher.num_domains)
    batch = jax.tree.map(lambda x: x[:, :each], batch)
    rows, label = self._flatten_domains(batch)
    rows = rows.replace(action=rows.action[..., : self.teacher.action_dim])
    rng = Rng(key, noise_fns=self.noise_fns)
    return open_loop.open_loop(
      self.teacher, state.params['model'], rows, rng, label
    )

  def _reward_mask(self, label: jax.Array) -> jax.Array | None:
    """f32 [N * B], 1 for rows with rewards; None if all or none have any."""
    if self.source_rewards is None or len(set(self.source_rewards)) == 1:
      return None
    return jnp.array(self.source_rewards, jnp.float32)[label]

  def _flatten_domains(self, batch: Batch) -> tuple[Batch, jax.Array]:
    """Merges the domain axis and the batch axis.

    Args:
      batch: [N, B, ...].

    Returns:
      Rows [N * B, ...], with the padding of their actions masked, and the
      label of each, i32 [N * B].
    """
    domains, size = batch.reward.shape[:2]
    mask = self.source_mask[:, None, None]
    action = batch.action[..., : mask.shape[-1]] * mask
    rows = _merge_rows(batch.replace(action=action))
    return rows, jnp.repeat(jnp.arange(domains), size)


def _merge_rows(tree):
  """[N, B, ...] -> [N * B, ...]."""
  # Without -1: teachers without actions have arrays of size zero.
  merge = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
  return jax.tree.map(merge, tree)
