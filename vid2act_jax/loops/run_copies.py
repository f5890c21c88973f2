"""Local copies of what is in a bucket: of runs, teachers and datasets, to read.

Tools read temporary copies. The datasets and teachers of a run are copied below
`config.replay.scratch` or else the user's cache, where the next start finds
them: it fetches what has changed. A process keeps them for itself while it
runs.
"""

import contextlib
import itertools
import os
import pathlib
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from vid2act_jax.data import bucket as bucket_lib
from vid2act_jax.data import dataset, episodes, files
from vid2act_jax.data import mirror as mirror_lib
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.files import Locked
from vid2act_jax.data.lease import Lease
from vid2act_jax.data.mirror import Mirror
from vid2act_jax.loops import progress
from vid2act_jax.types import UserError

NEWEST = 10  # Episodes of a replay that are fetched to diagnose a run.
Choose = Callable[[Sequence[str]], Iterable[str]]
_REPLAY = re.compile(rf'replay/(?:.*/)?{episodes.FOLDER}/')


def _matching(pattern: str) -> Choose:
  match = re.compile(pattern).match
  return lambda paths: [path for path in paths if match(path)]


def to_read(paths: Sequence[str]) -> list[str]:
  """Chooses what reports read of a run: no episodes, no checkpoints."""
  is_log = lambda path: path.startswith('tensorboard/')
  return [x for x in paths if not (mirror_lib.is_fixed(x) or is_log(x))]


def to_diagnose(paths: Sequence[str]) -> list[str]:
  """Chooses what a diagnosis reads of a run."""
  replay = sorted(path for path in paths if _REPLAY.match(path))
  groups = itertools.groupby(replay, lambda path: path.rpartition('/')[0])
  newest = [path for _, group in groups for path in list(group)[-NEWEST:]]
  return [*to_read(paths), *to_judge(paths), *to_act(paths), *newest]


# Chooses what acting with a run reads.
to_act = _matching(r'(?:config|environment)\.json$|student/')
# Chooses what a run that uses the teacher of another one reads of it.
to_teach = _matching(r'config\.json$|teacher/')
# Chooses what judging a teacher reads of its run.
to_judge = _matching(r'config\.json$|teacher/|sources/[^/]+/(?!agent/)')
_to_sample = _matching(r'(?!agent/)')  # Of a dataset.


def fetch_runs(
  url: str, folder: pathlib.Path, choose: Choose = to_read
) -> pathlib.Path:
  """Fetches what is needed of the runs in a folder of a bucket.

  Args:
    url: of the folder: of a run, of several, or of one inside a run.
    folder: to copy them to.
    choose: the files that are needed, of the names of a run's.

  Returns:
    The folder of the copies.

  Raises:
    UserError: the bucket cannot be used, or there is no run.
  """
  owner, name = mirror_lib.find_owner(Bucket(url))
  folder = folder / bucket_lib.local_folder(url, str(folder)).name
  if name:
    return _fetch(owner, folder, choose, name)
  names = mirror_lib.find_runs(owner)
  if not names:
    raise UserError(f'{url}: no run in it')
  for name in names:
    _fetch(owner.child(name) if name else owner, folder / name, choose)
  return folder


def _fetch(root, folder, choose, name='') -> pathlib.Path:
  """Fetches a folder, or one inside of it; returns its copy."""
  start = f'{name}/' if name else ''

  def choose_inside(paths):
    inside = [x.removeprefix(start) for x in paths if x.startswith(start)]
    return [start + path for path in choose(inside)]

  Mirror(root, folder).fetch(_warn, choose_inside, resumes=False)
  return folder / name


@contextlib.contextmanager
def open_run(
  run: str | os.PathLike, choose: Choose = to_act
) -> Iterator[pathlib.Path]:
  """Yields a run's folder, or a temporary copy of one in a bucket.

  Args:
    run: the folder, or its URL.
    choose: see `fetch_runs`.

  Raises:
    UserError: as `fetch_runs`; and those of the block, with the run's name.
  """
  if not bucket_lib.is_url(run):
    yield pathlib.Path(run).expanduser()
    return
  with tempfile.TemporaryDirectory(prefix='vid2act_jax-') as temporary:
    url = str(run).rstrip('/')
    folder = fetch_runs(url, pathlib.Path(temporary), choose)
    try:
      yield folder
    except UserError as error:
      raise UserError(bucket_lib.rename(str(error), folder, url)) from error


def check_free(url: str) -> None:
  """Checks that no process writes to a run, before `add_results`.

  Raises:
    UserError: one does, or the bucket cannot be used.
  """
  with _leased(url):
    pass


def add_results(url: str, folder: pathlib.Path, names: Sequence[str]) -> None:
  """Adds files to a run in a bucket.

  Args:
    url: of the run.
    folder: of its copy, with the files.
    names: of the files.

  Raises:
    UserError: a process writes there, or the bucket cannot be used.
  """
  with _leased(url) as owner:
    name = url[len(owner.url) + 1 :]
    start = f'{name}/' if name else ''
    root = folder.parents[name.count('/')] if name else folder
    Mirror(owner, root).add([start + x for x in names])


@contextlib.contextmanager
def _leased(url) -> Iterator[Bucket]:
  """Holds the lease of the run that a folder is in."""
  owner, _ = mirror_lib.find_owner(Bucket(url))
  try:
    lease = Lease(owner, progress.report)
  except Locked as error:
    raise UserError(
      f'{url}: a run is writing here, so nothing can be added; wait for it, or'
      ' write to a local folder (--out), or copy the run (gcloud storage cp'
      ' --recursive)'
    ) from error
  try:
    yield owner
  finally:
    lease.release()


class Copies:
  """The copies that a process keeps: of datasets and teachers in buckets."""

  def __init__(self):
    """Starts without copies."""
    self._lock, self._locks = threading.Lock(), contextlib.ExitStack()
    self._folders: dict[str, pathlib.Path] = {}

  def open(
    self, url: str, scratch: str, choose: Choose, file: str = ''
  ) -> pathlib.Path:
    """Returns the copy of a folder, or of a file in it; fetches it once.

    Args:
      url: of the folder.
      scratch: folder of the copies; '': in the user's cache.
      choose: the files that are needed.
      file: its name in the folder.

    Raises:
      UserError: the bucket cannot be used.
    """
    key = f'{url.rstrip("/")}/{file}'.rstrip('/')
    with self._lock:
      if key not in self._folders:
        owner, name = mirror_lib.find_owner(Bucket(url))
        with contextlib.ExitStack() as stack:
          folder = stack.enter_context(_take_folder(key, scratch))
          progress.report(f'fetching {key}')
          folder = folder / pathlib.Path(owner.url).name
          self._folders[key] = _fetch(owner, folder, choose, name) / file
          self._locks.push(stack.pop_all())
      return self._folders[key]

  def named(self, text: str) -> str:
    """Replaces the names of copies in a text by those for users."""
    for url, folder in self._folders.items():
      text = bucket_lib.rename(text, folder, url)
    return text

  def close(self) -> None:
    """Leaves the copies to other processes."""
    self._locks.close()
    self._folders.clear()


@contextlib.contextmanager
def _take_folder(url, scratch) -> Iterator[pathlib.Path]:
  """Locks a folder for a copy, the first that no other process uses."""
  with contextlib.ExitStack() as stack:
    for index in itertools.count():
      folder = bucket_lib.local_folder(url, scratch, f'-read-{index}')
      with contextlib.suppress(Locked):
        stack.enter_context(files.lock(folder))
        break
    yield folder


COPIES = Copies()


def open_dataset(url: str, scratch: str) -> pathlib.Path:
  """Returns the copy of a dataset that is only read.

  Raises:
    UserError: the bucket cannot be used, or there is no complete dataset.
  """
  folder = COPIES.open(url, scratch, _to_sample)
  path = folder / dataset.FILE
  if not path.exists() or not dataset.read_metadata(folder, True)['complete']:
    raise UserError(
      f'{url}: no complete dataset, and a run collects none there; collect it'
      ' in its own folder (without config.source_dir), or copy it there'
    )
  return folder


def open_teacher(url: str, scratch: str) -> pathlib.Path:
  """Returns the copy of what is read of a run to use its teacher.

  Raises:
    UserError: the bucket cannot be used.
  """
  return COPIES.open(url, scratch, to_teach)


def open_file(url: str, scratch: str) -> pathlib.Path:
  """Returns the copy of a file, which may be missing.

  Raises:
    UserError: the bucket cannot be used.
  """
  parent, _, name = url.rpartition('/')
  return COPIES.open(parent, scratch, lambda paths: {name} & {*paths}, name)


def _warn(text):
  print(f'warning: {text}', file=sys.stderr, flush=True)
