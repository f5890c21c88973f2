"""Bytes that states take, known from their shapes."""

import jax

from vid2act_jax.types import LearnerState


def tree_bytes(tree) -> int:
  """Bytes of a tree of arrays or of their shapes."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def state_bytes(state: LearnerState) -> dict[str, int]:
  """Bytes of the parts of a state, or of its shapes, by name."""
  return {
    'parameters': tree_bytes((state.params, state.slow_critic)),
    'optimizers': tree_bytes(state.opt),
    'teacher': tree_bytes(state.teacher),
  }
