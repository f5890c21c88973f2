"""Atomic writes, folder locks, and safe reading of npz files."""

import contextlib
import math
import os
import pathlib
import platform
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from vid2act_jax.data import limits, storage
from vid2act_jax.types import UserError

TEMPORARY = '.tmp'  # Suffix of unfinished files.
LOCK = '.lock'
# For damaged episodes.
VALIDATE_HINT = 'quarantine it with python -m vid2act_jax.data validate DATASET'

_MAX_MEMBERS = 10_000  # Episodes have about ten, weights hundreds.
_MAX_HEADER = 10_000  # Bytes; the limit of NumPy itself.
_CHUNK = 1 << 20  # Bytes unpacked at a time.

# Every exception of NumPy and zipfile on bytes that are not a valid npz.
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
  """Creates a folder and its parents if needed; returns it.

  Raises:
    UserError: it cannot be created.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    reason = error.strerror
    if folder.is_symlink():
      reason = f'it is a link to {folder.readlink()}, which is no folder'
    raise UserError(
      f'{folder}: cannot create this folder ({reason}); choose another '
      'location or fix its permissions.'
    ) from error
  return folder


def find_files(folder: pathlib.Path, *suffixes: str) -> list[pathlib.Path]:
  """The files of `walk_files` with one of the suffixes, sorted by path."""
  paths = walk_files(folder)
  return sorted(path for path in paths if path.name.endswith(suffixes))


def walk_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the files below a folder.

  Symbolic links to folders are followed, each folder is read once. Links whose
  target is missing are listed: reading one is an error, not nothing.
  """
  seen = set()
  for parent, folders, names in os.walk(folder, followlinks=True):
    real = os.path.realpath(parent)
    if real in seen:
      folders.clear()  # A link to a folder outside of it.
      continue
    seen.add(real)
    folders.sort()
    yield from (pathlib.Path(parent) / name for name in names)


class Locked(UserError):
  """Another process writes to a folder."""


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
  """Creates and locks a folder; the lock ends with the block or the process.

  On a file system without locks it only warns.

  Raises:
    Locked: another process holds the lock.
    UserError: the folder cannot be created or written.
  """
  path = make_folder(folder) / LOCK
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(open(path, 'a+', encoding='utf-8'))
      storage.lock(file)
      file.truncate(0)
      file.write(f'process {os.getpid()} on {platform.node()}\n')
      file.flush()
    except BlockingIOError as error:
      raise Locked(
        f'{folder}: another process is writing here ({_owner(path)}); wait for '
        'it, or choose another folder.'
      ) from error
    except OSError as error:
      raise UserError(
        f'{path}: cannot be written ({error.strerror}); choose another location'
        f' or {storage.hint(error)}.'
      ) from error
    yield


def _owner(path):
  try:
    return path.read_text(encoding='utf-8', errors='replace').strip()
  except OSError:
    return 'unknown'


def atomic_write(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
  """Writes a file atomically; after the return it survives a power cut.

  Args:
    path: of the file; its folder must exist.
    write: called with the open file to write the contents.

  Raises:
    UserError: the folder cannot be written or is full; no partial file is
      left.
  """
  # Another process or thread may be writing the same file.
  writer = f'{platform.node()}-{os.getpid()}-{threading.get_ident()}'
  name = f'{path.name}.{writer}{TEMPORARY}'
  temporary = path.with_name(name)
  try:
    with open(temporary, 'wb') as file:
      write(file)
      file.flush()
      storage.sync(file, path)
    os.replace(temporary, path)
    # The rename is durable once the folder is synced.
    storage.sync_folder(path.parent)
  except OSError as error:
    # Removing can fail for the same reason.
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise _write_error(path, error) from error


def append_line(path: pathlib.Path, text: str, durable: bool = False) -> None:
  """Appends a line to a file; durable: after the return it survives a crash.

  Raises:
    UserError: the file cannot be written, or the disk is full.
  """
  try:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(text + '\n')
      file.flush()
      if durable:
        storage.sync(file, path)
  except OSError as error:
    raise _write_error(path, error) from error


def _write_error(path, error):
  return UserError(
    f'{path}: cannot be written ({error.strerror or error}); '
    f'{storage.hint(error)} and run again; files already written are kept.'
  )


def write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays as a compressed npz.

  Uses the fastest compression level: on frames of cartpole, NumPy's default
  saves an eighth of the size and takes more than twice the time.
  """
  with zipfile.ZipFile(
    file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1
  ) as archive:
    for key, value in arrays.items():
      # As in NumPy: the size is not known before the data is written.
      with archive.open(f'{key}.npy', 'w', force_zip64=True) as member:
        np.lib.format.write_array(
          member, np.asanyarray(value), allow_pickle=False
        )


def read_npz(
  path: str | os.PathLike,
  keys: Collection[str] | None = None,
  hint: str = f'restore it, or {VALIDATE_HINT}',
) -> dict[str, np.ndarray]:
  """Reads the arrays of an npz: all, or those of `keys` that it has.

  Safe for untrusted files: no code is run, and other arrays are not unpacked.

  Args:
    path: of the file.
    keys: of the arrays to read; None: all.
    hint: end of the error message: what to do.

  Returns:
    Arrays by key.

  Raises:
    UserError: the file is missing, damaged, too large, or holds other than
      plain arrays.
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
      f'{path}: damaged or not an npz file of plain arrays ({text}); {hint}.'
    ) from error


def list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """The members of an npz by key, as listed in its directory.

  Raises:
    ValueError: there are too many, two have the same key, or one uses another
      compression than NumPy: only deflate is unpacked in bounded parts.
  """
  members = {}
  infos = archive.infolist()
  if len(infos) > _MAX_MEMBERS:
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
  """Reads the header of an npy member, up to the start of its data.

  Args:
    member: the newly opened file.
    info: of the member.

  Returns:
    Its shape, whether it is in Fortran order, and its dtype.

  Raises:
    ValueError: it is not a plain array, or its size contradicts its shape.
  """
  header = _HeaderReader(member)
  version = np.lib.format.read_magic(header)
  if version == (1, 0):
    read = np.lib.format.read_array_header_1_0
  elif version == (2, 0):
    read = np.lib.format.read_array_header_2_0
  else:  # Version 3 only adds Unicode field names.
    raise ValueError(f'{info.filename!r} is of version {version}')
  shape, fortran, dtype = read(header, max_header_size=_MAX_HEADER)
  # No objects, which only code can build, and no records.
  if dtype.kind not in 'biufcSU' or not dtype.itemsize:
    raise ValueError(f'{info.filename!r} is of the type {dtype}')
  size = math.prod(shape) * dtype.itemsize
  # An axis of length 0 must not hide a huge one.
  bound = math.prod(max(n, 1) for n in shape) * dtype.itemsize
  if min(shape, default=0) < 0 or (not size and bound > limits.MAX_BYTES):
    raise ValueError(f'{info.filename!r} has the shape {shape}')
  if size != info.file_size - member.tell():
    raise ValueError(
      f'{info.filename!r} has the shape {shape} of {dtype}, which does not '
      f'fit its {info.file_size} bytes'
    )
  return shape, fortran, dtype


class _HeaderReader:
  """Limits the bytes that reading a header may take."""

  def __init__(self, member):
    self._member = member

  def read(self, size):
    if size > _MAX_HEADER:
      raise ValueError(f'a header of {size} bytes')
    return self._member.read(size)


def _read_member(archive, info):
  """Reads an array; reading to the end verifies the checksum."""
  with archive.open(info) as member:
    shape, fortran, dtype = read_header(member, info)
    array = np.empty(math.prod(shape), dtype)
    remaining = memoryview(array.view(np.uint8))
    while remaining:
      data = member.read(min(len(remaining), _CHUNK))
      if not data:
        raise ValueError(f'{info.filename!r} is truncated')
      remaining[: len(data)] = data
      remaining = remaining[len(data) :]
  return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
