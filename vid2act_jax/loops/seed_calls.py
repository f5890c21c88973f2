"""Calls of several seeds on the same devices: joined, or one after another."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.loops import memory, seed_state
from vid2act_jax.loops.execution import UPDATE, Calls, announced, compose
from vid2act_jax.types import DeviceBatch, LearnerState, UserError


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
    self._checked: set[str] = set()  # Functions that `check_fn` has seen.
    # By `seed_state.kind`: on several devices, those to learn and to act with.
    self._stacks: dict[Any, seed_state.Stack] = {}

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
    if updates and self._check_fn and name not in self._checked:
      self._check_fn(first, self._num)
      self._checked.add(name)
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

  def _stack_of(self, given) -> seed_state.Stack:
    """The stack with the states of some seeds."""
    key = seed_state.kind(next(iter(given.values())))
    stack = self._stacks.setdefault(key, seed_state.Stack(self._num))
    stack.set(given)
    self._release(given, key[0])
    return stack

  def _release(self, indices, shapes=None):
    """Gives up the rows of some seeds in stacks of other shapes."""
    for key, stack in list(self._stacks.items()):
      if key[0] == shapes:
        continue
      for index in indices:
        stack.release(index)
      if not stack.is_used:
        del self._stacks[key]


def check_memory(args: tuple[LearnerState, Any, jax.Array], num: int) -> None:
  """Raises a UserError if the states of all seeds cannot fit a device.

  Known before the update is compiled; what its own arrays need is not.

  Args:
    args: of a seed's update: state, batch, key.
    num: of the seeds.
  """
  state, batch, _ = args
  state = seed_state.materialize(state)
  (device, *_) = jax.tree.leaves(state)[0].devices()
  limit = (device.memory_stats() or {}).get('bytes_limit')
  on_device = isinstance(batch, DeviceBatch)
  name = 'replays and batches' if on_device else 'batches'
  sizes = {**memory.state_bytes(state), name: memory.tree_bytes(batch)}
  parts = {name: num * size for name, size in sizes.items()}
  # The seeds have their states until these are stacked.
  needed = 2 * sum(parts.values()) - parts[name]
  if limit and needed > limit:
    text = ', '.join(f'{k} {v / 1e9:.2f} GB' for k, v in parts.items())
    raise UserError(
      f'{num} seeds do not fit the {limit / 1e9:.1f} GB of'
      f' {device.device_kind}: {text}, and the states twice; use fewer seeds'
      ' (config.seeds), more groups of devices (config.mesh.seed), or less'
      ' memory for replays (config.replay.device_gb)'
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
