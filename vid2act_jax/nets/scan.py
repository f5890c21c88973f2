"""Steps that follow one another, with a gradient that is parallel in time.

The gradient of `lax.scan` takes as many steps back as it took forward, and each
of them works out all gradients there are. But what has to wait for the step
after it is only the gradient with respect to the state. So only that runs
backward in time here; the rest, the activations that a step needs again and the
gradients with respect to parameters and inputs, is made for all steps at once.
An accelerator, where a small step takes as long as starting its kernels, has
half as many of them then. A CPU would only have more to compute.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp


class ScanSpec(NamedTuple):
  """Steps to be run in order, of M rows that know nothing of one another."""

  step: Callable[[Any, Any, Any], tuple[Any, Any]]
  # (params, state, input) -> (next state, output), [M, ...]; a function of
  # nothing else. With a look, a step's input is (input, seen).
  params: Any
  initial: Any  # state [M, ...]
  inputs: Any  # [L, M, ...]
  look: Callable[[Any, Any, Any], Any] | None = None
  # (params, state, input) -> seen, [M, ...]. No gradient goes through a look,
  # so that none has to be taken again for a gradient.


def scan(
  learned: ScanSpec, *frozen: ScanSpec, unroll: int
) -> list[tuple[Any, Any]]:
  """Runs tracks of one length side by side in a single loop.

  On an accelerator a step takes about as long for several as for one, when they
  take the same step with arrays of the same shapes, but for the rows: they run
  as one under `vmap` then, with rows of zeros where one has fewer.

  Args:
    learned: the track that gradients reach.
    *frozen: tracks that none reaches.
    unroll: steps that are compiled in a row; 0: `lax.scan` with its own
      gradient.

  Returns:
    For each track the states after its steps and its outputs, [L, ...]; for one
    that looks, (seen, outputs) in place of outputs.
  """
  steps = tuple((track.step, track.look) for track in (learned, *frozen))
  parts = [(track.params, track.initial, track.inputs) for track in frozen]
  run = _parallel if unroll else _scan
  arguments = learned.params, learned.initial, learned.inputs
  return run(steps, unroll, arguments, jax.lax.stop_gradient(parts))


def _scan(steps, unroll, learned, frozen):
  """Each track's step after the other's."""
  params, initial, inputs = zip(learned, *frozen, strict=True)

  def step(states, xs):
    pairs = [
      _looking(*step)(*arguments)
      for step, *arguments in zip(steps, params, states, xs, strict=True)
    ]
    return tuple(state for state, _ in pairs), pairs

  return jax.lax.scan(step, initial, inputs, unroll=unroll or 1)[1]


def _looking(step, look):
  """The step with its look: (params, state, input) -> as of `scan`."""
  if not look:
    return step

  def whole(params, state, x):
    seen = jax.lax.stop_gradient(look(params, state, x))
    state, out = step(params, state, (x, seen))
    return state, (seen, out)

  return whole


def _side_by_side(steps, unroll, learned, frozen):
  """All tracks' steps as one, where they are alike."""
  tracks = learned, *frozen
  kinds = [_kind(*pair) for pair in zip(steps, tracks, strict=True)]
  if len(tracks) == 1 or any(kind != kinds[0] for kind in kinds):
    return _scan(steps, unroll, learned, frozen)
  rows = [jax.tree.leaves(initial)[0].shape[0] for _, initial, _ in tracks]

  def stack(trees, axis):
    # Rows that a track lacks are made up: they cost next to nothing.
    def pad(x):
      margin = [(0, 0)] * x.ndim
      margin[axis] = 0, max(rows) - x.shape[axis]
      return jnp.pad(x, margin)

    trees = [jax.tree.map(pad, tree) for tree in trees]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis), *trees)

  params, initial, inputs = zip(*tracks, strict=True)
  params = jax.tree.map(lambda *xs: jnp.stack(xs), *params)
  step = jax.vmap(_looking(*steps[0]))

  def together(states, x):
    out = step(params, states, x)
    return out[0], out

  both = jax.lax.scan(
    together, stack(initial, 0), stack(inputs, 1), unroll=unroll
  )[1]
  return [
    jax.tree.map(lambda x, i=i, num=num: x[:, i, :num], both)
    for i, num in enumerate(rows)
  ]


def _kind(step, track):
  """What tracks that can run as one step have alike: all but their rows."""

  def kinds(tree, rows_axis):
    def kind(x):
      shape = [num for axis, num in enumerate(x.shape) if axis != rows_axis]
      return tuple(shape), x.dtype

    return jax.tree.map(kind, tree)

  params, initial, inputs = track
  return step, kinds(params, None), kinds(initial, 0), kinds(inputs, 1)


_parallel = jax.custom_vjp(_side_by_side, nondiff_argnums=(0, 1))


def _forward(steps, unroll, learned, frozen):
  results = _side_by_side(steps, unroll, learned, frozen)
  (states, outs), look = results[0], steps[0][1]
  return results, (learned, states, outs[0] if look else None)


def _backward(steps, unroll, residuals, cotangents):
  (step, look), ((params, initial, inputs), states, seen) = steps[0], residuals
  state_grads, out_grads = cotangents[0]
  if look:
    inputs, out_grads = (inputs, seen), out_grads[1]
  before = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest[:-1]]),
    initial,
    states,
  )
  # What follows is made for all steps at once. Without a barrier the compiler
  # makes one product of it and of steps with the same parameters elsewhere, and
  # copies all inputs together to that end.
  params = jax.lax.optimization_barrier(params)
  shared, moving, rebuild = _linearize(step, params, before, inputs)

  def back(later, xs):
    moving, state_grad, out_grad = xs
    grad = jax.tree.map(jnp.add, later, state_grad)
    (earlier,) = rebuild(shared, moving)((grad, out_grad))
    return earlier, grad

  zero = jax.tree.map(jnp.zeros_like, initial)
  xs = moving, state_grads, out_grads
  initial_grad, state_grads = jax.lax.scan(
    back, zero, xs, reverse=True, unroll=unroll
  )

  def every(params, inputs):
    return jax.vmap(step, (None, 0, 0))(params, before, inputs)

  _, pull = jax.vjp(every, params, inputs)
  params_grad, inputs_grad = pull((state_grads, out_grads))
  inputs_grad = inputs_grad[0] if look else inputs_grad
  return (params_grad, initial_grad, inputs_grad), None


_parallel.defvjp(_forward, _backward)


def _linearize(step, params, states, inputs):
  """Every step's pull-back to the state before it.

  Returns:
    What all pull-backs hold alike, what each holds of its own [L, ...], and a
    function that makes one of them from both.
  """
  # What depends on parameters alone, as their own casts, is not to be held once
  # for every step, and `vmap` would: a step's program says which that is.
  structure = None

  def hold(params, state, x):
    nonlocal structure
    _, pull = jax.vjp(lambda state: step(params, state, x), state)
    leaves, structure = jax.tree.flatten(pull)
    return leaves

  one = jax.tree.map(lambda x: x[0], (states, inputs))
  jaxpr = jax.make_jaxpr(hold)(params, *one)
  moves = _depending(jaxpr, len(jax.tree.leaves(params)))
  held = jax.extend.core.jaxpr_as_fun(jaxpr)

  def pick(moving, *arguments):
    leaves = held(*jax.tree.leaves(arguments))
    pairs = zip(leaves, moves, strict=True)
    return [leaf for leaf, moves_ in pairs if moves_ == moving]

  shared = pick(False, params, *one)
  moving = jax.vmap(lambda *xs: pick(True, params, *xs))(states, inputs)

  def rebuild(shared, moving):
    shared, moving = iter(shared), iter(moving)
    leaves = [next(moving if moves_ else shared) for moves_ in moves]
    return jax.tree.unflatten(structure, leaves)

  return shared, moving, rebuild


def _depending(closed, skipped: int) -> list[bool]:
  """Which outputs of a jaxpr depend on its inputs, but for the first ones."""
  jaxpr = closed.jaxpr
  depending = set(jaxpr.invars[skipped:])
  is_in = lambda x: (
    not isinstance(x, jax.extend.core.Literal) and x in depending
  )
  for eqn in jaxpr.eqns:
    if any(map(is_in, eqn.invars)):
      depending.update(eqn.outvars)
  return [is_in(x) for x in jaxpr.outvars]
