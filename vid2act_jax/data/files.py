"""Files that are there whole or not at all."""

import contextlib
import fcntl
import io
import os
import pathlib
import platform
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from vid2act_jax.types import UserError

TEMPORARY = '.tmp'  # What the name of an unfinished file ends in.
LOCK = '.lock'
# The way out of damaged files.
VALIDATE = 'put it aside by python -m vid2act_jax.data validate DATASET'

# All that NumPy and zipfile raise on bytes that are not a whole npz.
_DAMAGE = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  RuntimeError,
  SyntaxError,
  MemoryError,
  OverflowError,
  TypeError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)


def make_folder(folder: pathlib.Path) -> pathlib.Path:
  """Makes a folder and those above it, if need be.

  Raises:
    UserError: it cannot be made.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'{folder}: cannot make this folder ({error.strerror}); choose another '
      'place or mend its permissions.'
    ) from error
  return folder


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder and is its only writer; the lock ends with the process.

  Raises:
    UserError: another process writes there, or the folder cannot be made.
  """
  path = make_folder(folder) / LOCK
  try:
    file = open(path, 'a+')
  except OSError as error:
    raise UserError(
      f'{path}: cannot be written ({error.strerror}); choose another place or '
      'mend its permissions.'
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise UserError(
        f'{folder}: another process is writing here ({file.read().strip()}); '
        'wait for it, or choose another folder.'
      ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}\n')
    file.flush()
    yield


def write_durably(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
  """Writes a file; when this returns, it survives a power cut.

  Args:
    path: of the file; its folder must be there.
    write: writes the contents to the open file given.

  Raises:
    UserError: the folder cannot be written or is full; nothing is left there.
  """
  temporary = path.with_name(path.name + TEMPORARY)
  try:
    with open(temporary, 'wb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    # The rename itself is an entry of the folder.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)
  except OSError as error:
    # Where nothing can be written, nothing can be removed either.
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise UserError(
      f'{path}: cannot be written ({error.strerror or error}); make room or '
      'mend the permissions and run again, what is there already is kept.'
    ) from error


def write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays as a compressed npz.

  With the quickest compression: of cartpole's frames, NumPy's makes an eighth
  less, in more than twice the time.
  """
  with zipfile.ZipFile(
    file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1
  ) as archive:
    for key, value in arrays.items():
      # As NumPy does it: sizes are not known before they are written.
      with archive.open(f'{key}.npy', 'w', force_zip64=True) as member:
        np.lib.format.write_array(
          member, np.asanyarray(value), allow_pickle=False
        )


def read_npz(
  path: str | os.PathLike, keys: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """The arrays of an npz: all, or those of `keys` that it has.

  Raises:
    UserError: it is missing, damaged, or holds other than plain arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      arrays = {}
      for name in archive.namelist():
        key = name.removesuffix('.npy')
        if keys is None or key in keys:
          # Read whole, so that its checksum is checked before its contents.
          data = io.BytesIO(archive.read(name))
          arrays[key] = np.lib.format.read_array(data, allow_pickle=False)
      return arrays
  except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}).') from error
  except _DAMAGE as error:
    raise UserError(
      f'{path}: damaged or not an npz file of plain arrays ({error}); restore '
      f'it, or {VALIDATE}.'
    ) from error
