"""Calls of several seeds on the same devices: joined, or one after another.

Joined calls keep the states of all seeds stacked on the device between calls:
to stack hundreds of arrays for each call, and to split its results, would be
a third of its kernels.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.loops import memory
from vid2act_jax.loops.execution import UPDATE, Calls, announced, compose
from vid2act_jax.types import LearnerState, UserError


class _Stack:
  """The states of the seeds of a group, on the device.

  Attributes:
    states: a LearnerState with a leading [K].
    owners: what each seed has as its state: a LearnerState, whose copy the
      stack holds, or a `SeedState`; None: the row is of no use.
  """

  def __init__(self, num: int):
    self.states: Any = None
    self.owners: list[LearnerState | SeedState | None] = [None] * num

  def set(self, given: dict[int, LearnerState | SeedState]) -> None:
    """Sets the rows of some seeds, if they are others than these."""
    if all(self.owners[i] is state for i, state in given.items()):
      return
    first = next(iter(given.values()))
    for index, state in given.items():
      self.owners[index] = state
    rows = [first if owner is None else owner for owner in self.owners]
    self.states = _stack(*rows)

  def update(self, states, indices) -> list[SeedState]:
    """Replaces the states after an update of some seeds; returns theirs."""
    self.states = states
    for index in indices:
      owner = self.owners[index]
      if not isinstance(owner, SeedState):  # As if it had been donated.
        jax.tree.map(lambda x: x.delete(), owner)
        self.owners[index] = SeedState(self, index)
    return [self.owners[index] for index in indices]


@jax.tree_util.register_pytree_node_class
class SeedState:
  """The LearnerState of one seed, a row of its group's stack.

  As a tree it is a copy of that row, a LearnerState.
  """

  def __init__(self, stack: _Stack, index: int):
    """index: of the seed in its group."""
    self.stack, self._index = stack, index

  def tree_flatten(self):
    """Copies the row."""
    return (_row(self.stack.states, self._index),), None

  @classmethod
  def tree_unflatten(cls, unused_aux, children):
    """The copy."""
    return children[0]

  def an_array(self) -> jax.Array:
    """An array on the same devices, without a copy of the row."""
    return jax.tree.leaves(self.stack.states)[0]


_stack = jax.jit(lambda *rows: jax.tree.map(lambda *x: jnp.stack(x), *rows))
_row = jax.jit(lambda tree, index: jax.tree.map(lambda x: x[index], tree))


class SeedCalls(Calls):
  """The calls of one of the seeds of a group."""

  def __init__(self, group: Group, index: int):
    """index: of the seed in its group."""
    self._group, self._index = group, index

  def compile(self, name, fn, jit, message=None, prepare=None):
    """See `Calls.compile`."""
    self._group.compile(name, fn, jit, message, prepare)
    return lambda *args: self._group.call(self._index, name, args)

  def leave(self) -> None:
    """The seed makes no more calls."""
    self._group.leave(self._index)


class _Request:
  """A call that waits for its result."""

  def __init__(self, name, args):
    self.name, self.args = name, args
    self.result = self.error = None
    self.done = False


class Group:
  """Calls of several seeds, one thread each, on the same devices.

  Vectorized: a call waits until every seed calls something. Then those with
  the same function make one call. What is joined depends on the calls alone,
  not on the threads' timing. Acting comes before updates, so that seeds whose
  episodes end at different steps meet again. A function is always called for
  all seeds: for those that do not call it, its results are dropped. The first
  argument of every function is the seed's state. An update returns it as a
  `SeedState`.

  Otherwise calls are made one after another. On CPU each is waited for, as it
  uses all cores.
  """

  def __init__(
    self,
    num: int,
    vectorized: bool,
    waits: bool = False,
    check_fn: Callable[[tuple, int], None] | None = None,
  ):
    """Starts without functions.

    Args:
      num: of the seeds.
      vectorized: whether calls are joined.
      waits: whether a call that is not joined waits for its results.
      check_fn: called with the arguments of a seed and the number of seeds
        before an update's first joined call.
    """
    self._num, self._vectorized, self._waits = num, vectorized, waits
    self._check_fn = check_fn
    self._condition = threading.Condition()
    self._functions: dict[str, Callable] = {}
    self._active = set(range(num))
    self._waiting: dict[int, _Request] = {}
    self._served: collections.Counter[str] = collections.Counter()
    # By structure and devices: those of a stage, to learn or to act with.
    self._stacks: dict[Any, _Stack] = {}

  def compile(self, name, fn, jit, message, prepare=None) -> None:
    """Adds a function, if it is not there; see `Calls.compile`."""
    with self._condition:
      if name in self._functions:
        return
      if self._vectorized:
        joiner = join_update if name.startswith(UPDATE) else join
        compiled = jit(joiner(fn, self._num, prepare), self._num)
      else:
        compiled = jit(compose(fn, prepare), 1)
      self._functions[name] = announced(compiled, message)

  def call(self, index: int, name: str, args: tuple):
    """Calls a function for one seed; returns its result."""
    if not self._vectorized:
      with self._condition:
        results = self._functions[name](*args)
        return jax.block_until_ready(results) if self._waits else results
    request = _Request(name, args)
    with self._condition:
      self._waiting[index] = request
      self._serve()
      while not request.done:
        self._condition.wait()
    if request.error:
      raise request.error
    return request.result

  def leave(self, index: int) -> None:
    """Removes a seed, which makes no more calls."""
    with self._condition:
      self._active.discard(index)
      self._waiting.pop(index, None)
      self._release([index])
      self._serve()

  def _serve(self):
    """Makes a call for the seeds that wait, if all of them do."""
    if not self._waiting or set(self._waiting) != self._active:
      return
    names = {request.name for request in self._waiting.values()}
    order = lambda name: (name.startswith(UPDATE), self._served[name], name)
    name = min(names, key=order)
    chosen = {k: v for k, v in self._waiting.items() if v.name == name}
    try:
      results = self._make(name, {i: r.args for i, r in chosen.items()})
      for index, result in zip(chosen, results, strict=True):
        chosen[index].result = result
    except Exception as error:  # Raised in the threads of all.
      for request in chosen.values():
        request.error = error
    self._served[name] += 1
    for index, request in chosen.items():
      request.done = True
      del self._waiting[index]
    self._condition.notify_all()

  def _make(self, name, args: dict[int, tuple]) -> list:
    """Calls a function for some seeds; returns their results."""
    first = next(iter(args.values()))
    updates = name.startswith(UPDATE)
    if updates and self._check_fn and not self._served[name]:
      self._check_fn(first, self._num)
    stack = self._stack_of({i: state for i, (state, *_) in args.items()})
    rows = [args.get(i, first)[1:] for i in range(self._num)]
    columns = tuple(zip(*rows, strict=True))
    function = self._functions[name]
    if not updates:
      results = function(stack.states, *columns)
      return [results[i] for i in args]
    batches, keys = columns
    chosen = np.isin(np.arange(self._num), list(args))
    states, metrics = function(stack.states, batches, (keys, chosen))
    own = stack.update(states, list(args))
    return list(zip(own, (metrics[i] for i in args), strict=True))

  def _stack_of(self, given) -> _Stack:
    """The stack with the states of some seeds."""
    key = _kind(next(iter(given.values())))
    stack = self._stacks.setdefault(key, _Stack(self._num))
    self._release(given, stack)
    stack.set(given)
    return stack

  def _release(self, indices, kept=None):
    """Gives up the rows of some seeds in all stacks but one."""
    for key, stack in list(self._stacks.items()):
      if stack is kept:
        continue
      for index in indices:
        stack.owners[index] = None
      if not any(owner is not None for owner in stack.owners):
        del self._stacks[key]


def _kind(state):
  """Structure and devices of a state."""
  if isinstance(state, SeedState):
    state = state.stack.states
  leaves, structure = jax.tree.flatten(state)
  return structure, frozenset(leaves[0].sharding.device_set)


def check_memory(args: tuple[LearnerState, Any, jax.Array], num: int) -> None:
  """Raises a UserError if the states of all seeds cannot fit a device.

  Known before the update is compiled; what its own arrays need is not.

  Args:
    args: of a seed's update: state, batch, key.
    num: of the seeds.
  """
  state, batch, _ = jax.tree.map(lambda x: x, args)
  (device, *_) = jax.tree.leaves(state)[0].devices()
  limit = (device.memory_stats() or {}).get('bytes_limit')
  sizes = {**memory.state_bytes(state), 'batches': memory.tree_bytes(batch)}
  parts = {name: num * size for name, size in sizes.items()}
  # The seeds have them until they are stacked.
  needed = 2 * sum(parts.values()) - parts['batches']
  if limit and needed > limit:
    text = ', '.join(f'{k} {v / 1e9:.2f} GB' for k, v in parts.items())
    raise UserError(
      f'{num} seeds do not fit the {limit / 1e9:.1f} GB of'
      f' {device.device_kind}: {text}, and the states twice; use fewer seeds'
      ' (config.seeds), or more groups of devices (config.mesh.seed)'
    )


def join(
  fn: Callable, num: int, prepare: Callable[..., tuple] | None = None
) -> Callable:
  """Vectorizes a function of a state.

  Args:
    fn: (state, ...) -> results.
    num: of the seeds.
    prepare: of a seed's other arguments, before they are stacked; None: they
      are unchanged.

  Returns:
    A function of states that are stacked, [num, ...], and of other arguments
    that are tuples of `num`. So are its results.
  """

  def joined(states, *columns):
    return _split(_vectorize(fn, num, prepare, states, columns), num)

  return joined


def join_update(
  step: Callable, num: int, prepare: Callable[..., tuple] | None = None
) -> Callable:
  """Vectorizes the update of a state.

  Args:
    step: (state, batch, key, axis_name=None) -> state, metrics.
    num: of the seeds.
    prepare: see `join`.

  Returns:
    A function (states, batches, (keys, chosen), axis_name=None) -> states,
    metrics. States are stacked, [num, ...]; batches, keys and metrics are
    tuples. Those that are not chosen, bool [num], keep their state.
  """

  def joined(states, batches, keys_and_chosen, *axis_name):
    keys, chosen = keys_and_chosen
    fn = lambda *args: step(*args, *axis_name)
    new, metrics = _vectorize(fn, num, prepare, states, (batches, keys))

    def choose(new, old):
      return jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, states), _split(metrics, num)

  return joined


def _vectorize(fn, num, prepare, states, columns):
  """The results of all seeds, stacked."""
  rows = list(zip(*columns, strict=True))
  assert len(rows) == num
  if prepare:
    rows = [prepare(*row) for row in rows]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
  return jax.vmap(fn)(states, *stacked)


def _split(results, num) -> tuple:
  return tuple(jax.tree.map(lambda x, i=i: x[i], results) for i in range(num))
