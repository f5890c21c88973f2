"""Files that are there whole or not at all."""

import contextlib
import fcntl
import math
import os
import pathlib
import platform
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.types import UserError

TEMPORARY = '.tmp'  # What the name of an unfinished file ends in.
LOCK = '.lock'
# The way out of damaged files.
VALIDATE = 'put it aside by python -m vid2act_jax.data validate DATASET'

_MOST_MEMBERS = 10_000  # Episodes have some ten, weights some hundred.
_MOST_HEADER = 10_000  # Bytes, as NumPy itself has it.
_PART = 1 << 20  # Bytes unpacked at a time.

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
  tokenize.TokenError,
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


class Locked(UserError):
  """Another process writes in a folder."""


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder and is its only writer; the lock ends with the process.

  Raises:
    Locked: another process writes there.
    UserError: the folder cannot be made or written.
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
      raise Locked(
        f'{folder}: another process is writing here ({file.read().strip()}); '
        'wait for it, or choose another folder.'
      ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {platform.node()}\n')
    file.flush()
    yield


def atomic_write(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
  """Writes a file; when this returns, it survives a power cut.

  Args:
    path: of the file; its folder must be there.
    write: writes the contents to the open file given.

  Raises:
    UserError: the folder cannot be written or is full; nothing is left there.
  """
  # Another process may be writing the same file.
  own = f'{path.name}.{platform.node()}-{os.getpid()}{TEMPORARY}'
  temporary = path.with_name(own)
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
  path: str | os.PathLike,
  keys: Collection[str] | None = None,
  way_out: str = f'restore it, or {VALIDATE}',
) -> dict[str, np.ndarray]:
  """The arrays of an npz: all, or those of `keys` that it has.

  Whoever made the file: nothing of it is run, and the others are not unpacked.

  Args:
    path: of the file.
    keys: of the arrays wanted.
    way_out: what the message says to do.

  Raises:
    UserError: it is missing, damaged, larger than it may be, or holds other
      than plain arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      wanted = {
        key: info
        for key, info in list_members(archive).items()
        if keys is None or key in keys
      }
      claimed = sum(info.file_size for info in wanted.values())
      limits.check_size(claimed, os.path.getsize(path))
      return {key: _read_member(archive, i) for key, i in wanted.items()}
  except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}).') from error
  except _DAMAGE as error:
    text = str(error) or type(error).__name__
    raise UserError(
      f'{path}: damaged or not an npz file of plain arrays ({text}); {way_out}.'
    ) from error


def list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """The members of an npz by key, as its directory claims them.

  Raises:
    ValueError: there are too many, two of a key, or one is compressed
      otherwise than NumPy does it: only of deflate is no more unpacked at a
      time than is asked for.
  """
  members = {}
  infos = archive.infolist()
  if len(infos) > _MOST_MEMBERS:
    raise ValueError(f'it has {len(infos)} members')
  for info in infos:
    key = info.filename.removesuffix('.npy')
    if key in members:
      raise ValueError(f'it has {key!r} twice')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError(f'{key!r} is compressed by another method')
    members[key] = info
  return members


def read_header(
  member: BinaryIO, info: zipfile.ZipInfo
) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads what an npy says of itself, up to where its numbers begin.

  Args:
    member: just opened.
    info: of the member.

  Returns:
    Its shape, whether it is in Fortran's order, and its type.

  Raises:
    ValueError: it is not a plain array, or not of the size that it claims.
  """
  header = _Header(member)
  version = np.lib.format.read_magic(header)
  if version == (1, 0):
    read = np.lib.format.read_array_header_1_0
  elif version == (2, 0):
    read = np.lib.format.read_array_header_2_0
  else:  # The third is for names of fields.
    raise ValueError(f'{info.filename!r} is of version {version}')
  shape, fortran, dtype = read(header, max_header_size=_MOST_HEADER)
  # Neither objects, which only code can make, nor records.
  if dtype.kind not in 'biufcSU' or not dtype.itemsize:
    raise ValueError(f'{info.filename!r} is of the type {dtype}')
  size = math.prod(shape) * dtype.itemsize
  # An axis of 0 must not hide an absurd one.
  most = math.prod(max(n, 1) for n in shape) * dtype.itemsize
  if min(shape, default=0) < 0 or (not size and most > limits.MOST_BYTES):
    raise ValueError(f'{info.filename!r} has the shape {shape}')
  if size != info.file_size - member.tell():
    raise ValueError(
      f'{info.filename!r} has the shape {shape} of {dtype}, which does not '
      f'fit its {info.file_size} bytes'
    )
  return shape, fortran, dtype


class _Header:
  """What a header is read from, and nothing longer than one."""

  def __init__(self, member):
    self._member = member

  def read(self, size):
    if size > _MOST_HEADER:
      raise ValueError(f'a header of {size} bytes')
    return self._member.read(size)


def _read_member(archive, info):
  """An array; the end of the member checks its checksum."""
  with archive.open(info) as member:
    shape, fortran, dtype = read_header(member, info)
    array = np.empty(math.prod(shape), dtype)
    left = memoryview(array.view(np.uint8))
    while left:
      data = member.read(min(len(left), _PART))
      if not data:
        raise ValueError(f'{info.filename!r} ends too early')
      left[: len(data)] = data
      left = left[len(data) :]
  return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
