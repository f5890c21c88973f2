"""Pretraining of the teacher: one world model for N labelled domains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vid2act_jax.learner import open_loop, update
from vid2act_jax.learner.settings import LossSettings, total
from vid2act_jax.learner.teachers import action_mask
from vid2act_jax.learner.world_model_loss import world_model_losses
from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.rng import NoiseFns, Rng
from vid2act_jax.types import Batch, LearnerState, Metrics, Params


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
  noise_fns: NoiseFns = NoiseFns()
  source_rewards: tuple[bool, ...] | None = None  # None: all have rewards

  @property
  def learns_reward(self) -> bool:
    """Whether the reward head is trained: a source has rewards."""
    return self.source_rewards is None or any(self.source_rewards)

  @property
  def source_mask(self) -> np.ndarray:
    """f32 [N, A]: 1 for the action dimensions that a domain has."""
    return action_mask(self.source_action_dims, self.teacher.action_dim)

  def init(self, key: jax.Array) -> LearnerState:
    """Returns the initial state."""
    params = {'model': self.teacher.init(key)}
    opt = {'model': self.optimizer.init(params['model'])}
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
        rows.action,
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
      return loss, {'model_loss': loss, **metrics, **scaled}

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (_, metrics), grads = grad_fn(state.params['model'])
    new, norm = update.apply_gradients(
      self.optimizer, state, 'model', grads, axis_name
    )
    if axis_name:
      metrics = jax.lax.pmean(metrics, axis_name)
    metrics = {**metrics, 'model_grad_norm': norm}
    return update.skip_nonfinite(state, new, metrics)

  def teacher_params(self, state: LearnerState) -> Params:
    """Parameters of the teacher for `Agent.init`.

    Without the reward head if it is not trained.
    """
    params = state.params['model']
    if self.learns_reward:
      return params
    return {name: group for name, group in params.items() if name != 'reward'}

  def open_loop(
    self, state: LearnerState, batch: Batch, key: jax.Array
  ) -> jax.Array:
    """Open-loop videos of every domain; see `open_loop.open_loop`."""
    each = -(-open_loop.ROWS // self.teacher.num_domains)
    batch = jax.tree.map(lambda x: x[:, :each], batch)
    rows, label = self._flatten_domains(batch)
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
