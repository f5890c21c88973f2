"""Noise that belongs to the rows of the whole batch, wherever they are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def by_row(
  draw: Draw,
  key: jax.Array,
  shape: tuple[int, ...],
  axis: int = 0,
  axis_name: str | None = None,
) -> jax.Array:
  """Noise of a shape, of which one axis is the batch.

  A row's noise is a function of the key and of its number in the whole batch:
  split over any number of devices, an update sees the numbers it would see on
  one.

  Args:
    draw: (key, shape) -> array.
    key: the same on every device.
    shape: of the part of the batch that is here.
    axis: of the rows.
    axis_name: the mapped axis that the rows are split over, if any.
  """
  size = shape[axis]
  row_shape = shape[:axis] + shape[axis + 1 :]
  first = jax.lax.axis_index(axis_name) * size if axis_name else 0
  one = lambda row: draw(jax.random.fold_in(key, row), row_shape)
  return jnp.moveaxis(jax.vmap(one)(first + jnp.arange(size)), 0, axis)
