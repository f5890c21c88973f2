"""What some file systems lack: locks, fsync, hard links, memory maps.

Such as Lustre without `-o flock`, NFS without a lock daemon, and many FUSE
file systems. Nothing here imports a package: the doctor uses it before others.
"""

import contextlib
import errno
import fcntl
import mmap
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

# Errors of an operation that a file system does not have.
_UNSUPPORTED = {
  errno.EINVAL,
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.EOPNOTSUPP,
  errno.ENOLCK,
  errno.ENOTTY,
  errno.ENODEV,
  errno.EBADF,
  errno.EPERM,
}
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
# Errors of a disk or its permissions, not of a program.
FAILURES = {*_NO_SPACE, *_REFUSED, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG}
_warned: set[str] = set()


def lock(file: IO) -> None:
  """Locks an open file until it is closed, if the file system has locks.

  Without locks it goes on, with a warning.

  Raises:
    BlockingIOError: another process holds the lock.
    OSError: the file system fails.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _HELD:
      raise BlockingIOError(*error.args) from error
    if error.errno not in _UNSUPPORTED:
      raise
    folder = pathlib.Path(file.name).parent
    warn_once(
      'locks',
      f'{folder}: this file system has no locks ({error.strerror}), so nothing'
      ' keeps two processes from writing here: start each run only once',
    )


def sync(file: IO | int, path: pathlib.Path) -> None:
  """Makes the contents of an open file or folder durable, if possible.

  Where fsync is not supported it goes on, with a warning.

  Args:
    file: open, or its descriptor.
    path: of it, for the warning.

  Raises:
    OSError: the disk is full or fails.
  """
  try:
    os.fsync(file)
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    warn_once(
      'fsync',
      f'{path}: this file system has no fsync here ({error.strerror}), so the'
      ' newest files may be lost in a power cut; a run then resumes from the'
      ' checkpoint before',
    )


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the names of a folder durable, as `sync`."""
  try:
    descriptor = os.open(folder, os.O_RDONLY)
  except OSError:  # May be written, but not listed.
    return
  try:
    sync(descriptor, folder)
  finally:
    os.close(descriptor)


def sync_tree(folder: pathlib.Path) -> None:
  """Makes all files below a folder durable, as `sync`."""
  for name, _, names in os.walk(folder):
    for path in (pathlib.Path(name) / x for x in names):
      with open(path, 'rb') as file:
        sync(file, path)
    sync_folder(pathlib.Path(name))


def remove_tree(folder: pathlib.Path) -> None:
  """Removes a folder, or the link to one, if it exists."""
  if folder.is_symlink():
    folder.unlink()
  elif folder.exists():
    shutil.rmtree(folder)


def warn_once(kind: str, text: str) -> None:
  """Prints a warning, once for each kind; worker processes print nothing."""
  if kind in _warned or multiprocessing.parent_process():
    return
  _warned.add(kind)
  print(f'warning: {text}', file=sys.stderr, flush=True)


def hint(error: OSError) -> str:
  """What to do after a failed write."""
  if error.errno in _NO_SPACE:
    return 'free disk space'
  if error.errno in _REFUSED:
    return 'fix the permissions'
  return (
    'free disk space, fix the permissions, or use another file system (python'
    ' -m vid2act_jax.doctor --only disk --folder DIR tries one)'
  )


def missing(folder: str | os.PathLike) -> dict[str, OSError]:
  """Tries what a file system may lack.

  Args:
    folder: that exists; a temporary folder is made in it, and removed.

  Returns:
    The error for each of 'locks', 'fsync', 'links' and 'mmap' that fails.

  Raises:
    OSError: the folder cannot be written.
  """
  found: dict[str, OSError] = {}

  @contextlib.contextmanager
  def attempt(name) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      found.setdefault(name, error)

  with tempfile.TemporaryDirectory(prefix='.probe-', dir=folder) as probe:
    path = os.path.join(probe, 'file')
    with open(path, 'wb+') as file:
      file.write(b'content')
      file.flush()
      for take in fcntl.flock, fcntl.lockf:  # TensorStore uses the latter.
        with attempt('locks'):
          take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      with attempt('fsync'):
        os.fsync(file)
      with attempt('mmap'):
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()
    with attempt('fsync'):
      descriptor = os.open(probe, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)
    with attempt('links'):
      os.link(path, os.path.join(probe, 'link'))
      os.symlink(path, os.path.join(probe, 'symlink'))
  return found
