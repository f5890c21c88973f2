"""Batches of the training loops: sampled from replays, put on the devices."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.replay import Replay
from vid2act_jax.data.sources import sample_sources, source_positions
from vid2act_jax.loops import device_replay
from vid2act_jax.loops.device_replay import DeviceReplays
from vid2act_jax.types import Batch, DeviceBatch, FinetuneBatch

# Name of their number, for messages.
REHEARSAL_ROWS = 'sequences of config.learner.transfer.rehearsal'


class PretrainBatches:
  """Batches of the source datasets, for the teacher."""

  def __init__(
    self,
    sources: Sequence[Replay],
    size: int,
    length: int,
    rows: slice,
    devices: sharding.Devices,
    on_device: DeviceReplays | None = None,
  ):
    """Takes the replays and the shape of a batch.

    Args:
      sources: the replays of the N domains.
      size: B, chunks of each source, of all hosts.
      length: L, frames per chunk.
      rows: this host's rows of each source's part of a batch.
      devices: that the batches are put on.
      on_device: the replays in device memory, as 'sources'; None: batches are
        sampled on the host.
    """
    self._sources = sources
    self._sample_args = size, length, rows
    self._devices, self._on_device = devices, on_device

  def get(self, index: int, count: int) -> Batch | DeviceBatch:
    """The batches of updates [index, index + count), on the devices.

    Returns:
      [N, B, L, ...], with a leading [count] if it is not 1.
    """
    indices = range(index, index + count)
    if self._on_device:
      return self._on_device.batch([self._positions(i) for i in indices])
    batches = [self._sample(i) for i in indices]
    return _device_put(batches, self._devices, Batch)

  @property
  def load(self) -> Callable | None:
    """Gathers a `DeviceBatch` in a compiled step; None: batches have arrays."""
    return self._on_device and self._on_device.load

  def arrays(self, batch: Batch | DeviceBatch) -> Batch:
    """The arrays of a batch from `get`."""
    return _arrays(batch, self._on_device)

  def _sample(self, index):
    return Batch(**sample_sources(self._sources, index, *self._sample_args))

  def _positions(self, index):
    args = self._sources, index, *self._sample_args
    return {'sources': source_positions(*args)}


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
    on_device: DeviceReplays | None = None,
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
      on_device: the replays in device memory, as 'target', 'sources' and
        'rehearsal'; None: batches are sampled on the host.
    """
    self._replay, self._sources = replay, sources
    self._size, self._length, self._devices = size, length, devices
    self._on_device = on_device
    self._rows = devices.rows(size, 'config.finetune.batch')
    self._rehearsal, self._target_size = rehearsal, size
    if rehearsal:
      self._target_size -= rehearsal.size
      self._rehearsal_rows = devices.rows(rehearsal.size, REHEARSAL_ROWS)
    self._last = None, None  # Key and batches of the last call.

  def get(self, index: int, count: int) -> FinetuneBatch | DeviceBatch:
    """The batches of updates [index, index + count), on the devices.

    They are kept until the next call: a call ahead of time prefetches. If an
    episode has ended since then, they are sampled again.

    Returns:
      Target [B, L, ...] and sources [N, B, L, ...], with a leading [count] if
      it is not 1.
    """
    key = index, count, self._replay.total_episodes
    if self._last[0] != key:
      self._last = key, self._get(range(index, index + count))
    return self._last[1]

  @property
  def load(self) -> Callable | None:
    """Gathers a `DeviceBatch` in a compiled step; None: batches have arrays."""
    return self._on_device and self._on_device.load

  def arrays(self, batch: FinetuneBatch | DeviceBatch) -> FinetuneBatch:
    """The arrays of a batch from `get`."""
    return _arrays(batch, self._on_device)

  def _get(self, indices):
    if self._on_device:
      return self._on_device.batch([self._positions(i) for i in indices])
    batches = [self._sample(i) for i in indices]
    return _device_put(batches, self._devices, FinetuneBatch)

  def _sample(self, index):
    target, sources, rehearsal = self._arguments(index)
    target, target_embed = device_replay.split_embed(
      self._replay.sample(**target)
    )
    batch = FinetuneBatch(target, None, target_embed)
    if self._sources:
      rows, embed = device_replay.split_embed(sample_sources(**sources))
      batch = batch.replace(sources=rows, source_embed=embed)
    if self._rehearsal:
      rows = sample_sources(**rehearsal)
      batch = batch.replace(rehearsal=Batch(**rows))
    return batch

  def _positions(self, index):
    target, sources, rehearsal = self._arguments(index)
    positions = {'target': [self._replay.positions(**target)]}
    if self._sources:
      positions['sources'] = source_positions(**sources)
    if self._rehearsal:
      positions['rehearsal'] = source_positions(**rehearsal)
    return positions

  def _arguments(self, index):
    """What is sampled of the target, of the sources and for rehearsal."""
    common = {'index': index, 'length': self._length}
    target = {
      **common,
      'batch': self._target_size // self._devices.process_count,
      # Hosts have different online episodes, and the same source datasets.
      'stream': self._devices.process_index << 32,
    }
    sources = {
      **common,
      'replays': self._sources,
      'batch': self._size,
      'rows': self._rows,
    }
    if not self._rehearsal:
      return target, sources, None
    replays, size = self._rehearsal
    rehearsal = {
      **common,
      'replays': replays,
      'batch': size,
      'rows': self._rehearsal_rows,
      # Other chunks than those of the generator.
      'first_stream': len(replays) + 1,
    }
    return target, sources, rehearsal


def _arrays(batch, on_device):
  return on_device.arrays(batch) if on_device else batch


def _device_put(batches, devices, batch_type):
  """Puts batches on the devices, stacked if there are several."""
  specs = sharding.specs(batch_type)
  if len(batches) == 1:
    return devices.device_put(batches[0], specs)
  stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
  return devices.device_put(stacked, specs, leading_axes=1)
