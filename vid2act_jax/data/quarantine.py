"""Finds invalid episodes and moves them out of a dataset.

Invalid files are moved to `quarantine/` in the dataset folder, with the reason
in `<file>.reason.txt`; nothing is deleted. Training does not read that folder.
"""

import os
import pathlib
import shutil
from collections.abc import Callable

from vid2act_jax.data import dataset, files, limits
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

FOLDER = 'quarantine'
_SUFFIX = '.reason.txt'

Progress = Callable[[int, int], None]


def read_reasons(directory: str | os.PathLike) -> dict[str, str]:
  """The reasons of the files in quarantine, by file name.

  Raises:
    UserError: a reason cannot be read.
  """
  folder, reasons = pathlib.Path(directory) / FOLDER, {}
  for path in sorted(folder.glob('*' + _SUFFIX)):
    try:
      name = path.name.removesuffix(_SUFFIX)
      reasons[name] = limits.read_text(path).strip()
    except (OSError, ValueError) as error:
      raise UserError(
        f'{path}: cannot be read ({error}); remove it.'
      ) from error
  return reasons


def write_reason(directory: str | os.PathLike, name: str, reason: str) -> None:
  """Writes why a file is in quarantine or was not imported.

  Args:
    directory: the dataset folder.
    name: of the file.
    reason: the error message.

  Raises:
    UserError: the folder cannot be written.
  """
  folder = files.make_folder(pathlib.Path(directory) / FOLDER)
  path = folder / (name.replace(os.sep, '_') + _SUFFIX)
  files.atomic_write(path, lambda file: file.write(f'{reason}\n'.encode()))


def remove_reason(directory: str | os.PathLike, name: str) -> None:
  """Removes the reason of a file that is valid now."""
  folder = pathlib.Path(directory) / FOLDER
  path = folder / (name.replace(os.sep, '_') + _SUFFIX)
  path.unlink(missing_ok=True)


def find_invalid(
  directory: str | os.PathLike, progress: Progress | None = None
) -> dict[pathlib.Path, str]:
  """Reads and validates all episodes of a dataset; changes nothing.

  Args:
    directory: the dataset folder.
    progress: called with the number of files done and their total.

  Returns:
    Error messages by file; {} if all are valid.

  Raises:
    UserError: there is no dataset, or its metadata contradicts all episodes
      that are otherwise valid: then the metadata is wrong.
  """
  metadata = dataset.read_metadata(directory, partial=True)
  folder = pathlib.Path(directory) / eps.FOLDER
  paths = sorted(folder.glob('*.npz')) if folder.is_dir() else []
  invalid, contradicting, names = {}, {}, {}
  for done, path in enumerate(paths, 1):
    try:
      episode = _read(path, names)
    except UserError as error:
      invalid[path] = str(error)
    else:
      try:
        eps.validate(episode, path, metadata['size'], metadata['action_dim'])
      except UserError as error:
        contradicting[path] = (
          f'{error} The expected value is from {dataset.FILE}.'
        )
    if progress:
      progress(done, len(paths))
  if contradicting and len(contradicting) == len(paths) - len(invalid):
    raise UserError(
      f'{pathlib.Path(directory) / dataset.FILE}: contradicts every valid '
      f'episode ({next(iter(contradicting.values()))}); correct it.'
    )
  return invalid | contradicting


def move(
  directory: str | os.PathLike, invalid: dict[pathlib.Path, str]
) -> None:
  """Moves files to quarantine and updates the metadata.

  Args:
    directory: the dataset folder; the caller has locked it.
    invalid: reasons by file, see `find_invalid`.

  Raises:
    UserError: the folder cannot be written.
  """
  for path, reason in invalid.items():
    # The reason first: a file in quarantine always has one.
    write_reason(directory, path.name, reason)
    try:
      # The episodes may be on another disk, behind a link.
      shutil.move(path, path.parents[1] / FOLDER / path.name)
    except OSError as error:
      raise UserError(f'{path}: cannot be moved ({error.strerror}).') from error
  if invalid:
    dataset.recount(directory)


def _read(path, names):
  """Reads and validates one episode, without the dataset's metadata.

  Args:
    path: the file.
    names: of the valid files so far, by index; this name is added.
  """
  index = eps.parse_name(path).index
  if index in names:
    raise UserError(f'{path}: has the same index as {names[index]}.')
  episode = eps.load(path)
  eps.validate(episode, path)
  names[index] = path.name
  return episode
