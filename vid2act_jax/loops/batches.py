"""Batches of the training loops: sampled from replays, put on the devices."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.replay import Replay
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.types import Batch, FinetuneBatch


class PretrainBatches:
  """Batches of the source datasets, for the teacher."""

  def __init__(
    self,
    sources: Sequence[Replay],
    size: int,
    length: int,
    rows: slice,
    devices: sharding.Devices,
  ):
    """Takes the replays and the shape of a batch.

    Args:
      sources: the replays of the N domains.
      size: B, chunks of each source, of all hosts.
      length: L, frames per chunk.
      rows: this host's rows of each source's part of a batch.
      devices: that the batches are put on.
    """
    self._sources, self._size, self._length = sources, size, length
    self._rows, self._devices = rows, devices

  def get(self, index: int, count: int) -> Batch:
    """The batches of updates [index, index + count), on the devices.

    Returns:
      [N, B, L, ...], with a leading [count] if it is not 1.
    """
    batches = [self._sample(i) for i in range(index, index + count)]
    return _device_put(batches, self._devices, Batch)

  def _sample(self, index):
    rows = sample_sources(
      self._sources, index, self._size, self._length, self._rows
    )
    return Batch(**rows)


class Rehearsal(NamedTuple):
  """Source chunks that join the target's in the student's batch."""

  replays: Sequence[Replay]  # of the N domains, with images
  size: int  # R, chunks of all hosts


class FinetuneBatches:
  """Batches of the online replay and of the source datasets."""

  def __init__(
    self,
    replay: Replay,
    sources: Sequence[Replay],
    size: int,
    length: int,
    devices: sharding.Devices,
    rehearsal: Rehearsal | None = None,
  ):
    """Takes the replays and the shape of a batch.

    Args:
      replay: the online replay.
      sources: the replays of the N domains; () without them.
      size: B, chunks of the target and of each source, of all hosts. With
        rehearsal, some of the target's chunks are replaced by source chunks.
      length: L, frames per chunk.
      devices: that the batches are put on.
      rehearsal: of source chunks, or None.
    """
    self._replay, self._sources = replay, sources
    self._size, self._length, self._devices = size, length, devices
    self._rows = devices.rows(size, 'config.finetune.batch')
    self._rehearsal, self._target_size = rehearsal, size
    if rehearsal:
      self._target_size -= rehearsal.size
      key = 'sequences of config.learner.transfer.rehearsal'
      self._rehearsal_rows = devices.rows(rehearsal.size, key)
    self._last = None, None  # Key and batches of the last call.

  def get(self, index: int, count: int) -> FinetuneBatch:
    """The batches of updates [index, index + count), on the devices.

    They are kept until the next call: a call ahead of time prefetches. If an
    episode has ended since then, they are sampled again.

    Returns:
      Target [B, L, ...] and sources [N, B, L, ...], with a leading [count] if
      it is not 1.
    """
    key = index, count, self._replay.total_episodes
    if self._last[0] != key:
      batches = [self._sample(i) for i in range(index, index + count)]
      self._last = key, _device_put(batches, self._devices, FinetuneBatch)
    return self._last[1]

  def _sample(self, index):
    # Hosts have different online episodes, and the same source datasets.
    stream = self._devices.process_index << 32
    size = self._target_size // self._devices.process_count
    target, target_embed = _split_embed(
      self._replay.sample(index, size, self._length, stream=stream)
    )
    sources = source_embed = None
    if self._sources:
      sources, source_embed = _split_embed(
        sample_sources(
          self._sources, index, self._size, self._length, self._rows
        )
      )
    rehearsal = None
    if self._rehearsal:
      rows = sample_sources(
        self._rehearsal.replays,
        index,
        self._rehearsal.size,
        self._length,
        self._rehearsal_rows,
        # Other chunks than those of the generator.
        first_stream=len(self._rehearsal.replays) + 1,
      )
      rehearsal = Batch(**rows)
    return FinetuneBatch(target, sources, target_embed, source_embed, rehearsal)


def _split_embed(rows):
  """Converts a replay's sample to a `Batch` and its embeddings, or None."""
  embed = rows.pop('embed', None)
  return Batch(image=rows.pop('image', None), **rows), embed


def _device_put(batches, devices, batch_type):
  """Puts batches on the devices, stacked if there are several."""
  specs = sharding.specs(batch_type)
  if len(batches) == 1:
    return devices.device_put(batches[0], specs)
  stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
  return devices.device_put(stacked, specs, leading_axes=1)
