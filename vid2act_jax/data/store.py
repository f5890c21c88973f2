"""Frames beyond memory: a ring of fixed-size records, the images in a file."""

import os
import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np

from vid2act_jax.types import UserError


def record_bytes(size: int, action_dim: int) -> int:
  """Bytes a frame takes: its image, action, reward and is_first."""
  return 3 * size**2 + 4 * action_dim + 4 + 1


class Ring:
  """Records by position; position p lies in slot p modulo the capacity.

  Images are in a file without a name, which vanishes with the process however
  it ends: what it holds can be made again from the episodes. It is written by
  calls and read through a mapping, so that a full disk is an error and no
  signal, and the system keeps as much of it in memory as there is room for.
  All else of a record is a hundredth of its image and stays in memory.

  Attributes:
    capacity: records held.
  """

  def __init__(
    self, folder: pathlib.Path, capacity: int, size: int, action_dim: int
  ):
    """Makes an empty ring; the file grows as records are written.

    Args:
      folder: on whose disk the file is; must be there.
      capacity: in records, at least 1.
      size: the images' height and width.
      action_dim: A.

    Raises:
      UserError: the file cannot be made.
    """
    self.capacity = capacity
    self._folder = folder
    shape = (capacity, size, size, 3)
    try:
      self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
      self._file.truncate(int(np.prod(shape)))
      images = np.memmap(self._file, np.uint8, 'r', shape=shape)
    except OSError as error:
      raise UserError(self._told(error)) from error
    # Memory that is not touched is not taken: these grow with their use, too.
    self._columns = {
      'image': images,
      'action': np.empty((capacity, action_dim), np.float32),
      'reward': np.empty(capacity, np.float32),
      'is_first': np.empty(capacity, bool),
    }

  def empty(self, lead: tuple[int, ...], action_dim: int) -> dict:
    """Arrays [*lead, ...] for `read` to fill; the actions are zeros."""
    shapes = {k: v.shape[1:] for k, v in self._columns.items()}
    out = {
      key: np.empty((*lead, *shapes[key]), column.dtype)
      for key, column in self._columns.items()
      if key != 'action'
    }
    return {**out, 'action': np.zeros((*lead, action_dim), np.float32)}

  def write(self, position: int, records: Mapping[str, np.ndarray]) -> None:
    """Writes T consecutive records over what was in their slots.

    Args:
      position: of the first.
      records: image u8 [T, H, W, 3], action f32 [T, A], reward f32 [T],
        is_first bool [T]; T at most the capacity.

    Raises:
      UserError: the disk is full or fails.
    """
    length = len(records['reward'])
    for slots, part in self._slots(position, length):
      self._write_images(slots.start, records['image'][part])
      for key in ('action', 'reward', 'is_first'):
        self._columns[key][slots] = records[key][part]

  def read(self, position: int, out: Mapping[str, np.ndarray]) -> None:
    """Fills L consecutive records.

    Args:
      position: of the first.
      out: arrays [L, ...] as of `write`; actions may be wider than A, what is
        behind is left as it is.
    """
    actions = self._columns['action'].shape[1]
    for slots, part in self._slots(position, len(out['reward'])):
      for key in ('image', 'reward', 'is_first'):
        out[key][part] = self._columns[key][slots]
      out['action'][part, :actions] = self._columns['action'][slots]

  def _slots(self, position, length):
    """Slots of the ring and parts of the records: one pair, or two."""
    first = position % self.capacity
    before = min(length, self.capacity - first)
    yield slice(first, first + before), slice(0, before)
    if before < length:
      yield slice(0, length - before), slice(before, length)

  def _write_images(self, slot, images):
    images = np.ascontiguousarray(images)
    offset = slot * images[0].nbytes
    data = memoryview(images).cast('B')
    try:
      while data:
        written = os.pwrite(self._file.fileno(), data, offset)
        data, offset = data[written:], offset + written
    except OSError as error:
      raise UserError(self._told(error)) from error

  def _told(self, error):
    return (
      f'{self._folder}: cannot hold the frames ({error.strerror or error}); '
      'make room, lower config.replay, or set config.replay.scratch to a '
      'folder on another disk.'
    )
