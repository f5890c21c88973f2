"""Splits the episodes of a source dataset: for training, and held out."""

from collections.abc import Sequence

import numpy as np

from vid2act_jax.data.episodes import EpisodeFile
from vid2act_jax.types import UserError


def split_episodes(
  listed: Sequence[EpisodeFile], share: float, seed: int
) -> tuple[list[EpisodeFile], list[EpisodeFile]]:
  """Splits episodes by their indices and the seed, not by what they hold.

  Args:
    listed: the episodes of a dataset, by index.
    share: of them that is held out, from 0 to below 1; if it is not 0, at
      least one episode, and never all.
    seed: of the split.

  Returns:
    The episodes for training and those held out, both by index.

  Raises:
    UserError: there is a single episode, which cannot be both.
  """
  if not share:
    return list(listed), []
  if len(listed) < 2:
    raise UserError(
      f'{listed[0].path}: the only episode of its dataset, but'
      f' config.replay.held_out={share} holds out at least one; collect more'
      ' episodes, or set config.replay.held_out=0'
    )
  count = min(max(1, round(share * len(listed))), len(listed) - 1)

  def rank(file):  # The same on every machine and in every version of NumPy.
    return np.random.SeedSequence((seed, file.index)).generate_state(2).tolist()

  held_out = sorted(listed, key=rank)[:count]
  indices = {file.index for file in held_out}
  return (
    [file for file in listed if file.index not in indices],
    [file for file in listed if file.index in indices],
  )
