"""Functions shared by the updates of pretraining and finetuning."""

import jax
import jax.numpy as jnp
import optax

from vid2act_jax.types import LearnerState, Metrics, Params


def apply_gradients(
  optimizer: optax.GradientTransformation,
  state: LearnerState,
  name: str,
  grads: Params,
  axis_name: str | None = None,
) -> tuple[LearnerState, jax.Array]:
  """Averages, clips and applies gradients.

  Args:
    optimizer: the optax transformation of the entry.
    state: the state before the update.
    name: the entry of `state.params` and `state.opt` to update.
    grads: gradients of that entry.
    axis_name: the mapped axis to average over, if any.

  Returns:
    The new state, and the global norm of the gradients before clipping.
  """
  if axis_name:
    grads = jax.lax.pmean(grads, axis_name)
  params = state.params[name]
  updates, opt = optimizer.update(grads, state.opt[name], params)
  params = optax.apply_updates(params, updates)
  # Without it XLA's GPU compiler (jaxlib 0.11.2, bfloat16) fuses the update of
  # a single bias into the next product that reads it, and fails.
  params = jax.lax.optimization_barrier(params)
  state = state.replace(
    params={**state.params, name: params},
    opt={**state.opt, name: opt},
  )
  return state, optax.tree.norm(grads)


def step_key(state: LearnerState, key: jax.Array) -> jax.Array:
  """The key of this update.

  The root key never changes, so a resumed run has the same random numbers.
  """
  return jax.random.fold_in(key, state.step)


def skip_nonfinite(
  old: LearnerState, new: LearnerState, metrics: Metrics
) -> tuple[LearnerState, Metrics]:
  """Counts an update, and reverts it if a metric is not finite.

  Otherwise one bad batch or one overflow would corrupt all parameters.

  Args:
    old: the state before the update.
    new: the state after the update.
    metrics: all losses and gradient norms.

  Returns:
    The resulting state, and the metrics with `skipped`, 1 or 0.
  """
  finite = [jnp.isfinite(value).all() for value in metrics.values()]
  all_finite = jnp.stack(finite).all()
  params, opt, similarity = jax.tree.map(
    lambda x, y: jnp.where(all_finite, x, y),
    (new.params, new.opt, new.similarity),
    (old.params, old.opt, old.similarity),
  )
  # If the slow critic was copied, it is the critic from before the update.
  state = new.replace(
    step=old.step + 1, params=params, opt=opt, similarity=similarity
  )
  return state, {**metrics, 'skipped': 1.0 - all_finite}


def multi_step(step):
  """Returns a pure step function for K updates in one call.

  Args:
    step: (state, batch, key, axis_name=None) -> state, metrics.

  Returns:
    A function like `step`, for batches and metrics with a leading axis [K].
  """

  def steps(state, batches, key, axis_name=None):
    one = lambda state, batch: step(state, batch, key, axis_name)
    return jax.lax.scan(one, state, batches)

  return steps
