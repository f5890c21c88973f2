"""Recognises the format of a dataset, and names those that cannot be read."""

import itertools
import os
import pathlib
import re
import zipfile

from vid2act_jax.data import files
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError

_MAX_FILES = 5000  # Looked at in a folder.
_CONVERT = (
  'save each episode as an npz of image, action, reward and is_terminal, named '
  '<name>-<frames>.npz, and import their folder with --format dreamer '
  '--align next'
)
# The replay of DreamerV3: <time>-<id>-<next id>-<rows>.npz.
_CHUNK = re.compile(r'\d{8}T\d{6}F?\d*-\w{16,}-\w{16,}-\d+\.npz')
_MINARI_ID = re.compile(r'[\w/.-]+-v\d+')


_OTHERS = {
  '.zip': 'packed; unpack it and pass the folder, or',
  '.tar': 'packed; unpack it and pass the folder, or',
  '.tgz': 'packed; unpack it and pass the folder, or',
  '.pkl': 'pickled, and reading it would run its code',
  '.pickle': 'pickled, and reading it would run its code',
  '.pt': 'pickled by PyTorch, and reading it would run its code',
  '.pth': 'pickled by PyTorch, and reading it would run its code',
  '.gz': 'compressed arrays, such as the replay of Dopamine',
  '.parquet': 'tables without meta/info.json of LeRobot',
  '.mp4': 'videos without actions',
  '.avi': 'videos without actions',
  '.bag': 'recordings of ROS',
  '.mcap': 'recordings of ROS',
}


class Unsupported(UserError):
  """A dataset that is known, but cannot be imported."""


def recognise(source: str) -> str:
  """The format of a dataset, one of `formats.FORMATS`.

  Args:
    source: path, or name of the dataset.

  Raises:
    Unsupported: it has another format; the message says what to do.
    UserError: there is nothing, or nothing known.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    format = _of_folder(path)
  elif path.is_file():
    format = _of_file(path)
  elif _MINARI_ID.fullmatch(source):
    return 'minari'
  else:
    raise UserError(f'{source}: there is no such file or folder.')
  if format is None:
    raise UserError(
      f'{source}: no known dataset; choose its format with --format, or '
      f'{_CONVERT}.'
    )
  return format


def explain(format: str, source: str, error: UserError) -> UserError:
  """A better error, if a source of another format cannot be read as `format`.

  Args:
    format: one of `formats.FORMATS`.
    source: path, or name of the dataset.
    error: what went wrong.
  """
  try:
    found = recognise(source)
  except Unsupported as unsupported:
    return unsupported
  except UserError:
    return error
  alike = ('dreamer', 'vd4rl')  # Both have npz episodes.
  if found == format or (found in alike and format in alike):
    return error
  return UserError(f'{error} It looks like {found}: pass --format {found}.')


def _of_folder(folder):
  if (folder / 'metadata.json').is_file() and (folder / 'episodes').is_dir():
    raise Unsupported(
      f'{folder}: is a dataset of this program already; name it in '
      'config.sources.'
    )
  if (folder / 'meta' / 'info.json').is_file():
    return 'lerobot'
  for data in (folder / 'data', folder):
    if (data / 'metadata.json').is_file():
      return 'minari'
  # Those of the uppermost folders; a wrong path may lead anywhere.
  paths = itertools.islice(files.walk_files(folder), _MAX_FILES)
  names = [path.name for path in paths]
  endings = {os.path.splitext(name)[1] for name in names}
  if 'features.json' in names or any('.tfrecord' in name for name in names):
    return 'rlds'
  if {'.zgroup', '.zarray', 'zarr.json'} & {*names}:
    raise _unsupported(folder, 'of Zarr')
  if '.npz' in endings:
    if any(map(_CHUNK.fullmatch, names)):
      # Its chunks begin and end anywhere in an episode.
      raise _unsupported(folder, 'the replay of DreamerV3, not in episodes')
    first = files.find_files(folder, '.npz')[0]
    if {*_list_arrays(first)} >= {'observations', 'actions'}:
      raise Unsupported(
        f'{folder}: holds files of OGBench; pass one of them, such as {first}, '
        'with --format ogbench.'
      )
    return 'dreamer'
  if {'.hdf5', '.h5'} & endings:
    return _of_hdf5(files.find_files(folder, '.hdf5', '.h5')[0])
  for ending, kind in _OTHERS.items():
    if ending in endings:
      raise _unsupported(folder, kind)
  return None


def _of_file(path):
  if path.suffix == '.npz':
    if {*_list_arrays(path)} >= {'image', 'action'}:
      raise Unsupported(
        f'{path}: a single episode; pass its folder, with --format dreamer.'
      )
    return 'ogbench'
  if path.suffix in ('.hdf5', '.h5'):
    _of_hdf5(path)
    raise Unsupported(f'{path}: a single file; pass its folder.')
  if path.suffix in _OTHERS:
    raise _unsupported(path, _OTHERS[path.suffix])
  return None


def _list_arrays(path):
  """Names of the arrays of an npz; none if it is damaged."""
  try:
    with core.wrap_errors(path), zipfile.ZipFile(path) as archive:
      return list(files.list_members(archive))
  except UserError:
    return []  # Reading it is the error.


def _of_hdf5(path):
  h5py = core.import_optional('h5py')
  with core.wrap_errors(path), h5py.File(path, 'r') as file:
    keys = {*file}
  if 'step_type' in keys:
    return 'vd4rl'
  if any(key.startswith('episode_') for key in keys):
    return 'minari'
  if 'data' in keys:
    raise _unsupported(path, 'of robomimic, robosuite or LIBERO')
  if keys >= {'observations', 'actions'}:
    raise _unsupported(path, 'of D4RL or of ALOHA')
  raise _unsupported(path, f'HDF5 of {core.quote(sorted(keys))}')


def _unsupported(path, kind):
  text = kind if kind.endswith(' or') else f'{kind}; it cannot be imported:'
  return Unsupported(f'{path}: {text} {_CONVERT}.')
