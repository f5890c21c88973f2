"""The states of several seeds, stacked on the device.

To stack hundreds of arrays for each call of all seeds, and to split its
results, would be a third of the call's kernels. So the states stay stacked
between calls, and a seed has a `SeedState` in place of its own arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from vid2act_jax.types import LearnerState

_join = jax.jit(lambda *rows: jax.tree.map(lambda *x: jnp.stack(x), *rows))
_row = jax.jit(lambda tree, index: jax.tree.map(lambda x: x[index], tree))


class Stack:
  """The states of the seeds of a group.

  Attributes:
    states: a LearnerState with a leading [K].
  """

  def __init__(self, num: int):
    """num: K, of the seeds."""
    self.states: Any = None
    # What each seed has as its state: a LearnerState, whose copy the row is, or
    # a `SeedState` of this stack; None: the row is of no use.
    self._given: list[LearnerState | SeedState | None] = [None] * num

  @property
  def is_used(self) -> bool:
    """Whether the state of a seed is in the stack."""
    return any(state is not None for state in self._given)

  def set(self, given: dict[int, LearnerState | SeedState]) -> None:
    """Copies the states of some seeds into their rows.

    Nothing is copied where the rows are those of these states.

    Args:
      given: by the number of the seed.
    """
    new = {i: x for i, x in given.items() if self._given[i] is not x}
    if not new:
      return
    rows = {index: materialize(state) for index, state in new.items()}
    for index, state in enumerate(self._given):
      if index not in rows and state is not None:
        rows[index] = self.row(index)
    anything = next(iter(rows.values()))
    self.states = _join(
      *(rows.get(index, anything) for index in range(len(self._given)))
    )
    for index, state in new.items():
      self._given[index] = state

  def update(self, states, indices: Iterable[int]) -> list[SeedState]:
    """Replaces all states after an update of some seeds.

    Their former states are deleted, as if they had been donated.

    Args:
      states: a LearnerState with a leading [K]; the rows of the other seeds are
        unchanged.
      indices: of the seeds.

    Returns:
      The new states of the seeds.
    """
    self.states = states
    updated = []
    for index in indices:
      state = self._given[index]
      if not (isinstance(state, SeedState) and state.stack is self):
        if not isinstance(state, SeedState):
          jax.tree.map(lambda x: x.delete(), state)
        state = self._given[index] = SeedState(self, index)
      updated.append(state)
    return updated

  def row(self, index: int) -> LearnerState:
    """A copy of the state of one seed."""
    return _row(self.states, index)

  def release(self, index: int) -> None:
    """The row of a seed is no longer of use."""
    self._given[index] = None


class SeedState:
  """The state of one seed: a row of a stack."""

  def __init__(self, stack: Stack, index: int):
    """index: of the seed in its group."""
    self.stack, self.index = stack, index


def materialize(state: LearnerState | SeedState) -> LearnerState:
  """The arrays of a state; of a row, a copy."""
  if isinstance(state, SeedState):
    return state.stack.row(state.index)
  return state


def an_array(state: LearnerState | SeedState) -> jax.Array:
  """An array on the state's devices that is ready when the state is."""
  tree = state.stack.states if isinstance(state, SeedState) else state
  return jax.tree.leaves(tree)[0]


def kind(state: LearnerState | SeedState) -> tuple[Any, frozenset]:
  """What states need to have in common for a stack.

  Returns:
    Structure and shapes, and devices.
  """
  stacked = isinstance(state, SeedState)
  tree = state.stack.states if stacked else state
  leaves, structure = jax.tree.flatten(tree)
  shapes = tuple(x.shape[1:] if stacked else x.shape for x in leaves)
  return (structure, shapes), frozenset(leaves[0].sharding.device_set)
