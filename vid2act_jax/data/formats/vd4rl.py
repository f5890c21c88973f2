"""V-D4RL: npz episodes of 64 pixels, or HDF5 shards of 84.

The shards hold consecutive time steps of dm_env: a row has a frame and the
action that preceded it (prev_action), zeros at the first frame. A shard may
start or end inside an episode; incomplete episodes are skipped.
"""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import checks, convert, core, notes
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.dreamer import Folder
from vid2act_jax.data.formats.frames import prepare_images
from vid2act_jax.types import UserError

_FIRST, _LAST = 0, 2


class _Segment(NamedTuple):
  """The rows of an episode in a shard; with an error, an invalid shard."""

  path: pathlib.Path
  start: int
  stop: int
  error: UserError | None = None


def open_source(path: str, options: Options) -> core.Source:
  """Opens a folder of either kind.

  Raises:
    UserError: there is no such folder, it holds neither kind or both, or h5py
      is needed and not installed.
  """
  folder = core.find_folder(path, 'V-D4RL files')
  shards = files.find_files(folder, '.hdf5', '.h5')
  episodes = files.find_files(folder, '.npz')
  if shards and episodes:
    raise UserError(
      f'{path}: holds both *.npz and *.hdf5, likely the same in 64 and 84 '
      'pixels; pass the folder of one kind.'
    )
  if not shards and not episodes:
    raise UserError(
      f'{path}: neither *.npz nor *.hdf5 in it or its subfolders; pass the '
      'folder of the episodes.'
    )
  return Shards(folder, shards, options) if shards else Folder(path, options)


class Shards:
  """Episodes of HDF5 shards, read by slices."""

  def __init__(
    self, root: pathlib.Path, paths: list[pathlib.Path], options: Options
  ):
    core.reject_scaling(options, root)
    self._h5py = core.import_optional('h5py')
    self._root, self._options = root, options
    self._image_key = options.image_key or 'observation'
    self._file, self._path = None, None
    self.metadata = {'alignment': options.align or 'prev', 'dropped': []}
    if self.metadata['alignment'] == 'next':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    self._action = core.split_keys(options.names.action_key) or ('action',)
    self._state = core.split_keys(
      options.names.state_key
    )  # The shards have none.
    self._reward = options.names.reward_key or 'reward'
    if not any(map(self._has_rewards, paths)):
      if options.names.reward_key:
        raise UserError(
          f'{root}: no shard has {self._reward!r}; choose another array with '
          '--reward-key, or leave it out.'
        )
      self._reward = None
      core.record_no_rewards(self.metadata)
    self._keys = (*self._action, *self._state)
    self._keys += (self._reward,) if self._reward else ()
    self._segments: list[_Segment] = []
    for path in paths:
      try:
        self._segments += self._scan(path)
      except UserError as error:
        # Raised by `read`, like the error of a damaged episode.
        self._segments.append(_Segment(path, 0, 0, error))

  def __len__(self) -> int:
    return len(self._segments)

  def name(self, index: int) -> str:
    segment = self._segments[index]
    name = segment.path.relative_to(self._root).as_posix()
    return name if segment.error else f'{name}[{segment.start}:{segment.stop}]'

  def read(self, index: int) -> dict[str, np.ndarray]:
    segment = self._segments[index]
    if segment.error:
      raise segment.error
    where = f'{segment.path}[{segment.start}:{segment.stop}]'
    with core.wrap_errors(where):
      file, rows = self._open(segment.path), slice(segment.start, segment.stop)
      keys = self._list_keys(file)
      arrays = {k: file[k] for k in (self._image_key, *keys)}
      count = segment.stop - segment.start
      claimed = sum(
        count * math.prod(a.shape[1:]) * a.dtype.itemsize
        for a in arrays.values()
      )
      limits.check_size(claimed, segment.path.stat().st_size)
      image = arrays[self._image_key][rows]
      image = prepare_images(image, self._options, where)
      values = {key: arrays[key][rows] for key in keys}
      return self._build(image, values, where)

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    self._file, self._path = None, None

  def _list_keys(self, file):
    """The arrays to read with the frames; a discount is optional."""
    if 'discount' in file:
      return (*self._keys, 'discount')
    notes.warn(self.metadata, notes.NO_ENDS)
    return self._keys

  def _build(self, image, values, where):
    steps = convert.Steps(
      action=convert.join([values[k] for k in self._action], 'action', where),
      reward=values.get(self._reward),
      discount=values.get('discount'),
    )
    if self._state:
      state = convert.join([values[k] for k in self._state], 'state', where)
      steps.state = convert.to_state(state, len(image), True, where)
    return convert.build_episode(
      image, steps, self._options, self.metadata, where
    )

  def _open(self, path):
    if path != self._path:
      self.close()
      self._file = self._h5py.File(path, 'r')
      self._path = path
    return self._file

  def _has_rewards(self, path):
    """Whether a shard has rewards; `_scan` reports a damaged one."""
    try:
      with core.wrap_errors(path):
        return self._reward in self._open(path)
    except UserError:
      return False

  def _scan(self, path):
    """The complete episodes of a shard."""
    with core.wrap_errors(path):
      file = self._open(path)
      needed = (self._image_key, *self._list_keys(file), 'step_type')
      missing = [key for key in needed if key not in file]
      if missing:
        raise UserError(
          f'{path}: missing {core.quote(missing)}, has {core.quote(file)}; '
          'choose other arrays with --image-key, --action-key, --reward-key or '
          '--state-key, or restore or remove it.'
        )
      arrays = {key: checks.find_array(file, key) for key in needed}
      lengths = {key: len(array) for key, array in arrays.items()}
      if len(set(lengths.values())) > 1:
        raise UserError(
          f'{path}: the datasets differ in length, {lengths}; restore or '
          'remove it.'
        )
      _check(arrays, path)
      core.record_dropped(self.metadata, *sorted(set(file) - set(needed)))
      step_types = convert.to_numbers(file['step_type'][:], 'step_type', path)
    bounds = find_episodes(step_types)
    segments = [_Segment(path, start, stop) for start, stop in bounds]
    incomplete = len(step_types) - sum(s.stop - s.start for s in segments)
    if incomplete:
      name = path.relative_to(self._root).as_posix()
      core.record_dropped(
        self.metadata, f'{incomplete} rows of {name}: not a complete episode'
      )
    if not segments:
      raise UserError(
        f'{path}: holds no complete episode; restore or remove it.'
      )
    return segments


def _check(arrays, path):
  """Rejects arrays that claim to be larger than the file allows."""
  for key, array in arrays.items():
    if array.dtype.kind not in 'biuf':
      raise ValueError(f'{key!r} is {array.dtype}, should be numbers')
    limits.check_rows(len(array))
  claimed = sum(map(checks.array_bytes, arrays.values()))
  # They are read in parts: together they may be larger than the memory.
  limits.check_size(claimed, path.stat().st_size, math.inf)


def find_episodes(step_types: np.ndarray) -> list[tuple[int, int]]:
  """The (start, stop) rows of complete episodes, from dm_env step types [N]."""
  bounds, start = [], None
  for row in np.flatnonzero((step_types == _FIRST) | (step_types == _LAST)):
    if step_types[row] == _FIRST:
      start = int(row)
    elif start is not None:
      bounds.append((start, int(row) + 1))
      start = None
  return bounds
