"""Random noise that does not depend on the number of devices."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

# (key, shape) -> array.
NoiseFn = Callable[[jax.Array, tuple[int, ...]], jax.Array]


@dataclasses.dataclass(frozen=True)
class NoiseFns:
  """Samplers of standard normal noise.

  Tests replace them with constants, to make an update deterministic.
  """

  latent: NoiseFn = jax.random.normal  # for latents and guidance
  action: NoiseFn = jax.random.normal  # for the actor's actions


def _zeros(key, shape):
  del key
  return jnp.zeros(shape)


# A sample without noise is the mean.
ZERO_NOISE = NoiseFns(_zeros, _zeros)


class Rng(flax.struct.PyTreeNode):
  """A PRNG key, together with how noise is drawn from it."""

  key: jax.Array  # the same on every device
  # The mapped axis that the rows of a batch are split over, if any.
  axis_name: str | None = flax.struct.field(pytree_node=False, default=None)
  noise_fns: NoiseFns = flax.struct.field(pytree_node=False, default=NoiseFns())
  # Sizes of this device's parts of the rows, if the batch is a concatenation
  # whose parts are split over the axis one by one; (): a single part.
  parts: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

  def split(self, num: int = 2) -> list['Rng']:
    """Like `jax.random.split`."""
    return [self.replace(key=key) for key in jax.random.split(self.key, num)]

  def fold_in(self, data: int | jax.Array) -> 'Rng':
    """Like `jax.random.fold_in`."""
    return self.replace(key=jax.random.fold_in(self.key, data))

  def normal(
    self, shape: tuple[int, ...], row_axis: int | None = None
  ) -> jax.Array:
    """Standard normal noise.

    Args:
      shape: of this device's part of the batch.
      row_axis: the axis of the batch's rows. The noise of a row then depends
        only on the key and on the row's index in the global batch, so that an
        update has the same noise on any number of devices. None: one draw of
        the whole shape.
    """
    return self._draw(self.noise_fns.latent, shape, row_axis)

  def action_normal(
    self, shape: tuple[int, ...], row_axis: int | None = None
  ) -> jax.Array:
    """Like `normal`, for the actions of the policy."""
    return self._draw(self.noise_fns.action, shape, row_axis)

  def _draw(self, noise_fn, shape, row_axis):
    if row_axis is None:
      return noise_fn(self.key, shape)
    num_rows = shape[row_axis]
    row_shape = shape[:row_axis] + shape[row_axis + 1 :]
    one = lambda row: noise_fn(jax.random.fold_in(self.key, row), row_shape)
    rows = jax.vmap(one)(self._row_indices(num_rows))
    return jnp.moveaxis(rows, 0, row_axis)

  def _row_indices(self, num_rows):
    """Indices of this device's rows in the global batch, i32 [num_rows]."""
    parts = self.parts or (num_rows,)
    assert sum(parts) == num_rows
    if not self.axis_name:
      return jnp.arange(num_rows)
    index = jax.lax.axis_index(self.axis_name)
    devices = jax.lax.axis_size(self.axis_name)
    before = [devices * sum(parts[:i]) for i in range(len(parts))]
    return jnp.concatenate(
      [
        first + index * size + jnp.arange(size)
        for first, size in zip(before, parts, strict=True)
      ]
    )
