"""Tests of the ring buffer of records."""

import errno
import os

import numpy as np
import pytest

from tests.episode_data import assert_same, make_episode
from vid2act_jax.data import store
from vid2act_jax.types import UserError

COLUMNS = store.frame_columns(size=16, action_dim=2)
KEYS = tuple(COLUMNS)


def records(length, number):
  episode = make_episode(length, number, size=16)
  return {key: episode[key] for key in KEYS}


def read(ring, position, length):
  out = ring.empty((length,))
  ring.read(position, out)
  return out


def test_newest_records_are_held(tmp_path):
  """For all lengths, also if records wrap around."""
  ring = store.RingBuffer(tmp_path, 10, COLUMNS)
  stream = {key: [] for key in KEYS}
  position = 0
  for number, length in enumerate([4, 7, 1, 10, 3, 9, 5]):
    new = records(length, number)
    ring.write(position, new)
    position += length
    for key in KEYS:
      stream[key].extend(new[key])
    for start in range(max(0, position - 10), position):
      for end in range(start + 1, position + 1):
        expected = {k: np.stack(v[start:end]) for k, v in stream.items()}
        assert_same(read(ring, start, end - start), expected)


def test_wider_actions_and_strided_images(tmp_path):
  ring = store.RingBuffer(tmp_path, 8, COLUMNS)
  new = records(5, 3)
  transposed = new['image'].transpose(0, 2, 1, 3)  # Not contiguous.
  ring.write(6, {**new, 'image': transposed})
  out = {**ring.empty((5,)), 'action': np.zeros((5, 4), np.float32)}
  ring.read(6, out)
  np.testing.assert_array_equal(out['image'], transposed)
  np.testing.assert_array_equal(out['action'][:, :2], new['action'])
  assert not out['action'][:, 2:].any()


def test_no_files_are_left(tmp_path):
  ring = store.RingBuffer(tmp_path, 8, COLUMNS)
  ring.write(0, records(5, 0))
  assert os.listdir(tmp_path) == []


def test_disk_space_is_allocated_on_write(tmp_path):
  """A capacity larger than the disk is no error until it is reached."""
  columns = store.frame_columns(64, 2)
  frame = store.record_bytes(columns)
  assert frame == 64 * 64 * 3 + 2 * 4 + 4 + 1 + 4
  ring = store.RingBuffer(tmp_path, int(5e12 / frame), columns)
  episode = {k: v[:1] for k, v in make_episode(2, size=64).items()}
  ring.write(0, episode)


def test_full_disk(tmp_path, monkeypatch):
  ring = store.RingBuffer(tmp_path, 8, COLUMNS)

  def full(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'pwrite', full)
  with pytest.raises(UserError, match='No space left.*config.replay.scratch'):
    ring.write(0, records(5, 0))


def test_short_writes_are_completed(tmp_path, monkeypatch):
  ring = store.RingBuffer(tmp_path, 8, COLUMNS)
  pwrite = os.pwrite
  monkeypatch.setattr(
    os, 'pwrite', lambda file, data, offset: pwrite(file, data[:700], offset)
  )
  ring.write(0, records(5, 1))
  assert_same(read(ring, 0, 5), records(5, 1))


def test_missing_folder(tmp_path):
  with pytest.raises(UserError, match='nowhere: cannot store the frames'):
    store.RingBuffer(tmp_path / 'nowhere', 8, COLUMNS)
