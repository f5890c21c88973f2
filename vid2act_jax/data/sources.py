"""Source datasets: loading, and batches of all domains."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from vid2act_jax.data import dataset, splits, store
from vid2act_jax.data.replay import (
  DerivedColumn,
  Replay,
  ReplayOptions,
  check_lengths,
  count_fitting,
)
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
    _check_size(directory, metadata, size)
    own_options = dataclasses.replace(
      options, action_dim=metadata['action_dim'], size=size, embed=embed
    )
    replay = Replay(directory, capacity_bytes, seed, own_options)
    _check_count(directory, metadata, replay.episodes_on_disk)
    replays.append(replay)
    all_metadata.append(metadata)
  return replays, all_metadata


def check_source(
  directory: str | os.PathLike,
  capacity_bytes: float,
  seed: int,
  options: ReplayOptions,
  lengths: Sequence[int],
) -> None:
  """Checks a source without reading its episodes.

  Args:
    directory: the dataset folder.
    capacity_bytes: capacity of its replay.
    seed: of the batches.
    options: of the replay, with the size.
    lengths: of the chunks that will be sampled.

  Raises:
    UserError: as in `load_sources`, as far as metadata and file names show it;
      `TooShort` if no episode is long enough for a chunk.
  """
  metadata = dataset.read_metadata(directory)
  _check_size(directory, metadata, options.size)
  listed = dataset.find_episodes(directory)
  _check_count(directory, metadata, len(listed))
  kept, _ = splits.split_episodes(listed, options.held_out, seed)
  columns = store.frame_columns(metadata['size'], metadata['action_dim'])
  capacity = int(capacity_bytes // store.record_bytes(columns))
  kept = kept[-count_fitting(kept, capacity) :]
  for length in lengths:
    frames = [file.length for file in kept]
    check_lengths(directory, frames, length, options.cross_episodes)


def _check_size(directory, metadata, size):
  found = metadata['size']
  if found != size:
    raise UserError(
      f'{directory}: its frames are {found}x{found}, should be {size}x{size};'
      f' import it with --size {size} into another folder, or collect it again.'
    )


def _check_count(directory, metadata, found):
  if found != metadata['episodes']:
    raise UserError(
      f'{directory}: {dataset.FILE} says {metadata["episodes"]} episodes, '
      f'there are {found}; restore the missing ones, or collect it again in '
      'another folder.'
    )


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
