"""What the libraries of other formats do not refuse by themselves.

They read whatever a file asks for: arrays of any size that it does not hold,
other files of this machine, pictures that are programs.
"""

import io
import math
import os
import pathlib
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from PIL import EpsImagePlugin, Image

from vid2act_jax.data import limits
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError

_MOST_PIXELS = 1 << 26  # Of a frame: 8192 x 8192.
_MOST_OBJECTS = 10_000  # Of an episode in HDF5.
_ENTRY_BYTES = 64  # What an entry of a table takes as an object of Python.
_MINARI = 'main_data.hdf5'  # Its other storages have a folder an episode.


def find_array(file, key: str):
  """An array of an HDF5 file, unread.

  Args:
    file: h5py's, open.
    key: of the array.

  Raises:
    ValueError: it lies in another file of this machine, of which nothing is
      to get into a dataset, or is no array.
  """
  found = file[key]
  if found.file.filename != file.file.filename:
    raise ValueError(f'{key!r} lies in another file')
  if not hasattr(found, 'chunks'):
    raise ValueError(f'{key!r} is no array')
  if found.external or found.is_virtual:
    raise ValueError(f'{key!r} lies in another file')
  return found


def array_bytes(array) -> int:
  """What an array of HDF5 claims to take: all of it, or more in one chunk."""
  chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
  return max(array.nbytes, chunk)


def check_group(group, images: Iterable[str], held: int) -> None:
  """Judges all arrays of an HDF5 group, none of which is read.

  Args:
    group: h5py's.
    images: keys of those that hold JPEGs, [T, bytes] or [T] of bytes.
    held: bytes of the file.

  Raises:
    ValueError: one lies in another file, or they are too large.
  """
  claimed = 0
  for seen, (key, array) in enumerate(_walk(group)):
    if seen >= _MOST_OBJECTS:
      raise ValueError('it holds too many arrays')
    if array is None:
      continue
    claimed += array_bytes(array)
    if key in images and len(array):
      # Minari makes all of the size of the first.
      width, height = open_image(bytes(array[0]), ('JPEG',)).size
      claimed += 3 * width * height * len(array)
  limits.check_size(claimed, held)


def _walk(group, prefix='') -> Iterator[tuple[str, Any]]:
  """The arrays of a group and, as None, the groups in it, by key."""
  if prefix.count('/') > 20:
    raise ValueError('it holds groups within groups without end')
  for name in group:
    key = f'{prefix}{name}'
    if hasattr(group[name], 'keys'):
      if group[name].file.filename != group.file.filename:
        raise ValueError(f'{key!r} lies in another file')
      yield key, None
      yield from _walk(group[name], f'{key}/')
    else:
      yield key, find_array(group, name)


def check_minari(folder: pathlib.Path) -> None:
  """Refuses a dataset with which Minari, which trusts it, would do harm.

  Raises:
    UserError: it leads to code of its choice, or claims episodes that are not
      there.
    OSError, ValueError: its metadata is damaged.
  """
  EpsImagePlugin.gs_binary = False  # See `open_image`.
  path = folder / 'metadata.json'
  about = limits.read_json(path)
  missing = [k for k in ('observation_space', 'action_space') if k not in about]
  if missing:
    # Minari would make the environment that the dataset names: it would import
    # any module, and call any function of it.
    raise UserError(
      f'{path}: missing {", ".join(map(repr, missing))}; write down there what '
      "the environment's spaces are, with minari.serialization.serialize_space."
    )
  if (folder / _MINARI).is_file():
    with core.need('h5py').File(folder / _MINARI, 'r') as file:
      there = len(file)
  else:
    there = sum(1 for _ in folder.iterdir())
  if not 0 <= about['total_episodes'] <= there:
    raise UserError(
      f'{path}: claims {about["total_episodes"]} episodes, of which at most '
      f'{there} are there; restore it.'
    )


def check_minari_episode(
  folder: pathlib.Path, index: int, images: Iterable[str]
) -> None:
  """Judges an episode of Minari's before it is read.

  Args:
    folder: of the dataset's data.
    index: of the episode.
    images: as of `check_group`.

  Raises:
    ValueError: it is too large or lies elsewhere.
  """
  path = folder / _MINARI
  if path.is_file():
    with core.need('h5py').File(path, 'r') as file:
      group = file[f'episode_{index}']
      if group.file.filename != file.filename:
        raise ValueError('it lies in another file')
      check_group(group, images, path.stat().st_size)
  for part in (folder / str(index)).rglob('*.parquet'):
    check_table(core.need('pyarrow.parquet').read_metadata(part), part)


def check_table(
  about, path: pathlib.Path, columns: Iterable[str] | None = None
) -> None:
  """Judges columns of a Parquet file, which runs of a number make small.

  Args:
    about: its metadata, of pyarrow.
    path: of the file.
    columns: that are to be read; None: all.

  Raises:
    ValueError: they are too large.
  """
  limits.check_rows(about.num_rows)
  claimed = 0
  for group in map(about.row_group, range(about.num_row_groups)):
    for column in map(group.column, range(group.num_columns)):
      # A column of lists or records is several: observation.state.list.element.
      name = f'{column.path_in_schema}.'
      if columns is None or any(name.startswith(f'{c}.') for c in columns):
        entries = _ENTRY_BYTES * column.num_values
        claimed += max(column.total_uncompressed_size, entries)
  limits.check_size(claimed, path.stat().st_size)


def open_image(data: bytes, kinds: tuple[str, ...]) -> Image.Image:
  """A picture, not yet decoded.

  Args:
    data: its file's bytes.
    kinds: those of Pillow's formats it may have. Left to choose, Pillow would
      also take PostScript, a program, and have Ghostscript run it.

  Raises:
    OSError, ValueError: it is of another kind, damaged or too large.
  """
  image = Image.open(io.BytesIO(data), formats=kinds)
  check_pixels(*image.size)
  return image


def check_pixels(width: int, height: int) -> None:
  """Refuses frames that no camera takes.

  Raises:
    ValueError: it is one.
  """
  if width * height > _MOST_PIXELS:
    raise ValueError(f'its frames have {width}x{height} pixels, too many')


def fill_in(pattern: str, values: Mapping[str, str | int]) -> pathlib.PurePath:
  """A path within a dataset, from a pattern that it holds itself.

  Args:
    pattern: names of `values` in braces, integers with a width, as in
      `chunk-{chunk_index:03d}`.
    values: by name.

  Raises:
    ValueError: the pattern asks for anything else, or leads out of its folder.
  """
  for _, name, width, conversion in string.Formatter().parse(pattern):
    plain = not width or (width[-1:] == 'd' and width[:-1].isdigit())
    short = not width or len(width) <= 3
    if name is not None and not (
      name in values and plain and short and conversion is None
    ):
      raise ValueError(f'the path {pattern!r} asks for {name!r}')
  path = pathlib.PurePath(pattern.format(**values))
  if path.is_absolute() or os.pardir in path.parts:
    raise ValueError(f'the path {str(path)!r} leads out of the dataset')
  return path
