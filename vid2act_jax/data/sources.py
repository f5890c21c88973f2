"""Source datasets: loading, and batches of all domains."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from vid2act_jax.data import dataset
from vid2act_jax.data.replay import DerivedColumn, Replay, ReplayOptions
from vid2act_jax.types import UserError


def load_sources(
  directories: Sequence[str | os.PathLike],
  capacity_bytes: float,
  seed: int,
  options: ReplayOptions | None = None,
  embeds: Sequence[DerivedColumn | None] | None = None,
) -> tuple[list[Replay], list[dict]]:
  """Opens source datasets, which are only read.

  Args:
    directories: the N dataset folders, in the order of the domains.
    capacity_bytes: capacity of each domain's replay.
    seed: of the batches.
    options: of every replay; without a size, that of the first dataset.
    embeds: `embed` of each replay's options; None: no embeddings.

  Returns:
    The replays and the metadata of the N domains.

  Raises:
    UserError: a folder, its metadata or an episode is missing or invalid, or
      its metadata contradicts its episodes or the size.
  """
  if not directories:
    raise UserError(
      'There are no source datasets: name at least one task in config.sources.'
    )
  replays, all_metadata = [], []
  options = options or ReplayOptions()
  size = options.size
  embeds = embeds or [None] * len(directories)
  for directory, embed in zip(directories, embeds, strict=True):
    metadata = dataset.read_metadata(directory)
    size = size or metadata['size']
    if metadata['size'] != size:
      found = metadata['size']
      raise UserError(
        f'{directory}: its frames are {found}x{found}, should be '
        f'{size}x{size}; import it with --size {size} into another folder, or '
        'collect it again.'
      )
    own_options = dataclasses.replace(
      options, action_dim=metadata['action_dim'], size=size, embed=embed
    )
    replay = Replay(directory, capacity_bytes, seed, own_options)
    if replay.episodes_on_disk != metadata['episodes']:
      raise UserError(
        f'{directory}: {dataset.FILE} says {metadata["episodes"]} episodes, '
        f'there are {replay.episodes_on_disk}; restore the missing ones, or '
        'collect it again in another folder.'
      )
    replays.append(replay)
    all_metadata.append(metadata)
  return replays, all_metadata


def sample_sources(
  replays: Sequence[Replay],
  index: int,
  batch: int,
  length: int,
  rows: slice = slice(None),
  first_stream: int = 1,
) -> dict[str, np.ndarray]:
  """Batch number `index` of each domain, sampled independently.

  Args:
    replays: of the N domains, with frames of one size.
    index: number of the batch, such as the learner's step.
    batch: B, the number of chunks per domain.
    length: L, frames per chunk.
    rows: the rows of the batch to return, for a host with a part of the batch.
    first_stream: of the domains' random streams. Stream 0 belongs to the
      target replay, which may have the same seed.

  Returns:
    The arrays of `Replay.sample` with a leading [N]; actions are padded with
    zeros to the largest action size.

  Raises:
    UserError: a domain has no episode that is long enough.
  """
  action_dim = max(replay.action_dim for replay in replays)
  num_rows = len(range(batch)[rows])
  out = replays[0].empty_batch((len(replays), num_rows, length), action_dim)
  for domain, replay in enumerate(replays):
    part = {key: value[domain] for key, value in out.items()}
    stream = first_stream + domain
    replay.sample(index, batch, length, stream=stream, out=part, rows=rows)
  return out


def source_positions(
  replays: Sequence[Replay],
  index: int,
  batch: int,
  length: int,
  rows: slice = slice(None),
  first_stream: int = 1,
) -> list[np.ndarray]:
  """Where the chunks of `sample_sources` with these arguments start.

  Returns:
    `Replay.positions` of the N domains.
  """
  return [
    replay.positions(index, batch, length, first_stream + domain, rows)
    for domain, replay in enumerate(replays)
  ]
