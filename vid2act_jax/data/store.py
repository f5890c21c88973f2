"""A ring buffer of records that keeps large columns in files."""

import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vid2act_jax.types import UserError

_FILE_BYTES = 256  # Columns with at least this many bytes are in files.


class Column(NamedTuple):
  """One array of the records; `shape` is the shape of a single record."""

  shape: tuple[int, ...]
  dtype: str

  @property
  def nbytes(self) -> int:
    """Bytes of one record."""
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def frame_columns(size: int, action_dim: int) -> dict[str, Column]:
  """The columns of a batch; other arrays of an episode stay in its file."""
  return {
    'image': Column((size, size, 3), 'uint8'),
    'action': Column((action_dim,), 'float32'),
    'reward': Column((), 'float32'),
    'is_first': Column((), 'bool'),
    'discount': Column((), 'float32'),
  }


def record_bytes(columns: Mapping[str, Column]) -> int:
  """Bytes of one record."""
  return sum(column.nbytes for column in columns.values())


class RingBuffer:
  """Records by position; position p is in slot p modulo the capacity.

  Large columns are in unnamed temporary files, which the system removes when
  the process ends; their contents can be computed again from the episodes. They
  are written by `pwrite`, so that a full disk raises an error and not a signal,
  and read through a memory map, so that the system caches them. The other
  columns, about 1% of the bytes, are in memory.

  Attributes:
    capacity: maximum number of records.
    columns: the columns by key.
  """

  def __init__(
    self, folder: pathlib.Path, capacity: int, columns: Mapping[str, Column]
  ):
    """Creates an empty buffer; files grow as records are written.

    Args:
      folder: for the files; must exist.
      capacity: in records, at least 1.
      columns: by key.

    Raises:
      UserError: a file cannot be created.
    """
    self.capacity, self.columns = capacity, dict(columns)
    self._folder = folder
    self._files, self._arrays = {}, {}
    for key, column in columns.items():
      shape = (capacity, *column.shape)
      if column.nbytes < _FILE_BYTES:
        # Pages are only allocated when they are written.
        self._arrays[key] = np.empty(shape, column.dtype)
      else:
        self._files[key], self._arrays[key] = self._create_file(
          shape, column.dtype
        )

  def empty(self, batch_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays [*batch_shape, ...] for `read` to fill."""
    return {
      key: np.empty((*batch_shape, *column.shape), column.dtype)
      for key, column in self.columns.items()
    }

  def write(self, position: int, records: Mapping[str, np.ndarray]) -> None:
    """Writes T consecutive records; overwrites the old ones in their slots.

    Args:
      position: of the first record.
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
    """Reads L consecutive records.

    Args:
      position: of the first record.
      out: arrays [L, ...] of the columns to fill; actions may have more
        dimensions, which are not changed.
    """
    action_dim = self.columns['action'].shape[0]
    for slots, part in self._slots(position, len(out['reward'])):
      for key, array in self._arrays.items():
        rows = out[key][part]
        rows = rows[:, :action_dim] if key == 'action' else rows
        rows[...] = array[slots]

  def _slots(self, position, length):
    """Pairs of slots and parts of the records; two pairs if it wraps around."""
    first = position % self.capacity
    until_wrap = min(length, self.capacity - first)
    yield slice(first, first + until_wrap), slice(0, until_wrap)
    if until_wrap < length:
      yield slice(0, length - until_wrap), slice(until_wrap, length)

  def _create_file(self, shape, dtype):
    try:
      file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
      file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)
      return file, np.memmap(file, dtype, 'r', shape=shape)
    except OSError as error:
      raise UserError(self._error_text(error)) from error

  def _write_file(self, key, slot, rows):
    rows = np.ascontiguousarray(rows, self.columns[key].dtype)
    offset = slot * self.columns[key].nbytes
    data = memoryview(rows).cast('B')
    try:
      while data:
        written = os.pwrite(self._files[key].fileno(), data, offset)
        data, offset = data[written:], offset + written
    except OSError as error:
      raise UserError(self._error_text(error)) from error

  def _error_text(self, error):
    return (
      f'{self._folder}: cannot store the frames ({error.strerror or error}); '
      'free disk space, or set config.replay.scratch to a folder on another '
      'disk.'
    )
