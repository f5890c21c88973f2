"""Pretraining of the teacher: one world model for N labelled domains.

After it, a generator of the source actions is trained on its states.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import open_loop, update
from vid2act_jax.learner.precision import with_precision
from vid2act_jax.learner.settings import (
  GeneratorFit,
  LossSettings,
  TransferSettings,
  total,
)
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
  optimizer: optax.GradientTransformation
  # Of the generator; None: it is not trained.
  transfer: TransferSettings | None = None
  fit: GeneratorFit | None = None
  noise_fns: NoiseFns = NoiseFns()
  source_rewards: tuple[bool, ...] | None = None  # None: all have rewards

  @property
  def precision(self) -> str:
    """Of the matrix products of all steps; see `precision.PRECISIONS`."""
    return self.teacher.compute.precision

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
    opt = {'model': self.optimizer.init(params['model'])}
    return LearnerState(jnp.zeros((), jnp.int32), params, opt, {}, {})

  @with_precision
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
      embed = self.teacher.embed(params, rows.image, label)
      observe = self.teacher.observe_scan(
        params,
        self.teacher.project_embed(params, embed),
        rows.action[..., : self.teacher.action_dim],
        rows.is_first,
        _merge_rows(noise),
        label,
      )
      losses, metrics, _ = world_model_losses(
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
      return loss, metrics

    grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params['model'])
    new, norm = update.apply_gradients(
      self.optimizer, state, 'model', grads, axis_name
    )
    if axis_name:
      metrics = jax.lax.pmean(metrics, axis_name)
    metrics = {**metrics, 'model_grad_norm': norm}
    return update.skip_nonfinite(state, new, metrics)

  @with_precision
  def observe_actions(
    self, params: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The teacher's states of source sequences, and the actions taken there.

    Args:
      params: of the teacher.
      batch: [N, B, L, ...], as in `pretrain_step`.
      key: for the noise of the states.

    Returns:
      Features f32 [N, B (L - 1), F] and actions f32 [N, B (L - 1), A].
    """
    rng = Rng(key, noise_fns=self.noise_fns)
    rows, label = self._flatten_domains(batch)
    latent, _ = self.teacher.observe(
      params,
      self.teacher.embed(params, rows.image, label),
      rows.action[..., : self.teacher.action_dim],
      rows.is_first,
      self.teacher.latent_noise(rng, rows.reward.shape),
      label,
    )
    # The action taken at a state is stored with the next one.
    domains = len(self.source_action_dims)
    split = lambda x: x.reshape(domains, -1, x.shape[-1])
    return split(feature(latent)[:, :-1]), split(rows.action[:, 1:])

  @with_precision
  def fit_generator(
    self, feat: jax.Array, action: jax.Array, key: jax.Array
  ) -> tuple[Params, Metrics]:
    """Trains a generator on the states of the finished teacher.

    While the teacher learns, its features change, and a generator that is
    trained along with it lags behind: its actions are too small to act with.

    Args:
      feat: f32 [N, M, F], from `observe_actions`.
      action: f32 [N, M, A].
      key: for the initial parameters, the batches and the noise.

    Returns:
      The parameters, and the means of the last tenth of the updates,
      'train/generator_error' and 'train/generator_kl'.
    """
    settings, vae = self.fit, self.generator
    assert settings is not None
    optimizer = settings.optimizer
    init_key, key = jax.random.split(key)
    domains, num = feat.shape[:2]
    shape = domains, min(settings.batch, num)
    label = jnp.broadcast_to(jnp.arange(domains)[:, None], shape)

    def loss_fn(params, feat, action, noise):
      recon, latent = apply(vae, params, feat, action, label, noise)
      error, kl = vae_loss(recon, action, latent, self.source_mask)
      return (error + settings.kl * kl).sum(), (error.mean(), kl.mean())

    def step(carry, key):
      params, opt = carry
      rng = Rng(key, noise_fns=self.noise_fns)
      rows = jax.random.randint(rng.fold_in(1).key, shape, 0, num)[..., None]
      take = lambda x: jnp.take_along_axis(x, rows, 1)
      noise = vae.latent_noise(rng, shape)
      grads, losses = jax.grad(loss_fn, has_aux=True)(
        params, take(feat), take(action), noise
      )
      updates, opt = optimizer.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), losses

    params = init_vae(vae, init_key, feat[0, :1])
    keys = jax.random.split(key, settings.steps)
    carry = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, carry, keys)
    last = [x[-max(settings.steps // 10, 1) :].mean() for x in losses]
    names = 'train/generator_error', 'train/generator_kl'
    return params, dict(zip(names, last, strict=True))

  def teacher_params(self, state: LearnerState) -> Params:
    """Parameters of the teacher for `Agent.init`.

    With those of the generator; without the reward head if it is not trained.
    They are copies: the state may be donated to further updates.
    """
    params = dict(state.params['model'])
    if not self.learns_reward:
      del params['reward']
    if self.transfer:
      params['generator'] = state.params['generator']
    return jax.tree.map(jnp.copy, params)

  @with_precision
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
