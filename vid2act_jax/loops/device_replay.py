"""Replays in device memory, whose chunks a compiled update gathers itself.

The host still decides what is sampled, so batches are the same as from its own
copy. Only the positions of chunks are sent with an update.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data import store
from vid2act_jax.data.replay import Replay
from vid2act_jax.types import Batch, DeviceBatch, FinetuneBatch, UserError

_BLOCK = 128  # Records a write, so that it is compiled for one number only.
_AUTO_SHARE = 0.4  # Of a device's memory, for all runs on it.


class DeviceColumn(flax.struct.PyTreeNode):
  """One array of the records, flat, so that a TPU does not pad images."""

  rows: jax.Array  # [capacity, size]
  shape: tuple[int, ...] = flax.struct.field(pytree_node=False)  # of a record

  def read(self, slots: jax.Array) -> jax.Array:
    """Records [*slots.shape, *shape]; the slots must be in range."""
    rows = self.rows.at[slots].get(mode='promise_in_bounds')
    return rows.reshape(*slots.shape, *self.shape)

  def write(self, slots: jax.Array, records: jax.Array) -> 'DeviceColumn':
    """Writes records [T, *shape]; slots i32 [T] out of range are ignored."""
    flat = records.reshape(len(records), -1)
    return self.replace(rows=self.rows.at[slots].set(flat, mode='drop'))


class DeviceReplay:
  """A copy of a replay's records in device memory, kept up to date.

  Attributes:
    columns: `DeviceColumn`s by key. A write replaces them and deletes the old.
  """

  def __init__(self, replay: Replay, capacity: int, devices: sharding.Devices):
    """Copies the held episodes, and those to come.

    Args:
      replay: the host's.
      capacity: records, at least 1. It grows to the replay's own if more are
        held.
      devices: each has a copy.
    """
    self._replay, self._devices = replay, devices
    self._allocate(min(capacity, replay.capacity))
    for position, records in replay.held_records():
      self._write(position, records)
    replay.subscribe(self._write)

  def slots(self, positions: np.ndarray) -> np.ndarray:
    """Positions in the replay -> i32, their slots on the device."""
    return (positions % self._capacity).astype(np.int32)

  def _allocate(self, capacity):
    self._capacity = capacity
    self.columns = {}  # Freed first.
    for key, column in self._replay.columns.items():
      shape = capacity, math.prod(column.shape)
      where = self._devices.replicated
      rows = jnp.zeros(shape, column.dtype, device=where)
      self.columns[key] = DeviceColumn(rows, column.shape)

  def _write(self, position, records):
    if self._replay.num_frames > self._capacity:
      self._allocate(self._replay.capacity)
      rows = self._replay.held_records()
    else:
      rows = [(position, records)]
    for first, episode in rows:
      for start in range(0, len(episode['reward']), _BLOCK):
        block = {k: episode[k][start : start + _BLOCK] for k in self.columns}
        self._write_block(first + start, block)

  def _write_block(self, position, block):
    num = len(block['reward'])
    slots = self.slots(position + np.arange(_BLOCK))
    slots[num:] = self._capacity  # Out of range: these are not written.
    pad = lambda x: np.pad(x, [(0, _BLOCK - num)] + [(0, 0)] * (x.ndim - 1))
    rows = {k: pad(np.asarray(v)) for k, v in block.items()}
    self.columns = _scatter(self.columns, slots, rows)


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(columns, slots, rows):
  return {key: c.write(slots, rows[key]) for key, c in columns.items()}


def gather(
  columns: Mapping[str, DeviceColumn], starts: jax.Array, length: int
) -> dict[str, jax.Array]:
  """Reads chunks.

  Args:
    columns: by key.
    starts: i32 [..., B], slots of the first records.
    length: L.

  Returns:
    Arrays [..., B, L, ...].
  """
  capacity = columns['reward'].rows.shape[0]
  slots = (starts[..., None] + jnp.arange(length)) % capacity
  return {key: column.read(slots) for key, column in columns.items()}


def gather_sources(
  columns: Sequence[Mapping[str, DeviceColumn]],
  starts: Sequence[jax.Array],
  length: int,
) -> dict[str, jax.Array]:
  """Reads chunks of all domains; see `sample_sources`.

  Returns:
    Arrays [..., N, B, L, ...]; actions are padded with zeros to the largest
    action size.
  """
  width = max(c['action'].shape[0] for c in columns)
  axis = starts[0].ndim - 1
  parts = []
  for own, first in zip(columns, starts, strict=True):
    rows = gather(own, first, length)
    missing = width - rows['action'].shape[-1]
    padding = [(0, 0)] * (rows['action'].ndim - 1) + [(0, missing)]
    parts.append({**rows, 'action': jnp.pad(rows['action'], padding)})
  return jax.tree.map(lambda *x: jnp.stack(x, axis), *parts)


def split_embed(rows: dict) -> tuple[Batch, jax.Array | np.ndarray | None]:
  """Converts the arrays of a replay's chunks to a `Batch` and embeddings."""
  embed = rows.pop('embed', None)
  return Batch(image=rows.pop('image', None), **rows), embed


def load_pretrain(batch: DeviceBatch, length: int) -> Batch:
  """Gathers the batch of a pretraining update, [..., N, B, L, ...]."""
  columns, starts = batch.columns['sources'], batch.starts['sources']
  return Batch(**gather_sources(columns, starts, length))


def load_finetune(batch: DeviceBatch, length: int) -> FinetuneBatch:
  """Gathers the batch of a finetuning update, [..., B, L, ...]."""
  columns, starts = batch.columns, batch.starts
  rows = gather(columns['target'][0], starts['target'][0], length)
  target, target_embed = split_embed(rows)
  sources = source_embed = rehearsal = None
  if 'sources' in columns:
    sources, source_embed = split_embed(
      gather_sources(columns['sources'], starts['sources'], length)
    )
  if 'rehearsal' in columns:
    rows = gather_sources(columns['rehearsal'], starts['rehearsal'], length)
    rehearsal = Batch(**rows)
  return FinetuneBatch(target, sources, target_embed, source_embed, rehearsal)


def capacity_bytes(
  gigabytes: float, devices: sharding.Devices, runs: int
) -> float:
  """Device memory for a run's replays, in bytes.

  Args:
    gigabytes: `config.replay.device_gb`.
    devices: of the run.
    runs: number of runs on these devices.

  Raises:
    UserError: it is positive, and there are several hosts.
  """
  if devices.process_count > 1:
    if gigabytes > 0:
      raise UserError(
        f'config.replay.device_gb={gigabytes}: each of the'
        f' {devices.process_count} hosts has its own episodes, so they cannot'
        ' be in the memory of all devices; set it to -1 or 0'
      )
    return 0
  if gigabytes >= 0:
    return gigabytes * 1e9
  device = devices.mesh.devices.flat[0]
  if device.platform == 'cpu':
    return 0
  limit = (device.memory_stats() or {}).get('bytes_limit', 0)
  return _AUTO_SHARE * limit / runs


class DeviceReplays:
  """The replays of a stage in device memory.

  Attributes:
    load: `DeviceBatch` -> the stage's batch; a part of the compiled update.
  """

  def __init__(
    self,
    kinds: Mapping[str, Sequence[tuple[Replay, int]]],
    load: Callable[[DeviceBatch], Any],
    devices: sharding.Devices,
  ):
    """Copies the replays.

    Args:
      kinds: replays and the records to make room for, by kind.
      load: see above.
      devices: each has a copy.
    """
    self.load, self._devices = load, devices
    self._jit_load = jax.jit(load)
    self._replays = {
      kind: [DeviceReplay(*pair, devices) for pair in pairs]
      for kind, pairs in kinds.items()
    }

  def batch(
    self, updates: Sequence[Mapping[str, Sequence[np.ndarray]]]
  ) -> DeviceBatch:
    """The batches of consecutive updates.

    Args:
      updates: for each, positions i64 [B] in every replay, by kind.

    Returns:
      Starts [B], with a leading [updates] if there are several.
    """
    leading = int(len(updates) > 1)

    def starts(kind, index):
      slots = self._replays[kind][index].slots
      rows = np.stack([slots(update[kind][index]) for update in updates])
      return rows if leading else rows[0]

    tree = {
      k: [starts(k, i) for i in range(len(r))] for k, r in self._replays.items()
    }
    specs = sharding.specs(DeviceBatch).starts
    return DeviceBatch(
      self._columns(), self._devices.device_put(tree, specs, leading)
    )

  def arrays(self, batch: DeviceBatch) -> Any:
    """Gathers a batch, outside of an update; also after later writes."""
    return self._jit_load(batch.replace(columns=self._columns()))

  def _columns(self):
    return {k: [r.columns for r in rs] for k, rs in self._replays.items()}


def open_replays(
  kinds: Mapping[str, Sequence[tuple[Replay, int]]],
  load: Callable[[DeviceBatch], Any],
  capacity: float,
  devices: sharding.Devices,
  report: Callable[[str], None],
) -> DeviceReplays | None:
  """Copies replays to the devices, if all of them fit.

  Args:
    kinds: see `DeviceReplays`, as `load` and `devices`.
    load: of the stage.
    capacity: bytes of device memory; 0: nothing is copied.
    devices: each has a copy.
    report: called with a message if they do not fit.
  """
  needed = sum(
    min(records, replay.capacity) * store.record_bytes(replay.columns)
    for pairs in kinds.values()
    for replay, records in pairs
  )
  if needed <= capacity:
    return DeviceReplays(kinds, load, devices)
  if capacity:
    report(
      f'the replays need {needed / 1e9:.2f} GB, more than the'
      f' {capacity / 1e9:.2f} GB of device memory for them'
      ' (config.replay.device_gb); batches are sampled on the host'
    )
  return None
