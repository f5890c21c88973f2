"""Scans over time with a gradient that is parallel in time.

The gradient of `lax.scan` takes as many sequential steps backward as the scan
took forward, and each of them computes all gradients. But only the gradient
with respect to the state depends on the next step. So only that gradient is
computed in a backward scan. All else is computed for all steps at once: the
activations that a step needs again, and the gradients with respect to
parameters and inputs. On an accelerator a small step takes as long as launching
its kernels, and this halves their number. A CPU would only have more to
compute.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp


class ScanSpec(NamedTuple):
  """A scan to run: its step function and arguments, for M independent rows."""

  step: Callable[[Any, Any, Any], tuple[Any, Any]]
  # (params, state, input) -> (next state, output), [M, ...]; a pure function.
  # With a `stop_grad_fn`, the input of a step is (input, stop_grad_output).
  params: Any
  initial: Any  # state [M, ...]
  inputs: Any  # [L, M, ...]
  stop_grad_fn: Callable[[Any, Any, Any], Any] | None = None
  # (params, state, input) -> stop_grad_output, [M, ...]. No gradient goes
  # through it, so the backward pass does not compute it again.


def scan(
  learned: ScanSpec, *frozen: ScanSpec, unroll: int
) -> list[tuple[Any, Any]]:
  """Runs several scans of the same length in a single loop.

  On an accelerator a step takes about as long for several scans as for one, if
  they have the same step function and arrays of the same shapes, but for the
  number of rows. Such scans run as one under `vmap`, and scans with fewer rows
  are padded with zeros.

  Args:
    learned: the scan that gradients reach.
    *frozen: scans that no gradient reaches.
    unroll: steps that are compiled in a row; 0: `lax.scan` with its own
      gradient.

  Returns:
    For each scan the states after its steps and its outputs, [L, ...]. With a
    `stop_grad_fn`, (stop_grad_outputs, outputs) in place of the outputs.
  """
  steps = tuple((spec.step, spec.stop_grad_fn) for spec in (learned, *frozen))
  parts = [(spec.params, spec.initial, spec.inputs) for spec in frozen]
  run = _parallel_scan if unroll else _sequential_scan
  arguments = learned.params, learned.initial, learned.inputs
  return run(steps, unroll, arguments, jax.lax.stop_gradient(parts))


def _sequential_scan(steps, unroll, learned, frozen):
  """One loop, in which the scans take their steps one after another."""
  params, initial, inputs = zip(learned, *frozen, strict=True)

  def step(states, xs):
    pairs = [
      _with_stop_grad(*step)(*arguments)
      for step, *arguments in zip(steps, params, states, xs, strict=True)
    ]
    return tuple(state for state, _ in pairs), pairs

  return jax.lax.scan(step, initial, inputs, unroll=unroll or 1)[1]


def _with_stop_grad(step, stop_grad_fn):
  """A step with its `stop_grad_fn`: (params, state, input), see `scan`."""
  if not stop_grad_fn:
    return step

  def combined(params, state, x):
    stop_grad_output = jax.lax.stop_gradient(stop_grad_fn(params, state, x))
    state, out = step(params, state, (x, stop_grad_output))
    return state, (stop_grad_output, out)

  return combined


def _vmapped_scan(steps, unroll, learned, frozen):
  """One loop with a step under `vmap`, if all scans have equal signatures."""
  scans = learned, *frozen
  signatures = [_signature(*pair) for pair in zip(steps, scans, strict=True)]
  if len(scans) == 1 or any(x != signatures[0] for x in signatures):
    return _sequential_scan(steps, unroll, learned, frozen)
  rows = [jax.tree.leaves(initial)[0].shape[0] for _, initial, _ in scans]

  def stack(trees, axis):
    # Padding with rows of zeros costs next to nothing.
    def pad(x):
      padding = [(0, 0)] * x.ndim
      padding[axis] = 0, max(rows) - x.shape[axis]
      return jnp.pad(x, padding)

    trees = [jax.tree.map(pad, tree) for tree in trees]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis), *trees)

  params, initial, inputs = zip(*scans, strict=True)
  params = jax.tree.map(lambda *xs: jnp.stack(xs), *params)
  step = jax.vmap(_with_stop_grad(*steps[0]))

  def vmapped_step(states, x):
    out = step(params, states, x)
    return out[0], out

  stacked = jax.lax.scan(
    vmapped_step, stack(initial, 0), stack(inputs, 1), unroll=unroll
  )[1]
  return [
    jax.tree.map(lambda x, i=i, num=num: x[:, i, :num], stacked)
    for i, num in enumerate(rows)
  ]


def _signature(step, arguments):
  """What must be equal for one `vmap`: the step, shapes (no rows), dtypes."""

  def specs(tree, rows_axis):
    def spec(x):
      shape = [num for axis, num in enumerate(x.shape) if axis != rows_axis]
      return tuple(shape), x.dtype

    return jax.tree.map(spec, tree)

  params, initial, inputs = arguments
  return step, specs(params, None), specs(initial, 0), specs(inputs, 1)


_parallel_scan = jax.custom_vjp(_vmapped_scan, nondiff_argnums=(0, 1))


def _forward(steps, unroll, learned, frozen):
  results = _vmapped_scan(steps, unroll, learned, frozen)
  (states, outs), stop_grad_fn = results[0], steps[0][1]
  return results, (learned, states, outs[0] if stop_grad_fn else None)


def _backward(steps, unroll, residuals, cotangents):
  (step, stop_grad_fn), ((params, initial, inputs), states, stop_grad_out) = (
    steps[0],
    residuals,
  )
  state_grads, out_grads = cotangents[0]
  if stop_grad_fn:
    inputs, out_grads = (inputs, stop_grad_out), out_grads[1]
  prev_states = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest[:-1]]),
    initial,
    states,
  )
  # The rest is computed for all steps at once. Without a barrier the compiler
  # merges it into one product with other steps that have the same parameters,
  # and copies all inputs together for that.
  params = jax.lax.optimization_barrier(params)
  shared, per_step, rebuild_vjp = _linearize(step, params, prev_states, inputs)

  def backward_step(next_grad, xs):
    per_step, state_grad, out_grad = xs
    grad = jax.tree.map(jnp.add, next_grad, state_grad)
    (prev_grad,) = rebuild_vjp(shared, per_step)((grad, out_grad))
    return prev_grad, grad

  zero = jax.tree.map(jnp.zeros_like, initial)
  xs = per_step, state_grads, out_grads
  initial_grad, state_grads = jax.lax.scan(
    backward_step, zero, xs, reverse=True, unroll=unroll
  )

  def all_steps(params, inputs):
    return jax.vmap(step, (None, 0, 0))(params, prev_states, inputs)

  _, vjp_fn = jax.vjp(all_steps, params, inputs)
  params_grad, inputs_grad = vjp_fn((state_grads, out_grads))
  inputs_grad = inputs_grad[0] if stop_grad_fn else inputs_grad
  return (params_grad, initial_grad, inputs_grad), None


_parallel_scan.defvjp(_forward, _backward)


def _linearize(step, params, states, inputs):
  """The VJP of every step with respect to the state before it.

  Returns:
    The residuals that all VJPs share, those of each step [L, ...], and a
    function that rebuilds the VJP of one step from both.
  """
  # Residuals that depend on parameters alone, such as casts of them, should be
  # stored once. `vmap` would store them once for every step. The jaxpr of a
  # step shows which residuals these are.
  structure = None

  def residuals_fn(params, state, x):
    nonlocal structure
    _, vjp_fn = jax.vjp(lambda state: step(params, state, x), state)
    leaves, structure = jax.tree.flatten(vjp_fn)
    return leaves

  one = jax.tree.map(lambda x: x[0], (states, inputs))
  jaxpr = jax.make_jaxpr(residuals_fn)(params, *one)
  is_per_step = _depends_on_inputs(jaxpr, len(jax.tree.leaves(params)))
  flat_residuals_fn = jax.extend.core.jaxpr_as_fun(jaxpr)

  def select(per_step, *arguments):
    leaves = flat_residuals_fn(*jax.tree.leaves(arguments))
    pairs = zip(leaves, is_per_step, strict=True)
    return [leaf for leaf, varies in pairs if varies == per_step]

  shared = select(False, params, *one)
  per_step = jax.vmap(lambda *xs: select(True, params, *xs))(states, inputs)

  def rebuild_vjp(shared, per_step):
    shared, per_step = iter(shared), iter(per_step)
    leaves = [next(per_step if varies else shared) for varies in is_per_step]
    return jax.tree.unflatten(structure, leaves)

  return shared, per_step, rebuild_vjp


def _depends_on_inputs(closed, num_skipped: int) -> list[bool]:
  """Which outputs of a jaxpr depend on its inputs after the first ones."""
  jaxpr = closed.jaxpr
  dependent = set(jaxpr.invars[num_skipped:])
  is_in = lambda x: (
    not isinstance(x, jax.extend.core.Literal) and x in dependent
  )
  for eqn in jaxpr.eqns:
    if any(map(is_in, eqn.invars)):
      dependent.update(eqn.outvars)
  return [is_in(x) for x in jaxpr.outvars]
