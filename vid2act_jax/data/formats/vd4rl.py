"""V-D4RL: npz episodes of 64 pixels, or HDF5 shards of 84.

The shards hold the time steps of dm_env one after the other, so an action
stands with the frame that it led to, and zeros with the first. A shard may
begin or end within an episode; such parts are left out.
"""

import math
import pathlib
from typing import NamedTuple

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.data.formats import checks, convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.dreamer import Folder
from vid2act_jax.types import UserError

_FIRST, _LAST = 0, 2
_REQUIRED = ('action', 'reward', 'discount', 'step_type')


class _Part(NamedTuple):
  """An episode's rows of a shard; or, with an error, a shard of no use."""

  path: pathlib.Path
  start: int
  stop: int
  error: UserError | None = None


def open_source(path: str, options: Options) -> core.Source:
  """Opens a folder of either kind.

  Raises:
    UserError: there is none, it holds neither kind or both, or h5py is needed
      and not installed.
  """
  folder = core.find_folder(path, 'V-D4RL files')
  shards = sorted(p for e in ('hdf5', 'h5') for p in folder.rglob(f'*.{e}'))
  episodes = next(folder.rglob('*.npz'), None)
  if shards and episodes:
    raise UserError(
      f'{path}: holds both *.npz and *.hdf5, likely the same in 64 and 84 '
      'pixels; give the folder of one kind.'
    )
  if not shards and not episodes:
    raise UserError(
      f'{path}: neither *.npz nor *.hdf5 in it or below; give the folder of '
      'the episodes.'
    )
  return Shards(folder, shards, options) if shards else Folder(path, options)


class Shards:
  """Episodes of HDF5 shards, each read by slices."""

  def __init__(
    self, root: pathlib.Path, paths: list[pathlib.Path], options: Options
  ):
    core.refuse_scaling(options, root)
    self._h5py = core.need('h5py')
    self._root, self._options = root, options
    self._image_key = options.image_key or 'observation'
    self._file, self._path = None, None
    self.about = {'alignment': options.align or 'led', 'dropped': []}
    if self.about['alignment'] == 'at':
      core.drop(self.about, core.LAST_ACTION)
    self._parts: list[_Part] = []
    for path in paths:
      try:
        self._parts += self._scan(path)
      except UserError as error:
        # Reading on is the caller's choice, as with a damaged episode.
        self._parts.append(_Part(path, 0, 0, error))

  def __len__(self) -> int:
    return len(self._parts)

  def name(self, index: int) -> str:
    part = self._parts[index]
    name = part.path.relative_to(self._root).as_posix()
    return name if part.error else f'{name}[{part.start}:{part.stop}]'

  def read(self, index: int) -> dict[str, np.ndarray]:
    part = self._parts[index]
    if part.error:
      raise part.error
    where = f'{part.path}[{part.start}:{part.stop}]'
    with core.guard(where):
      file, rows = self._open(part.path), slice(part.start, part.stop)
      keys = [key for key in _REQUIRED if key != 'step_type']
      arrays = {k: file[k] for k in (self._image_key, *keys)}
      count = part.stop - part.start
      claimed = sum(
        count * math.prod(a.shape[1:]) * a.dtype.itemsize
        for a in arrays.values()
      )
      limits.check_size(claimed, part.path.stat().st_size)
      image = arrays[self._image_key][rows]
      image = convert.prepare(image, self._options, where)
      values = {key: arrays[key][rows] for key in keys}
      steps = convert.Steps(image, **values)
      return convert.build(steps, self._options, self.about, where)

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    self._file, self._path = None, None

  def _open(self, path):
    if path != self._path:
      self.close()
      self._file = self._h5py.File(path, 'r')
      self._path = path
    return self._file

  def _scan(self, path):
    """The whole episodes of a shard."""
    with core.guard(path):
      file = self._open(path)
      needed = (self._image_key, *_REQUIRED)
      missing = [key for key in needed if key not in file]
      if missing:
        raise UserError(
          f'{path}: missing {", ".join(map(repr, missing))}, has '
          f'{", ".join(map(repr, file))}; restore or remove it.'
        )
      arrays = {key: checks.find_array(file, key) for key in needed}
      lengths = {key: len(array) for key, array in arrays.items()}
      if len(set(lengths.values())) > 1:
        raise UserError(
          f'{path}: the datasets differ in length, {lengths}; restore or '
          'remove it.'
        )
      _check(arrays, path)
      core.drop(self.about, *sorted(set(file) - set(needed)))
      kinds = convert.numbers(file['step_type'][:], 'step_type', path, 1)
    parts = [_Part(path, start, stop) for start, stop in cut(kinds)]
    outside = len(kinds) - sum(p.stop - p.start for p in parts)
    if outside:
      name = path.relative_to(self._root).as_posix()
      core.drop(self.about, f'{outside} rows of {name}: not a whole episode')
    if not parts:
      raise UserError(f'{path}: holds no whole episode; restore or remove it.')
    return parts


def _check(arrays, path):
  """Refuses what claims more than comes of such a file."""
  for key, array in arrays.items():
    if array.dtype.kind not in 'biuf':
      raise ValueError(f'{key!r} is {array.dtype}, should be numbers')
    limits.check_rows(len(array))
  claimed = sum(map(checks.array_bytes, arrays.values()))
  # Read by parts: together they may be larger than the memory.
  limits.check_size(claimed, path.stat().st_size, math.inf)


def cut(kinds: np.ndarray) -> list[tuple[int, int]]:
  """Where the whole episodes of dm_env's step types [N] start and stop."""
  bounds, start = [], None
  for row in np.flatnonzero((kinds == _FIRST) | (kinds == _LAST)):
    if kinds[row] == _FIRST:
      start = int(row)
    elif start is not None:
      bounds.append((start, int(row) + 1))
      start = None
  return bounds
