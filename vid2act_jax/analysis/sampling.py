"""Samples sequences from dataset folders, without opening a replay."""

from collections.abc import Sequence

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.types import Batch

_KEYS = ('image', 'action', 'reward', 'is_first', 'discount')


def sample(
  files: Sequence[eps.EpisodeFile],
  num: int,
  length: int,
  rng: np.random.Generator,
  width: int | None = None,
) -> Batch:
  """Samples sequences, uniformly over all places where they can start.

  Args:
    files: the episodes, at least one of them that long.
    num: B sequences.
    length: L frames each.
    rng: of the sampling.
    width: A of the result, padded with zeros; None: that of the episodes.

  Returns:
    NumPy arrays [B, L, ...], by episode.

  Raises:
    UserError: an episode is damaged, or differs from the others.
  """
  ends = np.cumsum([max(0, file.length - length + 1) for file in files])
  # Sorted, so that every episode is read once and then forgotten.
  places = np.sort(rng.integers(0, ends[-1], num))
  owners = np.searchsorted(ends, places, side='right')
  sequences, size, dims = [], None, None
  for owner in np.unique(owners):
    path = files[owner].path
    episode = eps.load(path)
    eps.validate(episode, path, size, dims)
    size, dims = episode['image'].shape[1], episode['action'].shape[1]
    for first in places[owners == owner] - (ends[owner - 1] if owner else 0):
      sequences.append([episode[x][first : first + length] for x in _KEYS])
  arrays = map(np.stack, zip(*sequences, strict=True))
  batch = Batch(**dict(zip(_KEYS, arrays, strict=True)))
  margin = [(0, 0), (0, 0), (0, (width or dims) - dims)]
  return batch.replace(action=np.pad(batch.action, margin))
