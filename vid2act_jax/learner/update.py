"""What updates are made of, whatever they learn."""

import jax
import jax.numpy as jnp
import optax

from vid2act_jax.types import LearnerState, Metrics


def apply_gradients(optimizer, state, name, grads, axis_name=None):
  """Averages, clips and applies gradients.

  Args:
    optimizer: the optax transformation for this part.
    state: the LearnerState.
    name: which entry of `state.params` and `state.opt` to change.
    grads: gradients for that entry.
    axis_name: the mapped axis to average over, if any.

  Returns:
    The new state, and the gradients' global norm before clipping.
  """
  if axis_name:
    grads = jax.lax.pmean(grads, axis_name)
  params = state.params[name]
  updates, opt = optimizer.update(grads, state.opt[name], params)
  params = optax.apply_updates(params, updates)
  # Else XLA's GPU compiler (jaxlib 0.11.2, bfloat16) draws the whole chain of a
  # single bias's update into the product that reads it next, and fails on it.
  params = jax.lax.optimization_barrier(params)
  state = state.replace(
    params={**state.params, name: params},
    opt={**state.opt, name: opt},
  )
  return state, optax.tree.norm(grads)


def step_key(state, key):
  """A key for this update: the root key never changes, so a resumed run draws
  the same numbers."""
  return jax.random.fold_in(key, state.step)


def skip_nonfinite(
  old: LearnerState, new: LearnerState, metrics: Metrics
) -> tuple[LearnerState, Metrics]:
  """Counts an update, and undoes it if anything in it is not finite.

  One bad batch, or one overflow, would else spoil all parameters for good.

  Args:
    old: the state before the update.
    new: with everything applied.
    metrics: every loss and every gradient's norm.

  Returns:
    The state to go on with, and the metrics with `skipped`, 1 or 0.
  """
  finite = [jnp.isfinite(value).all() for value in metrics.values()]
  good = jnp.stack(finite).all()
  params, opt = jax.tree.map(
    lambda x, y: jnp.where(good, x, y),
    (new.params, new.opt),
    (old.params, old.opt),
  )
  # The slow critic, if it was due, is a copy from before the update.
  state = new.replace(step=old.step + 1, params=params, opt=opt)
  return state, {**metrics, 'skipped': 1.0 - good}


def multi_step(step):
  """The pure step for K updates in one call.

  Args:
    step: (state, batch, key, axis_name=None) -> state, metrics.

  Returns:
    The same for batches with a leading [K], and metrics with a leading [K].
  """

  def steps(state, batches, key, axis_name=None):
    one = lambda state, batch: step(state, batch, key, axis_name)
    return jax.lax.scan(one, state, batches)

  return steps
