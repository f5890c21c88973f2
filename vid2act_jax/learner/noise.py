"""Noise per row of the global batch, independent of the number of devices."""

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
  """Samples noise for a batch, with a separate key for each row.

  The noise of a row depends only on the key and on the row's index in the
  global batch. So an update has the same noise on any number of devices.

  Args:
    draw: (key, shape) -> array.
    key: the same on every device.
    shape: of the device's part of the batch.
    axis: of the rows.
    axis_name: the mapped axis that the rows are split over, if any.
  """
  size = shape[axis]
  row_shape = shape[:axis] + shape[axis + 1 :]
  first = jax.lax.axis_index(axis_name) * size if axis_name else 0
  one = lambda row: draw(jax.random.fold_in(key, row), row_shape)
  return jnp.moveaxis(jax.vmap(one)(first + jnp.arange(size)), 0, axis)
