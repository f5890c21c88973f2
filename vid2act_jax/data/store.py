"""Frames beyond memory: a ring of records, the large columns in files."""

import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vid2act_jax.types import UserError

_LARGE = 256  # Bytes of a record from which on a column lies in a file.


class Column(NamedTuple):
  """One array of the records; `shape` is that of a single record."""

  shape: tuple[int, ...]
  dtype: str

  @property
  def nbytes(self) -> int:
    """Of one record."""
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def frame_columns(size: int, action_dim: int) -> dict[str, Column]:
  """What a batch is made of; the rest of an episode stays in its file."""
  return {
    'image': Column((size, size, 3), 'uint8'),
    'action': Column((action_dim,), 'float32'),
    'reward': Column((), 'float32'),
    'is_first': Column((), 'bool'),
    'discount': Column((), 'float32'),
  }


def record_bytes(columns: Mapping[str, Column]) -> int:
  """Bytes that a record takes."""
  return sum(column.nbytes for column in columns.values())


class Ring:
  """Records by position; position p lies in slot p modulo the capacity.

  Large columns are in files without a name, which vanish with the process
  however it ends: what they hold can be made again from the episodes. They are
  written by calls and read through a mapping, so that a full disk is an error
  and no signal, and the system keeps as much of them in memory as there is
  room for. The rest, a hundredth of it, stays in memory.

  Attributes:
    capacity: records held.
    columns: their arrays.
  """

  def __init__(
    self, folder: pathlib.Path, capacity: int, columns: Mapping[str, Column]
  ):
    """Makes an empty ring; files grow as records are written.

    Args:
      folder: on whose disk the files are; must be there.
      capacity: in records, at least 1.
      columns: by key.

    Raises:
      UserError: a file cannot be made.
    """
    self.capacity, self.columns = capacity, dict(columns)
    self._folder = folder
    self._files, self._arrays = {}, {}
    for key, column in columns.items():
      shape = (capacity, *column.shape)
      if column.nbytes < _LARGE:
        # Memory that is not touched is not taken: it grows with its use, too.
        self._arrays[key] = np.empty(shape, column.dtype)
      else:
        self._files[key], self._arrays[key] = self._map(shape, column.dtype)

  def empty(self, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays [*lead, ...] for `read` to fill."""
    return {
      key: np.empty((*lead, *column.shape), column.dtype)
      for key, column in self.columns.items()
    }

  def write(self, position: int, records: Mapping[str, np.ndarray]) -> None:
    """Writes T consecutive records over what was in their slots.

    Args:
      position: of the first.
      records: arrays [T, ...] of the columns, T at most the capacity; other
        keys are ignored.

    Raises:
      UserError: the disk is full or fails.
    """
    for slots, part in self._slots(position, len(records['reward'])):
      for key, array in self._arrays.items():
        if key in self._files:
          self._write_file(key, slots.start, records[key][part])
        else:
          array[slots] = records[key][part]

  def read(self, position: int, out: Mapping[str, np.ndarray]) -> None:
    """Fills L consecutive records.

    Args:
      position: of the first.
      out: arrays [L, ...] of the columns; actions may be wider than ours, what
        is behind is left as it is.
    """
    actions = self.columns['action'].shape[0]
    for slots, part in self._slots(position, len(out['reward'])):
      for key, array in self._arrays.items():
        rows = out[key][part]
        rows = rows[:, :actions] if key == 'action' else rows
        rows[...] = array[slots]

  def _slots(self, position, length):
    """Slots of the ring and parts of the records: one pair, or two."""
    first = position % self.capacity
    before = min(length, self.capacity - first)
    yield slice(first, first + before), slice(0, before)
    if before < length:
      yield slice(0, length - before), slice(before, length)

  def _map(self, shape, dtype):
    try:
      file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
      file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)
      return file, np.memmap(file, dtype, 'r', shape=shape)
    except OSError as error:
      raise UserError(self._told(error)) from error

  def _write_file(self, key, slot, rows):
    rows = np.ascontiguousarray(rows, self.columns[key].dtype)
    offset = slot * self.columns[key].nbytes
    data = memoryview(rows).cast('B')
    try:
      while data:
        written = os.pwrite(self._files[key].fileno(), data, offset)
        data, offset = data[written:], offset + written
    except OSError as error:
      raise UserError(self._told(error)) from error

  def _told(self, error):
    return (
      f'{self._folder}: cannot hold the frames ({error.strerror or error}); '
      'make room, lower config.replay, or set config.replay.scratch to a '
      'folder on another disk.'
    )
