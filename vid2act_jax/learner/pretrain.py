"""Pretraining of the teacher: one world model for N labelled domains."""

import jax
import jax.numpy as jnp

from vid2act_jax.learner import noise, update
from vid2act_jax.losses.world_model import world_model_loss
from vid2act_jax.types import Batch, LearnerState, Metrics


def flatten_domains(pretrainer, batch: Batch) -> tuple[Batch, jax.Array]:
  """Merges the domain axis and the batch axis.

  Args:
    pretrainer: a `Pretrainer`, for the domains' action sizes.
    batch: [N, B, ...].

  Returns:
    Rows [N * B, ...], with the padding of their actions masked, and the label
    of each, i32 [N * B].
  """
  domains, size = batch.reward.shape[:2]
  mask = pretrainer.source_mask[:, None, None]
  action = batch.action[..., : mask.shape[-1]] * mask
  batch = batch.replace(action=action)
  flat = lambda x: x.reshape(domains * size, *x.shape[2:])
  rows = jax.tree.map(flat, batch)
  return rows, jnp.repeat(jnp.arange(domains), size)


def step(
  pretrainer,
  state: LearnerState,
  batch: Batch,
  key: jax.Array,
  axis_name: str | None = None,
) -> tuple[LearnerState, Metrics]:
  """One update of the teacher on all source domains.

  Args:
    pretrainer: a `Pretrainer`.
    state: its state.
    batch: [N, B, L, ...]; actions zero-padded to the widest domain.
    key: the root key, the same for every update.
    axis_name: the mapped axis that B is split over, if any.

  Returns:
    The new state, and scalar metrics.
  """
  teacher, spec = pretrainer.teacher, pretrainer.loss
  rows, label = flatten_domains(pretrainer, batch)
  key = update.step_key(state, key)
  shape = (*batch.reward.shape, teacher.sizes.stoch)
  latent_noise = noise.by_row(pretrainer.draws.latent, key, shape, 1, axis_name)

  def loss_fn(params):
    return world_model_loss(
      teacher,
      params,
      teacher.embed(params, rows.image, label),
      rows,
      latent_noise.reshape(-1, *shape[2:]),
      spec.scales,
      spec.kl_balance,
      spec.kl_free,
      label,
      axis_name,
    )

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, (metrics, _)), grads = grad_fn(state.params['model'])
  new, norm = update.apply_gradients(
    pretrainer.optimizer, state, 'model', grads, axis_name
  )
  metrics = {'model_loss': loss, **metrics}
  if axis_name:
    metrics = jax.lax.pmean(metrics, axis_name)
  return update.skip_nonfinite(state, new, {**metrics, 'model_grad_norm': norm})
