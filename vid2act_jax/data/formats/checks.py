"""Checks of untrusted files that the formats' libraries do not make.

The libraries follow a file's instructions: they allocate arrays of any claimed
size, read other files on this host, and open images that contain programs.
"""

import io
import math
import os
import pathlib
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import EpsImagePlugin, Image

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError

_MAX_PIXELS = 1 << 26  # Per frame: 8192 x 8192.
_MAX_OBJECTS = 10_000  # Per episode in HDF5.
_ENTRY_BYTES = 64  # Per entry of a table, as a Python object.
_MINARI = 'main_data.hdf5'  # Other storages have one folder per episode.


def find_array(file, key: str):
  """Finds an array of an HDF5 file without reading it.

  Args:
    file: an open h5py file.
    key: of the array.

  Raises:
    ValueError: it is not an array, or it is in another file on this host,
      which must not be copied into a dataset.
  """
  found = file[key]
  if found.file.filename != file.file.filename:
    raise ValueError(f'{key!r} is in another file')
  if not hasattr(found, 'chunks'):
    raise ValueError(f'{key!r} is not an array')
  if found.external or found.is_virtual:
    raise ValueError(f'{key!r} is in another file')
  return found


def array_bytes(array) -> int:
  """Claimed bytes of an HDF5 array: its size, or a larger single chunk."""
  chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
  return max(array.nbytes, chunk)


def check_group(group, images: Iterable[str], on_disk: int) -> None:
  """Checks all arrays of an HDF5 group without reading them.

  Args:
    group: an h5py group.
    images: keys of the arrays that hold JPEGs, [T, bytes] or [T] of bytes.
    on_disk: bytes of the file.

  Raises:
    ValueError: an array is in another file, or they are too large.
  """
  claimed = 0
  for count, (key, array) in enumerate(_walk(group)):
    if count >= _MAX_OBJECTS:
      raise ValueError('it holds too many arrays')
    if array is None:
      continue
    claimed += array_bytes(array)
    if key in images and len(array):
      # Minari decodes all of them at the size of the first.
      width, height = open_image(bytes(array[0]), ('JPEG',)).size
      claimed += 3 * width * height * len(array)
  limits.check_size(claimed, on_disk)


def _walk(group, prefix='') -> Iterator[tuple[str, Any]]:
  """Yields the arrays of a group by key; for subgroups the value is None."""
  if prefix.count('/') > 20:
    raise ValueError('its groups are nested too deeply')
  for name in group:
    key = f'{prefix}{name}'
    if hasattr(group[name], 'keys'):
      if group[name].file.filename != group.file.filename:
        raise ValueError(f'{key!r} is in another file')
      yield key, None
      yield from _walk(group[name], f'{key}/')
    else:
      yield key, find_array(group, name)


def check_minari(folder: pathlib.Path) -> None:
  """Rejects a Minari dataset that could run code; Minari trusts its datasets.

  Raises:
    UserError: it could run code, or claims episodes that do not exist.
    OSError, ValueError: its metadata is damaged.
  """
  EpsImagePlugin.gs_binary = False  # See `open_image`.
  path = folder / 'metadata.json'
  metadata = limits.read_json(path)
  required = ('observation_space', 'action_space')
  missing = [key for key in required if key not in metadata]
  if missing:
    # Minari would create the environment that the dataset names: this imports
    # any module and calls any function.
    raise UserError(
      f'{path}: missing {", ".join(map(repr, missing))}; add the spaces of the '
      'environment with minari.serialization.serialize_space.'
    )
  if (folder / _MINARI).is_file():
    with core.import_optional('h5py').File(folder / _MINARI, 'r') as file:
      num_episodes = len(file)
  else:
    num_episodes = sum(1 for _ in folder.iterdir())
  if not 0 <= metadata['total_episodes'] <= num_episodes:
    raise UserError(
      f'{path}: claims {metadata["total_episodes"]} episodes, but there are at '
      f'most {num_episodes}; restore it.'
    )


def check_minari_episode(
  folder: pathlib.Path, index: int, images: Iterable[str]
) -> None:
  """Checks an episode of a Minari dataset before it is read.

  Args:
    folder: of the dataset's data.
    index: of the episode.
    images: see `check_group`.

  Raises:
    ValueError: it is too large or in another file.
  """
  path = folder / _MINARI
  if path.is_file():
    with core.import_optional('h5py').File(path, 'r') as file:
      group = file[f'episode_{index}']
      if group.file.filename != file.filename:
        raise ValueError('it is in another file')
      check_group(group, images, path.stat().st_size)
  for part in files.find_files(folder / str(index), '.parquet'):
    check_table(
      core.import_optional('pyarrow.parquet').read_metadata(part), part
    )


def check_table(
  metadata, path: pathlib.Path, columns: Iterable[str] | None = None
) -> None:
  """Checks the size of columns of a Parquet file; it may be run-length encoded.

  Args:
    metadata: of the file, from pyarrow.
    path: of the file.
    columns: the columns to read; None: all.

  Raises:
    ValueError: they are too large.
  """
  limits.check_rows(metadata.num_rows)
  claimed = 0
  for group in map(metadata.row_group, range(metadata.num_row_groups)):
    for column in map(group.column, range(group.num_columns)):
      # Nested columns have paths such as observation.state.list.element.
      name = f'{column.path_in_schema}.'
      if columns is None or any(name.startswith(f'{c}.') for c in columns):
        entries = _ENTRY_BYTES * column.num_values
        claimed += max(column.total_uncompressed_size, entries)
  limits.check_size(claimed, path.stat().st_size)


def open_image(data: bytes, formats: tuple[str, ...]) -> Image.Image:
  """Opens an image without decoding it.

  Args:
    data: bytes of the image file.
    formats: allowed formats of Pillow. By default, Pillow would also run
      PostScript programs with Ghostscript.

  Raises:
    OSError, ValueError: it has another format, is damaged or too large.
  """
  image = Image.open(io.BytesIO(data), formats=formats)
  check_pixels(*image.size)
  return image


def to_rgb(image: Image.Image, where: str | os.PathLike) -> np.ndarray:
  """Decodes an image that a person would see as a picture, u8 [H, W, 3].

  Grey and palettes become RGB; transparency is dropped.

  Raises:
    UserError: it has another mode, such as the 16 bits of depths.
  """
  if image.mode not in ('RGB', 'RGBA', 'L', 'LA', 'P', '1'):
    raise UserError(
      f'{where}: an image has the mode {image.mode}, should be RGB; choose '
      'another camera with --image-key.'
    )
  return np.asarray(image.convert('RGB'))


def check_pixels(width: int, height: int) -> None:
  """Rejects frames with too many pixels.

  Raises:
    ValueError: the frames are too large.
  """
  if width * height > _MAX_PIXELS:
    raise ValueError(f'its frames have {width}x{height} pixels, too many')


def format_path(
  pattern: str, values: Mapping[str, str | int]
) -> pathlib.PurePath:
  """Formats a path inside a dataset from the dataset's own pattern.

  Args:
    pattern: with names of `values` in braces, integers with a width, such as
      `chunk-{chunk_index:03d}`.
    values: by name.

  Raises:
    ValueError: the pattern has other fields, or the path leaves the dataset.
  """
  for _, name, width, conversion in string.Formatter().parse(pattern):
    integer = not width or (width[-1:] == 'd' and width[:-1].isdigit())
    short = not width or len(width) <= 3
    if name is not None and not (
      name in values and integer and short and conversion is None
    ):
      raise ValueError(f'the path {pattern!r} has the field {name!r}')
  path = pathlib.PurePath(pattern.format(**values))
  if path.is_absolute() or os.pardir in path.parts:
    raise ValueError(f'the path {str(path)!r} leaves the dataset')
  return path
