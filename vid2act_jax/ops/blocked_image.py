"""Images whose pixels are grouped in blocks (space to depth)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class BlockedImage(NamedTuple):
  """M images of size x size pixels in blocks of block_size x block_size.

  The pixels of a block are channels (space to depth). So there are more
  channels, and a stride of two over pixels is a stride of one over blocks.
  """

  # [M, G, G, block_size block_size C]: rows, columns and channels of a block.
  # Pixels beyond `size` in the last blocks are undefined.
  x: jax.Array
  size: int
  block_size: int = 1

  @classmethod
  def of(cls, pixels: jax.Array) -> 'BlockedImage':
    """[M, S, S, C] -> blocks of one pixel."""
    return cls(pixels, pixels.shape[1])

  def pixels(self) -> jax.Array:
    """[M, size, size, C]."""
    if self.block_size == 1:
      return self.x[:, : self.size, : self.size]
    m, grid, _, _ = self.x.shape
    x = self.x.reshape(m, grid, grid, self.block_size, self.block_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(m, grid * self.block_size, grid * self.block_size, -1)
    return x[:, : self.size, : self.size]

  def blocks(self, block_size: int) -> 'BlockedImage':
    """The same images in blocks of this size, with zeros beyond `size`."""
    if (
      self.block_size == block_size
      and self.x.shape[1] * block_size == self.size
    ):
      return self
    x = self.pixels()
    m, _, _, channels = x.shape
    grid = -(-self.size // block_size)
    padding = (0, grid * block_size - self.size)
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    x = x.reshape(m, grid, block_size, grid, block_size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(m, grid, grid, -1)
    return BlockedImage(x, self.size, block_size)

  def crop(self, size: int) -> 'BlockedImage':
    """The first rows and columns; blocks that are cut stay whole."""
    grid = -(-size // self.block_size)
    return self._replace(x=self.x[:, :grid, :grid], size=size)

  def map(self, fn: Callable[[jax.Array], jax.Array]) -> 'BlockedImage':
    """Applies an elementwise function."""
    return self._replace(x=fn(self.x))
