"""Episodes that will do are told from those that will not.

What is broken is moved to `quarantine/` in the dataset folder, with the reason
beside it as `<file>.reason.txt`; nothing is deleted. Training does not look
there.
"""

import os
import pathlib
from collections.abc import Callable

from vid2act_jax.data import dataset, files, limits
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

FOLDER = 'quarantine'
_REASON = '.reason.txt'

Progress = Callable[[int, int], None]


def reasons(directory: str | os.PathLike) -> dict[str, str]:
  """Why each file in quarantine is there, by its name.

  Raises:
    UserError: a reason cannot be read.
  """
  folder, told = pathlib.Path(directory) / FOLDER, {}
  for path in sorted(folder.glob('*' + _REASON)):
    try:
      told[path.name.removesuffix(_REASON)] = limits.read_text(path).strip()
    except (OSError, ValueError) as error:
      raise UserError(
        f'{path}: cannot be read ({error}); remove it.'
      ) from error
  return told


def record(directory: str | os.PathLike, name: str, reason: str) -> None:
  """Writes down why something is not among the episodes.

  Args:
    directory: the dataset folder.
    name: of the file that is, or would have been, in quarantine.
    reason: in words.

  Raises:
    UserError: the folder cannot be written.
  """
  folder = files.make_folder(pathlib.Path(directory) / FOLDER)
  path = folder / (name.replace(os.sep, '_') + _REASON)
  files.atomic_write(path, lambda file: file.write(f'{reason}\n'.encode()))


def forget(directory: str | os.PathLike, name: str) -> None:
  """Removes the reason for something that turned out well."""
  folder = pathlib.Path(directory) / FOLDER
  path = folder / (name.replace(os.sep, '_') + _REASON)
  path.unlink(missing_ok=True)


def find(
  directory: str | os.PathLike, progress: Progress | None = None
) -> dict[pathlib.Path, str]:
  """Reads every episode of a dataset, whole, and changes nothing.

  Args:
    directory: the dataset folder.
    progress: called with the files done and all of them.

  Returns:
    What is wrong, by file; {} when all is well.

  Raises:
    UserError: there is no dataset, or its metadata contradicts all of the
      episodes that are otherwise sound: then the metadata is what is wrong.
  """
  about = dataset.read_metadata(directory, partial=True)
  folder = pathlib.Path(directory) / eps.FOLDER
  paths = sorted(folder.glob('*.npz')) if folder.is_dir() else []
  broken, contradicting, names = {}, {}, {}
  for done, path in enumerate(paths, 1):
    try:
      episode = _read(path, names)
    except UserError as error:
      broken[path] = str(error)
    else:
      try:
        eps.validate(episode, path, about['size'], about['action_dim'])
      except UserError as error:
        contradicting[path] = f'{error} So says {dataset.FILE}.'
    if progress:
      progress(done, len(paths))
  if contradicting and len(contradicting) == len(paths) - len(broken):
    raise UserError(
      f'{pathlib.Path(directory) / dataset.FILE}: contradicts every sound '
      f'episode ({next(iter(contradicting.values()))}); correct it.'
    )
  return broken | contradicting


def move(directory: str | os.PathLike, broken: dict[pathlib.Path, str]) -> None:
  """Moves files to quarantine and brings the metadata up to date.

  Args:
    directory: the dataset folder; the caller has locked it.
    broken: reasons by file, as of `find`.

  Raises:
    UserError: the folder cannot be written.
  """
  for path, reason in broken.items():
    # The reason first: a file in quarantine always has one.
    record(directory, path.name, reason)
    try:
      os.replace(path, path.parents[1] / FOLDER / path.name)
    except OSError as error:
      raise UserError(f'{path}: cannot be moved ({error.strerror}).') from error
  if broken:
    dataset.recount(directory)


def _read(path, names):
  """A file's episode, sound by itself.

  Args:
    path: the file.
    names: of the sound files seen before, by index; this one's is added.
  """
  index = eps.parse_name(path).index
  if index in names:
    raise UserError(f'{path}: has the same index as {names[index]}.')
  episode = eps.load(path)
  eps.validate(episode, path)
  names[index] = path.name
  return episode
