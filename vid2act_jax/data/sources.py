"""The source datasets as one: a batch of every domain at a time."""

import os
from collections.abc import Sequence

import numpy as np

from vid2act_jax.data import dataset
from vid2act_jax.data.replay import DerivedColumn, Replay
from vid2act_jax.types import UserError


def load_sources(
  directories: Sequence[str | os.PathLike],
  capacity_bytes: float,
  seed: int,
  size: int | None = None,
  scratch: str | os.PathLike | None = None,
  cross_episodes: bool = False,
  embeds: Sequence[DerivedColumn | None] | None = None,
) -> tuple[list[Replay], list[dict]]:
  """Opens source datasets; nothing is ever written to them.

  Args:
    directories: the N dataset folders; their order is that of the domains.
    capacity_bytes: the bound for each domain.
    seed: of the batches.
    size: the frames' height and width; None: that of the first dataset.
    scratch: as of `Replay`.
    cross_episodes: as of `Replay`.
    embeds: `embed` of each `Replay`; None: of none.

  Returns:
    The replays and the metadata of the N domains.

  Raises:
    UserError: a folder, its metadata or an episode is missing or wrong, or
      its metadata contradicts its episodes or the size.
  """
  if not directories:
    raise UserError(
      'There are no source datasets: name at least one task in config.sources.'
    )
  replays, metadata = [], []
  embeds = embeds or [None] * len(directories)
  for directory, embed in zip(directories, embeds, strict=True):
    about = dataset.read_metadata(directory)
    size = size or about['size']
    if about['size'] != size:
      raise UserError(
        f'{directory}: its frames are {about["size"]}x{about["size"]}, should '
        f'be {size}x{size}; import it with --size {size} into another folder, '
        'or collect it anew.'
      )
    replay = Replay(
      directory,
      capacity_bytes,
      seed,
      about['action_dim'],
      size,
      scratch=scratch,
      cross_episodes=cross_episodes,
      embed=embed,
    )
    if replay.episodes_on_disk != about['episodes']:
      raise UserError(
        f'{directory}: {dataset.FILE} promises {about["episodes"]} episodes, '
        f'there are {replay.episodes_on_disk}; restore the others, or collect '
        'it anew in another folder.'
      )
    replays.append(replay)
    metadata.append(about)
  return replays, metadata


def sample_sources(
  replays: Sequence[Replay],
  index: int,
  batch: int,
  length: int,
  rows: slice = slice(None),
) -> dict[str, np.ndarray]:
  """Batch number `index` of each domain, each with draws of its own.

  Args:
    replays: of the N domains, frames of one size.
    index: the batch's number, as the learner's step.
    batch: B chunks of each domain.
    length: L frames each.
    rows: only these of them, for a host that has a part of the batch.

  Returns:
    As `Replay.sample`, with a leading [N] and the actions padded with zeros to
    the largest action size.

  Raises:
    UserError: a domain has no episode that is long enough.
  """
  widest = max(replay.action_dim for replay in replays)
  here = len(range(batch)[rows])
  out = replays[0].empty_batch((len(replays), here, length), widest)
  for domain, replay in enumerate(replays):
    own = {key: value[domain] for key, value in out.items()}
    # Stream 0 is the target's own, which may have the same seed.
    replay.sample(index, batch, length, stream=domain + 1, out=own, rows=rows)
  return out
