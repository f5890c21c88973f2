"""Pictures, with their pixels in rows or in blocks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class BlockedImage(NamedTuple):
  """M pictures of size x size pixels, cut into blocks of side x side.

  A block's pixels are channels: few channels become many, and what has a stride
  of two among pixels has one of one among blocks.
  """

  # [M, G, G, side side C]: rows, columns and channels of a block. What lies
  # beyond `size` in the last blocks has no meaning.
  x: jax.Array
  size: int
  side: int = 1

  @classmethod
  def of(cls, pixels: jax.Array) -> 'BlockedImage':
    """[M, S, S, C] -> blocks of one pixel."""
    return cls(pixels, pixels.shape[1])

  def pixels(self) -> jax.Array:
    """[M, size, size, C]."""
    if self.side == 1:
      return self.x[:, : self.size, : self.size]
    m, grid, _, _ = self.x.shape
    x = self.x.reshape(m, grid, grid, self.side, self.side, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(m, grid * self.side, grid * self.side, -1)
    return x[:, : self.size, : self.size]

  def blocks(self, side: int) -> 'BlockedImage':
    """The same in blocks of this side, and zero beyond `size`."""
    if self.side == side and self.x.shape[1] * side == self.size:
      return self
    x = self.pixels()
    m, _, _, channels = x.shape
    grid = -(-self.size // side)
    margin = (0, grid * side - self.size)
    x = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
    x = x.reshape(m, grid, side, grid, side, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(m, grid, grid, -1)
    return BlockedImage(x, self.size, side)

  def map(self, fn: Callable[[jax.Array], jax.Array]) -> 'BlockedImage':
    """With every number mapped."""
    return self._replace(x=fn(self.x))
