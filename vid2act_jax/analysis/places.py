"""Where the runs of a command are: on this machine, or copied from buckets."""

import argparse
import contextlib
import pathlib
import tempfile
from typing import TextIO

from vid2act_jax.data import bucket, weights
from vid2act_jax.loops import run_copies


class Places:
  """Runs in buckets, and where their copies are until the command ends."""

  def __init__(self, stack: contextlib.ExitStack):
    """stack: closes the copies."""
    self._stack = stack
    self._urls: dict[pathlib.Path, str] = {}  # By the folder of the copy.

  def fetch(self, args: argparse.Namespace, choose: run_copies.Choose) -> None:
    """Replaces URLs in the arguments by folders of copies.

    Args:
      args: of the command.
      choose: the files of a run that are fetched.

    Raises:
      UserError: a bucket cannot be used, or there is no run or dataset.
    """
    self._stack.callback(run_copies.COPIES.close)

    def fetch_run(url):
      if not bucket.is_url(url):
        return url
      if url.endswith(weights.SUFFIXES):
        return run_copies.open_file(url, '')
      temporary = tempfile.TemporaryDirectory(prefix='vid2act_jax-')
      folder = pathlib.Path(self._stack.enter_context(temporary))
      folder = run_copies.fetch_runs(url, folder, choose)
      self._urls[folder] = url.rstrip('/')
      return folder

    def fetch_dataset(url):
      return run_copies.open_dataset(url, '') if bucket.is_url(url) else url

    for name, fetch in (
      ('runs', fetch_run),
      ('run_folder', fetch_run),
      ('run_or_file', fetch_run),
      ('data', fetch_dataset),
    ):
      value = getattr(args, name, None)
      if isinstance(value, list):
        setattr(args, name, [fetch(item) for item in value])
      elif value:
        setattr(args, name, fetch(value))

  def named(self, text: str) -> str:
    """Replaces the names of copies in a text by those of what is copied."""
    for folder, url in self._urls.items():
      text = bucket.rename(text, folder, url)
    return run_copies.COPIES.named(text)

  def show(self, text: object, file: TextIO | None = None) -> None:
    """Prints a text with the names in the buckets."""
    print(self.named(str(text)), file=file, flush=True)

  def check_free(self, run: pathlib.Path | None) -> None:
    """Checks that results can be added to a run; None: to no run.

    Raises:
      UserError: it is in a bucket, and a process writes there.
    """
    if url := self._url_of(run):
      run_copies.check_free(url)

  def add(self, run: pathlib.Path | None, *names: str) -> None:
    """Adds files of a run's copy to the run in its bucket, if it is in one.

    Raises:
      UserError: a process writes there, or the bucket cannot be used.
    """
    if url := self._url_of(run):
      run_copies.add_results(url, run, names)

  def _url_of(self, run):
    if run is None:
      return ''
    name = self.named(str(run))
    return name if bucket.is_url(name) else ''
