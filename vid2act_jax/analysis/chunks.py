"""Sequences out of dataset folders that are only read, without a replay."""

import os
from collections.abc import Sequence

import numpy as np

from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import Batch


def find(
  directory: str | os.PathLike, newest: int | None = None
) -> list[eps.EpisodeFile]:
  """The episodes of a folder, or its newest ones.

  Raises:
    UserError: there are none.
  """
  known = dataset.find_episodes(directory)
  return known[-newest:] if newest else known


def draw(
  known: Sequence[eps.EpisodeFile],
  num: int,
  length: int,
  rng: np.random.Generator,
  width: int | None = None,
) -> Batch:
  """Draws chunks, uniform over all places where they can start.

  Args:
    known: the episodes, at least one of them that long.
    num: B chunks.
    length: L frames each.
    rng: what they are drawn by.
    width: A of the result, zeros behind the episodes' own; None: their own.

  Returns:
    NumPy arrays [B, L, ...], by episode.

  Raises:
    UserError: an episode is damaged, or not as the others are.
  """
  ends = np.cumsum([max(0, file.length - length + 1) for file in known])
  # Sorted, so that every episode is read once and then forgotten.
  places = np.sort(rng.integers(0, ends[-1], num))
  owners = np.searchsorted(ends, places, side='right')
  chunks, size, dims = [], None, None
  for owner in np.unique(owners):
    path = known[owner].path
    episode = eps.load(path)
    eps.validate(episode, path, size, dims)
    size, dims = episode['image'].shape[1], episode['action'].shape[1]
    begins = ends[owner - 1] if owner else 0
    for first in places[owners == owner] - begins:
      chunks.append(
        {
          key: episode[key][first : first + length]
          for key in ('image', 'action', 'reward', 'is_first', 'discount')
        }
      )
  rows = {key: np.stack([c[key] for c in chunks]) for key in chunks[0]}
  margin = [(0, 0), (0, 0), (0, (width or dims) - dims)]
  return Batch(**{**rows, 'action': np.pad(rows['action'], margin)})
