"""Where a run folder is kept: on a file system, or in a bucket.

With a bucket, a run works in a local copy. Every process has its own; process 0
uploads the shared files, and each process its episodes.
"""

import contextlib
import pathlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from vid2act_jax import sharding
from vid2act_jax.data import bucket as bucket_lib
from vid2act_jax.data import lease as lease_lib
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.lease import Lease
from vid2act_jax.data.mirror import Mirror
from vid2act_jax.loops import progress
from vid2act_jax.loops.run_copies import COPIES
from vid2act_jax.types import UserError

_FLUSH_SECONDS = 30.0  # Between two uploads of logs and episodes.


class FolderStorage:
  """A folder that all processes see.

  shared: whether they see the same folder.
  """

  shared = True

  def commit(self, workdir: pathlib.Path) -> None:
    """Makes a run's folder durable as it is, now or soon; all processes call.

    Args:
      workdir: the run's folder, or one inside it.
    """

  def sync(self, workdir: pathlib.Path) -> None:
    """Commits, and gives all processes the files of the first one."""

  @contextlib.contextmanager
  def keep(self, workdir: pathlib.Path) -> Iterator[None]:
    """Commits at the end of the block, also after an error."""
    yield

  def named(self, text: str) -> str:
    """Replaces the names of local copies in a text by those for users."""
    return COPIES.named(text)


class BucketStorage(FolderStorage):
  """Copies of a folder in a bucket, one for each process.

  A process that is alone uploads in a thread while the run goes on: each commit
  waits for the one before, and raises its error.
  """

  shared = False

  def __init__(
    self,
    url: str,
    folder: pathlib.Path,
    mirrors: list[Mirror],
    leases: list[Lease],
  ):
    """Starts to upload logs.

    Args:
      url: of the folder.
      folder: of the local copy.
      mirrors: of the runs in it.
      leases: of these, on process 0.
    """
    self._url, self._folder = url.rstrip('/'), folder
    self._mirrors, self._leases = mirrors, leases
    self._uploader = ThreadPoolExecutor(len(mirrors))
    self._uploads: dict[Mirror, Future] = {}  # That may be under way.
    self._ended = threading.Event()
    self._flusher = threading.Thread(target=self._flush, daemon=True)
    if leases:
      self._flusher.start()

  def close(self) -> None:
    """Ends the uploads and the leases."""
    self._uploader.shutdown()
    self._ended.set()
    if self._leases:
      self._flusher.join()
    for lease in self._leases:
      lease.release()

  def commit(self, workdir):
    """See `FolderStorage.commit`.

    Raises:
      UserError: the bucket cannot be used, or another process writes there.
    """
    mirror = self._mirror_of(workdir)
    self._check_leases()
    if jax.process_count() > 1:
      self._commit_together(mirror)
      return
    self.wait(workdir)
    snapshot = mirror.snapshot()
    if snapshot is None:
      mirror.commit(mirror.upload())
    else:
      args = mirror.commit_snapshot, snapshot, self._check_leases
      self._uploads[mirror] = self._uploader.submit(*args)

  def _commit_together(self, mirror):
    """Commits the files of several processes, before they go on.

    Barriers are collective operations, which a thread must not make.
    """
    is_first = jax.process_index() == 0
    entries = mirror.upload()
    if not is_first:
      mirror.share(entries)
    sharding.barrier('uploaded')
    if is_first:
      mirror.commit(entries)
    sharding.barrier('committed')

  def wait(self, workdir: pathlib.Path) -> None:
    """Waits for the last commit of a run.

    Args:
      workdir: as in `commit`.

    Raises:
      UserError: it failed; raised once.
    """
    mirror = self._mirror_of(workdir)
    if upload := self._uploads.get(mirror):
      try:
        upload.result()
      finally:  # The waiting may have been interrupted.
        if upload.done():
          del self._uploads[mirror]

  def _check_leases(self):
    for lease in self._leases:
      lease.check()

  def sync(self, workdir):
    """See `FolderStorage.sync`."""
    self.commit(workdir)
    if jax.process_index():
      self._mirror_of(workdir).fetch(_warn)

  @contextlib.contextmanager
  def keep(self, workdir):
    """See `FolderStorage.keep`."""
    try:
      yield
    except BaseException:
      # The others of several processes may not come here.
      if jax.process_count() == 1:
        try:
          self._commit_last(workdir)
        except UserError as error:
          _warn(str(error))
      raise
    self._commit_last(workdir)

  def _commit_last(self, workdir):
    """Commits, and waits until it is done."""
    with contextlib.suppress(UserError):
      self.wait(workdir)  # If it failed, this one commits the same.
    self.commit(workdir)
    self.wait(workdir)

  def named(self, text):
    """See `FolderStorage.named`."""
    return bucket_lib.rename(super().named(text), self._folder, self._url)

  def _mirror_of(self, path):
    """The mirror of the run that a path belongs to."""
    return next(x for x in self._mirrors if path.is_relative_to(x.folder))

  def _flush(self):
    while not self._ended.wait(_FLUSH_SECONDS):
      for mirror in self._mirrors:
        upload = self._uploads.get(mirror)
        if upload and not upload.done():
          continue  # It would replace newer logs by those of its snapshot.
        try:
          self._check_leases()
          mirror.flush()
        except UserError:
          pass  # The next commit raises it, if it lasts.


@contextlib.contextmanager
def open_storage(
  url: str,
  folder: pathlib.Path,
  run_folders: list[pathlib.Path],
  writes: bool = True,
) -> Iterator[BucketStorage]:
  """Takes a folder of a bucket, and fetches what is in it.

  Args:
    url: of the folder.
    folder: of the local copy, of this process.
    run_folders: of the runs in the copy, or the copy itself.
    writes: False: nothing is written there.

  Raises:
    Locked: another process writes there.
    UserError: the bucket cannot be used, or the run in it is damaged.
  """
  root = Bucket(url)
  process, num = jax.process_index(), jax.process_count()
  names = [path.relative_to(folder).as_posix() for path in run_folders]
  mirrors = [
    Mirror(_child(root, name), folder / name, process, num) for name in names
  ]
  leases: list[Lease] = []
  with contextlib.ExitStack() as stack:
    release = stack.enter_context(contextlib.ExitStack())
    # One for each run: several processes may run seeds of the same folder.
    if process == 0 and writes:
      buckets = [mirror.bucket for mirror in mirrors]
      leases = lease_lib.take_all(buckets, progress.report)
    for lease in leases:
      release.callback(lease.release)
    sharding.barrier('leased')
    for mirror in mirrors:
      mirror.fetch(_warn)
      if leases:
        mirror.remove_uncommitted()
    release.pop_all()  # `close` releases them.
    storage = BucketStorage(url, folder, mirrors, leases)
    stack.callback(storage.close)
    yield storage


def copy_folder(config, url: str) -> pathlib.Path:
  """Where this process keeps its copy of a run in a bucket."""
  num = jax.process_count()
  label = f'-{jax.process_index()}-of-{num}' if num > 1 else ''
  return bucket_lib.local_folder(url, config.replay.scratch, label)


def _child(bucket, name):
  return bucket.child(name) if name not in ('', '.') else bucket


def _warn(text):
  print(f'warning: {text}', file=sys.stderr, flush=True)
