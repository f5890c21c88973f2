"""A run folder in a bucket, and its local copy.

The folder's manifest lists its files with their objects and hashes. It is
written last, so that it always names whole objects: a process that is killed
while it uploads leaves the folder as of the commit before. Files of checkpoints
and episodes are never replaced while the manifest names them; logs may be
newer than the manifest, as a resumed run cuts them back.
"""

import json
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from vid2act_jax.data import bucket as bucket_lib
from vid2act_jax.data import dataset, episodes, files, storage
from vid2act_jax.data.bucket import Bucket, Changed
from vid2act_jax.types import UserError

MANIFEST = '.vid2act/manifest.json'
_PART = '.vid2act/part-{}.json'  # The files of another process.
_ATTEMPTS = 3  # To fetch what is being written.
_SNAPSHOT = '.snapshot-'  # Prefix of local folders of links.
_RUN_FILES = 'config.json', 'metrics.jsonl', 'starts.jsonl'
# Caches, and what is being written.
_SKIPPED = re.compile(
  r'embeddings/|(?:.*/)?(?:\.|[^/]*\.tmp$|[^/]*orbax-checkpoint-tmp)'
)
# Files whose content must be that of the commit.
_FIXED = re.compile(
  rf'(?:.*/)?(?:(?:teacher|student)/[^/]*\d+/.*'
  # An object that replaces an older one has a hash behind its name.
  rf'|{episodes.FOLDER}/[^/]*\.npz(?:\.[0-9a-f]{{8}})?)'
)
# Where a run has them; other folders may hold other runs.
_LAYOUT = re.compile(r'(?:teachers?|student|sources|replay)/')
_EPISODE = re.compile(rf'(?:.*/)?{episodes.FOLDER}/[^/]*\.npz')
_METADATA = re.compile(rf'(?:.*/)?{re.escape(dataset.FILE)}')
_LOGS = re.compile(
  r'(?:metrics\.jsonl|starts\.jsonl|summary\.png|(?:tensorboard|videos|strips'
  r'|wandb)/.*)'
)
_SHARD = re.compile(r'(?:.*/)?(\d+)-of-(\d+)/')


class Entry(NamedTuple):
  """A committed file: its object, bytes and MD5 hash."""

  object: str
  size: int
  md5: str


def is_fixed(path: str) -> bool:
  """Whether a file of a run is of a checkpoint or an episode."""
  return bool(_FIXED.fullmatch(path))


class Snapshot(NamedTuple):
  """Links to files of a copy, as they were; folder: of the links."""

  folder: pathlib.Path
  paths: list[str]


class Mirror:
  """The copy of one run folder in a bucket."""

  def __init__(
    self,
    bucket: Bucket,
    folder: pathlib.Path,
    process: int = 0,
    num_processes: int = 1,
  ):
    """Reads and writes nothing yet.

    Args:
      bucket: the run folder in the bucket.
      folder: of the copy, for this process alone.
      process: index of this process; 0 uploads all but the replays of others.
      num_processes: their number.
    """
    self.bucket, self.folder = bucket, folder
    self._process, self._num_processes = process, num_processes
    self._entries: dict[str, Entry] = {}  # Committed.
    self._generation: int | None = None  # Of the manifest; None: not read.
    self._hashes: dict[str, tuple[tuple, str]] = {}
    self._lock = threading.RLock()

  def fetch(
    self,
    warn: Callable[[str], None],
    choose: Callable[[Sequence[str]], Iterable[str]] = lambda paths: paths,
    resumes: bool = True,
  ) -> None:
    """Makes the local folder equal to the last commit.

    Other local files are removed, except caches.

    Args:
      warn: called with a sentence for each object that is missing or damaged;
        its file is missing then.
      choose: the files to fetch, of the names of all.
      resumes: False: a folder that was copied there, without a manifest, is
        read as well.

    Raises:
      UserError: the bucket cannot be used, or holds a run without a manifest.
    """
    lost: list[str] = []
    generation = None
    with self._lock:
      for _ in range(_ATTEMPTS):
        self._read_manifest(resumes)
        if self._generation == generation:
          break
        generation = self._generation
        lost = self._fetch_once(choose)
        if not lost:  # Else a commit may have removed what it replaced.
          break
    for text in lost:
      warn(text)

  def _fetch_once(self, choose) -> list[str]:
    """Makes the folder equal to the manifest; returns what was wrong."""
    files.make_folder(self.folder)
    for path in self._walk():
      if path not in self._entries:
        (self.folder / path).unlink(missing_ok=True)
    for name in '*orbax-checkpoint-tmp*', f'{_SNAPSHOT}*':
      for path in self.folder.rglob(name):
        storage.remove_tree(path)
    missing = [
      path
      for path in dict.fromkeys(choose(list(self._entries)))
      if not self._is_others(path)
      and not self._is_equal(path, self._entries[path])
    ]
    return [*filter(None, bucket_lib.for_each(self._download, missing))]

  def remove_uncommitted(self) -> None:
    """Removes what a killed process has uploaded, but not committed."""
    with self._lock:
      known = {entry.object for entry in self._entries.values()}
      self.bucket.remove(
        name
        for name in self.bucket.list()
        if _LAYOUT.match(name) and _FIXED.fullmatch(name) and name not in known
      )

  def upload(self) -> dict[str, Entry]:
    """Uploads this process's files that have changed; returns all of them."""
    with self._lock:
      return self._upload(path for path in self._walk() if self._owns(path))

  def snapshot(self) -> Snapshot | None:
    """Keeps this process's files as they are, for `commit_snapshot`.

    Those that are written in place, which are logs, may grow.

    Returns:
      The snapshot; None: the file system has no hard links.
    """
    names = [path for path in self._walk() if self._owns(path)]
    folder = pathlib.Path(tempfile.mkdtemp(prefix=_SNAPSHOT, dir=self.folder))
    for parent in {(folder / path).parent for path in names}:
      files.make_folder(parent)
    paths = []
    for path in names:
      try:
        os.link(os.path.realpath(self.folder / path), folder / path)
      except FileNotFoundError:  # A log that was replaced meanwhile.
        continue
      except OSError:
        storage.remove_tree(folder)
        return None
      paths.append(path)
    return Snapshot(folder, paths)

  def commit_snapshot(
    self, snapshot: Snapshot, check: Callable[[], None]
  ) -> None:
    """Uploads and commits a snapshot, and removes its links.

    Args:
      snapshot: from `snapshot`, later than those of earlier calls.
      check: called before the commit; raises an error if it must not be.

    Raises:
      UserError: the bucket cannot be used, or another process writes there.
    """
    try:
      # `flush` may not come in between: what it commits may be newer.
      with self._lock:
        entries = self._upload(snapshot.paths, snapshot.folder)
        check()
        self.commit(entries)
    finally:
      storage.remove_tree(snapshot.folder)

  def add(self, paths: Sequence[str]) -> None:
    """Commits files of the copy on top of what is in the bucket.

    Args:
      paths: of logs and results, not of checkpoints or episodes.

    Raises:
      UserError: the bucket cannot be used, or another process writes there.
    """
    with self._lock:
      self._read_manifest(resumes=False)
      added = self._upload(paths)
      if self._generation:  # Else it was copied there, without a manifest.
        self._write({**self._entries, **added})

  def flush(self) -> None:
    """Commits logs and whole episodes; removes nothing.

    Raises:
      UserError: the bucket cannot be used.
    """
    with self._lock:
      if self._generation is None:
        return
      # Before the episodes: complete metadata promises them.
      paths = [path for path in self._walk() if self._owns(path)]
      first = {p: self._hash(p) for p in paths if _METADATA.fullmatch(p)}
      late = [p for p in self._walk() if self._owns(p)]
      late = [p for p in late if _EPISODE.fullmatch(p) or _LOGS.fullmatch(p)]
      entries = self._upload(late)
      entries |= self._upload(p for p, md5 in first.items() if md5)
      changed = {p: e for p, e in entries.items() if self._entries.get(p) != e}
      # One that has changed since is left to the next call.
      for path, md5 in first.items():
        if path in changed and changed[path].md5 != md5:
          del changed[path]
      if changed:
        # A resumed run may have recorded an episode again, longer or shorter.
        new = {_number(path) for path in changed if _EPISODE.fullmatch(path)}
        kept = {
          path: entry
          for path, entry in self._entries.items()
          if not (_EPISODE.fullmatch(path) and _number(path) in new)
        }
        self._write({**kept, **changed})

  def share(self, entries: Mapping[str, Entry]) -> None:
    """Passes this process's files to process 0, for `commit`."""
    data = bucket_lib.to_json(entries)
    self.bucket.write(_PART.format(self._process), data)

  def commit(self, entries: Mapping[str, Entry]) -> None:
    """Makes these files, and those shared by others, the folder's content.

    Args:
      entries: from `upload`.

    Raises:
      UserError: the bucket cannot be used, or another process writes there.
    """
    with self._lock:
      merged = dict(entries)
      for process in range(1, self._num_processes):
        part = self.bucket.read(_PART.format(process))
        if part is None:
          raise UserError(
            f'{self.bucket.url}: the files of process {process} are missing;'
            ' start again: it resumes from the last commit'
          )
        merged |= _parse(part[0])
      old = {entry.object for entry in self._entries.values()}
      if merged != self._entries:
        self._write(merged)
      new = {entry.object for entry in merged.values()}
      self.bucket.remove(old - new)

  def _read_manifest(self, resumes):
    found = self.bucket.read(MANIFEST)
    if found:
      self._generation = found[1]
      try:
        self._entries = _parse(found[0])
      except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
          f'{self.bucket.url}/{MANIFEST} is damaged ({error}); restore an older'
          ' version of it, or choose another folder'
        ) from error
      return
    self._generation = 0
    objects = self.bucket.list()
    if resumes and not objects.keys().isdisjoint(_RUN_FILES):
      raise UserError(
        f'{self.bucket.url}: holds a run without {MANIFEST}, which was removed,'
        ' or the run was copied there; restore it, or choose another folder'
      )
    self._entries = {
      name: Entry(name, *stored)
      for name, stored in objects.items()
      if not resumes and not _SKIPPED.match(name)
    }

  def _write(self, entries):
    """Writes the manifest."""
    try:
      self._generation = self.bucket.write(
        MANIFEST, bucket_lib.to_json(entries), self._generation
      )
    except Changed as error:
      raise UserError(
        f'{self.bucket.url}: another process writes here; start each run only'
        ' once'
      ) from error
    self._entries = dict(entries)

  def _walk(self) -> list[str]:
    """Names of the files of the copy."""
    names = []
    for path in files.walk_files(self.folder):
      name = path.relative_to(self.folder).as_posix()
      if not _SKIPPED.match(name):
        names.append(name)
    return sorted(names)

  def _is_others(self, path):
    """Whether it is of another of the present processes."""
    shard = _SHARD.match(path)
    return (
      bool(shard)
      and int(shard[2]) == self._num_processes
      and int(shard[1]) != self._process
    )

  def _owns(self, path):
    shard = _SHARD.match(path)
    if shard and int(shard[2]) == self._num_processes:
      return int(shard[1]) == self._process
    return self._process == 0

  def _hash(self, path, folder=None) -> str:
    """The MD5 of a local file, or of its link; '' if it is missing."""
    try:
      file = (folder or self.folder) / path
      stat = os.stat(file)
      key = stat.st_size, stat.st_mtime_ns, stat.st_ino
      if self._hashes.get(path, ((), ''))[0] != key:
        md5 = bucket_lib.md5_of(file)
        self._hashes[path] = key, md5
      return self._hashes[path][1]
    except FileNotFoundError:
      return ''

  def _is_equal(self, path, entry):
    return bool(entry.md5) and self._hash(path) == entry.md5

  def _upload(
    self, paths: Iterable[str], folder: pathlib.Path | None = None
  ) -> dict[str, Entry]:
    """Uploads files that have changed, or their links in a folder."""
    entries, changed = {}, []
    for path in paths:
      md5, old = self._hash(path, folder), self._entries.get(path)
      if old and old.md5 == md5:
        entries[path] = old
      elif md5:
        name = path
        if old and _FIXED.fullmatch(path):
          name = f'{path}.{md5[:8]}'
        size = self._hashes[path][0][0]
        entries[path] = Entry(name, size, md5)
        changed.append(path)

    def upload_one(path):
      try:
        file = (folder or self.folder) / path
        self.bucket.upload(file, entries[path].object)
      except FileNotFoundError:  # A log that was replaced meanwhile.
        return path
      return None

    for path in filter(None, bucket_lib.for_each(upload_one, changed)):
      del entries[path]
    return entries

  def _download(self, path) -> str | None:
    """Fetches a file; returns what is wrong with its object."""
    entry, target = self._entries[path], self.folder / path
    files.make_folder(target.parent)
    temporary = target.with_name(target.name + files.TEMPORARY)
    where = f'{self.bucket.url}/{entry.object}'
    if not self.bucket.download(entry.object, temporary):
      target.unlink(missing_ok=True)
      return f'{where} was removed; restore it, if the run needs it'
    fixed = _FIXED.fullmatch(path) and entry.md5
    if fixed and bucket_lib.md5_of(temporary) != entry.md5:
      temporary.unlink()
      target.unlink(missing_ok=True)
      return f'{where} is damaged or not whole, and is not used'
    os.replace(temporary, target)
    return None


def find_runs(bucket: Bucket, depth: int = 3) -> list[str]:
  """Names of the runs in a folder, or at most `depth` levels below it.

  Returns:
    Relative names; [''] if the folder itself is a run.

  Raises:
    UserError: the bucket cannot be used.
  """
  names = {
    name.removesuffix(file).rstrip('/')
    for name in bucket.list()
    for file in (MANIFEST, *_RUN_FILES)
    if f'/{name}'.endswith(f'/{file}')
  }
  # Agents that collected a dataset lie in its folder.
  outer = lambda name: (
    [name[: match.start()] for match in re.finditer('/', name)]
    + ([''] if name else [])
  )
  found = [name for name in names if names.isdisjoint(outer(name))]
  return sorted(name for name in found if name.count('/') < depth)


def find_owner(bucket: Bucket) -> tuple[Bucket, str]:
  """Finds the run that a folder is in.

  Returns:
    The run's folder, and the name in it of the given one. Without a run, the
    given one and ''.

  Raises:
    UserError: the bucket cannot be used.
  """
  owner: Bucket | None = bucket
  while owner:
    if owner.read(MANIFEST):
      return owner, bucket.url[len(owner.url) + 1 :]
    owner = owner.parent()
  return bucket, ''


def _number(path):
  """Folder and index of an episode."""
  return path.rpartition('-')[0]


def _parse(data) -> dict[str, Entry]:
  """Reads a manifest; its names stay inside the folder."""
  entries = {}
  for path, values in json.loads(data).items():
    entry = Entry(str(values[0]), int(values[1]), str(values[2]))
    for name in path, entry.object:
      if name.startswith('/') or not {'', '.', '..'}.isdisjoint(
        name.split('/')
      ):
        raise ValueError(f'it names {name!r}')
    entries[path] = entry
  return entries
