"""OGBench: all trajectories of visual observations in one npz.

A row holds a frame and the action taken at it. `terminals` is set at the last
row of a trajectory, which is a time limit and not a terminal. An archive may
hold many compressed GB, so its arrays are read sequentially and in parts.
"""

import math
import pathlib
import zipfile

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.frames import prepare_images
from vid2act_jax.types import UserError

_SKIP_BYTES = 1 << 20  # read at a time when skipping rows


def open_source(path: str, options: Options) -> 'Trajectories':
  """Opens a file.

  Raises:
    UserError: there is no such file, or it is damaged or not of OGBench.
  """
  return Trajectories(path, options)


class Trajectories:
  """The trajectories of one file."""

  def __init__(self, path: str, options: Options):
    self._path = pathlib.Path(path).expanduser()
    if not self._path.is_file():
      raise UserError(f'{path}: not a file; pass the npz of a visual dataset.')
    core.reject_scaling(options, path)
    self._options = options
    self.metadata = {'alignment': options.align or 'next', 'dropped': []}
    if self.metadata['alignment'] == 'next':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    with core.wrap_errors(path):
      self._bytes = self._path.stat().st_size
      self._archive = zipfile.ZipFile(self._path)
      try:
        self._open(options)
      except BaseException:
        self._archive.close()
        raise

  def __len__(self) -> int:
    return len(self._stops)

  def name(self, index: int) -> str:
    return f'episode {index}'

  def read(self, index: int) -> dict[str, np.ndarray]:
    where = f'{self._path}, {self.name(index)}'
    start = self._stops[index - 1] if index else 0
    with core.wrap_errors(where):
      count = self._stops[index] - start
      width = sum(rows.width for rows in self._rows.values())
      limits.check_size(count * width, self._bytes)
      rows = {
        k: v.read(start, self._stops[index]) for k, v in self._rows.items()
      }
      return self._build(rows, where)

  def _build(self, rows, where):
    names, options = self._names, self._options
    image = prepare_images(rows[names['image'][0]], options, where)
    found = {
      key: convert.join([rows[name] for name in names[key]], key, where)
      for key in names
      if key != 'image'
    }
    if 'state' in found:
      found['state'] = convert.to_state(found['state'], len(image), True, where)
    steps = convert.Steps(**found)
    return convert.build_episode(image, steps, options, self.metadata, where)

  def close(self) -> None:
    for rows in self._rows.values():
      rows.close()
    self._archive.close()

  def _open(self, options):
    members = files.list_members(self._archive)
    image_key = options.image_key or 'observations'
    action = core.split_keys(options.names.action_key) or ('actions',)
    missing = {image_key, *action, 'terminals'} - set(members)
    if missing:
      raise UserError(
        f'{self._path}: missing {core.quote(sorted(missing))}, has '
        f'{core.quote(members)}; pass the npz of a visual dataset, or choose '
        'other arrays with --image-key or --action-key.'
      )
    core.require_keys(vars(options.names), members, self._path)
    names = {
      'image': (image_key,),
      'action': action,
      'reward': (options.names.reward_key or 'rewards',),
      'state': core.split_keys(options.names.state_key),
    }
    self._names = {k: n for k, n in names.items() if n and {*n} <= {*members}}
    used = {name for listed in self._names.values() for name in listed}
    self._rows = {k: RowReader(self._archive, members[k]) for k in used}
    core.record_dropped(
      self.metadata, *sorted(set(members) - used - {'terminals'})
    )
    if 'reward' not in self._names:
      core.record_no_rewards(self.metadata)
    terminals = RowReader(self._archive, members['terminals'])
    readers = {**self._rows, 'terminals': terminals}
    lengths = {key: reader.shape[0] for key, reader in readers.items()}
    if len(set(lengths.values())) > 1:
      raise UserError(
        f'{self._path}: the arrays differ in length, {lengths}; restore it.'
      )
    limits.check_rows(lengths['terminals'])
    # They are read in parts: together they may be larger than the memory.
    claimed = sum(r.width * r.shape[0] for r in readers.values())
    limits.check_size(claimed, self._bytes, math.inf)
    is_last = convert.to_bools(
      terminals.read(0, lengths['terminals']), 'terminals', self._path
    )
    terminals.close()
    self._stops = (np.flatnonzero(is_last) + 1).tolist()
    if not self._stops:
      raise UserError(f"{self._path}: 'terminals' is never set; restore it.")
    rest = lengths['terminals'] - self._stops[-1]
    if rest:
      core.record_dropped(
        self.metadata, f'the last {rest} rows: incomplete trajectory'
      )


class RowReader:
  """Reads rows of an array of an npz sequentially."""

  def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
    self._archive, self._info = archive, info
    self._file = None
    self.shape: tuple[int, ...] = ()  # [N, ...]
    self._rewind()

  @property
  def width(self) -> int:
    """Bytes per row."""
    return math.prod(self.shape[1:]) * self._dtype.itemsize

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads rows [stop - start, ...]; going back restarts at the beginning.

    Also raises the exceptions of zipfile.

    Raises:
      ValueError: the array ends before these rows.
    """
    if self._file is None or start < self._position:
      self._rewind()
    try:
      self._skip((start - self._position) * self.width)
      data = self._file.read((stop - start) * self.width)
      if len(data) != (stop - start) * self.width:
        raise ValueError(f'{self._info.filename!r} is truncated')
    except BaseException:
      self.close()  # The position in the file is unknown.
      raise
    self._position = stop
    values = np.frombuffer(data, self._dtype)
    return values.reshape(stop - start, *self.shape[1:])

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    self._file = None

  def _skip(self, num_bytes):
    while num_bytes:
      read = len(self._file.read(min(num_bytes, _SKIP_BYTES)))
      if not read:
        raise ValueError(f'{self._info.filename!r} is truncated')
      num_bytes -= read

  def _rewind(self):
    self.close()
    self._file = self._archive.open(self._info)
    header = files.read_header(self._file, self._info)
    self.shape, fortran, self._dtype = header
    if fortran or not self.shape:
      raise ValueError(f'{self._info.filename!r} is not an array of rows')
    self._position = 0
