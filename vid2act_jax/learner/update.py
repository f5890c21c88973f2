"""One optimizer's part of an update."""

import jax
import optax


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
  state = state.replace(
    params={**state.params, name: optax.apply_updates(params, updates)},
    opt={**state.opt, name: opt},
  )
  return state, optax.tree.norm(grads)


def step_key(state, key, axis_name=None):
  """A key for this update: the root key never changes, so a resumed run draws
  the same numbers; devices along a mapped axis draw their own."""
  key = jax.random.fold_in(key, state.step)
  if axis_name:
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
  return key
