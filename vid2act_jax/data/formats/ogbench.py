"""OGBench: all trajectories of visual observations in one npz.

Each is rows of the frame and the action taken at it; `terminals` marks its last
row, a time limit and never a true end. An archive may hold many GB, compressed,
so its arrays are read from front to back and never as a whole.
"""

import math
import pathlib
import zipfile

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

_SKIP = 1 << 20  # bytes read at a time on the way to a row


def open_source(path: str, options: Options) -> 'Trajectories':
  """Opens a file.

  Raises:
    UserError: there is none, or it is damaged or not of OGBench.
  """
  return Trajectories(path, options)


class Trajectories:
  """The trajectories of one file."""

  def __init__(self, path: str, options: Options):
    self._path = pathlib.Path(path).expanduser()
    if not self._path.is_file():
      raise UserError(f'{path}: not a file; give the npz of a visual dataset.')
    core.refuse_scaling(options, path)
    self._options = options
    self.about = {'alignment': options.align or 'at', 'dropped': []}
    if self.about['alignment'] == 'at':
      core.drop(self.about, core.LAST_ACTION)
    with core.guard(path):
      self._bytes = self._path.stat().st_size
      self._archive = zipfile.ZipFile(self._path)
      try:
        self._open(options.image_key or 'observations')
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
    with core.guard(where):
      count = self._stops[index] - start
      width = sum(rows.width for rows in self._rows.values())
      limits.check_size(count * width, self._bytes)
      rows = {
        k: v.read(start, self._stops[index]) for k, v in self._rows.items()
      }
      image = convert.prepare(rows.pop('image'), self._options, where)
      steps = convert.Steps(image, **rows)
      return convert.build(steps, self._options, self.about, where)

  def close(self) -> None:
    for rows in self._rows.values():
      rows.close()
    self._archive.close()

  def _open(self, image_key):
    members = files.list_members(self._archive)
    missing = {image_key, 'actions', 'terminals'} - set(members)
    if missing:
      raise UserError(
        f'{self._path}: missing {", ".join(map(repr, sorted(missing)))}, has '
        f'{", ".join(map(repr, members))}; give the npz of a visual dataset.'
      )
    names = {'image': image_key, 'action': 'actions', 'reward': 'rewards'}
    self._rows = {
      k: Rows(self._archive, members[name])
      for k, name in names.items()
      if name in members
    }
    core.drop(
      self.about, *sorted(set(members) - {*names.values(), 'terminals'})
    )
    if 'reward' not in self._rows:
      self.about['reward'] = 'zeros: the source has none'
    ends = Rows(self._archive, members['terminals'])
    lengths = {k: r.shape[0] for k, r in (*self._rows.items(), ('end', ends))}
    if len(set(lengths.values())) > 1:
      raise UserError(
        f'{self._path}: the arrays differ in length, {lengths}; restore it.'
      )
    limits.check_rows(lengths['end'])
    # Read by parts: together they may be larger than the memory.
    claimed = sum(r.width * r.shape[0] for r in (*self._rows.values(), ends))
    limits.check_size(claimed, self._bytes, math.inf)
    ended = convert.truths(
      ends.read(0, lengths['end']), 'terminals', self._path
    )
    ends.close()
    self._stops = (np.flatnonzero(ended) + 1).tolist()
    if not self._stops:
      raise UserError(
        f"{self._path}: 'terminals' marks no end of a trajectory; restore it."
      )
    rest = lengths['end'] - self._stops[-1]
    if rest:
      core.drop(self.about, f'the last {rest} rows: no end of a trajectory')


class Rows:
  """An array of an npz, read forward by rows."""

  def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
    self._archive, self._info = archive, info
    self._file = None
    self.shape: tuple[int, ...] = ()  # [N, ...]
    self._rewind()

  @property
  def width(self) -> int:
    """Bytes of a row."""
    return math.prod(self.shape[1:]) * self._dtype.itemsize

  def read(self, start: int, stop: int) -> np.ndarray:
    """Rows [stop - start, ...]; going back begins anew.

    Raises:
      ValueError: the array ends before them. Besides, what zipfile raises.
    """
    if self._file is None or start < self._at:
      self._rewind()
    try:
      self._skip((start - self._at) * self.width)
      data = self._file.read((stop - start) * self.width)
      if len(data) != (stop - start) * self.width:
        raise ValueError(f'{self._info.filename!r} ends too early')
    except BaseException:
      self.close()  # Where it stands is not known.
      raise
    self._at = stop
    values = np.frombuffer(data, self._dtype)
    return values.reshape(stop - start, *self.shape[1:])

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    self._file = None

  def _skip(self, left):
    while left:
      got = len(self._file.read(min(left, _SKIP)))
      if not got:
        raise ValueError(f'{self._info.filename!r} ends too early')
      left -= got

  def _rewind(self):
    self.close()
    self._file = self._archive.open(self._info)
    header = files.read_header(self._file, self._info)
    self.shape, fortran, self._dtype = header
    if fortran or not self.shape:
      raise ValueError(f'{self._info.filename!r} is not an array of rows')
    self._at = 0
