"""A lease on a folder of a bucket: what a lock is on a file system."""

import concurrent.futures
import contextlib
import datetime
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from vid2act_jax.data.bucket import Bucket, Changed, to_json
from vid2act_jax.data.files import Locked
from vid2act_jax.types import UserError

NAME = '.vid2act/lease.json'
_SECONDS = 30.0  # Without a renewal for this long its owner counts as dead.
_RENEWALS = 4  # In that time.
_POLL = 1.0  # Seconds.


class _Cancelled(Exception):
  """Another lease of `take_all` was refused."""


def take_all(
  buckets: Sequence[Bucket], report: Callable[[str], None]
) -> list['Lease']:
  """Takes the leases of several folders; waits for all at the same time.

  Args:
    buckets: the folders.
    report: prints a line; several threads call it.

  Raises:
    Locked: another process renews one of them; then none is held.
    UserError: the bucket cannot be used; then none is held.
  """
  if not buckets:
    return []
  cancelled = threading.Event()
  with concurrent.futures.ThreadPoolExecutor(len(buckets)) as pool:
    args = report, cancelled
    futures = [pool.submit(Lease, bucket, *args) for bucket in buckets]
    try:
      concurrent.futures.wait(futures, return_when='FIRST_EXCEPTION')
      ended = [future for future in futures if future.done()]
      errors = [error for x in ended if (error := x.exception())]
      if not errors:
        return [future.result() for future in futures]
    except BaseException:
      _cancel(futures, cancelled)
      raise
    _cancel(futures, cancelled)
  raise errors[0]


def _cancel(futures, cancelled):
  """Ends the waiting for leases, and those that have been taken."""
  cancelled.set()
  for future in futures:
    if not future.exception():
      future.result().release()


class Lease:
  """An object that names the process that writes a folder; it is renewed.

  No clock of another machine is trusted: a lease has expired when it has not
  changed while this process waited. The object is only written where it has
  the generation that was read, so that no two processes take it.
  """

  def __init__(
    self,
    bucket: Bucket,
    report: Callable[[str], None],
    cancelled: threading.Event | None = None,
  ):
    """Takes the lease.

    Args:
      bucket: the folder.
      report: prints a line.
      cancelled: ends the waiting, by an error; for `take_all`.

    Raises:
      Locked: another process renews it.
      UserError: the bucket cannot be used.
    """
    self._bucket, self._id = bucket, uuid.uuid4().hex
    self._lost = ''
    self._generation = self._take(report, cancelled or threading.Event())
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises a UserError if another process has taken the lease."""
    if self._lost:
      raise UserError(
        f'{self._bucket.url}: another process has taken over ({self._lost}),'
        ' since this one did not renew its lease in time; nothing more is'
        ' written. Start each run only once'
      )

  def release(self) -> None:
    """Ends the lease."""
    self._ended.set()
    self._thread.join()
    if self._lost:
      return
    # If the bucket fails, the lease expires.
    with contextlib.suppress(UserError, Changed):
      self._bucket.remove_generation(NAME, self._generation)

  def _content(self):
    now = datetime.datetime.now(datetime.UTC)
    return to_json(
      {
        'owner': f'process {os.getpid()} on {platform.node()}',
        'id': self._id,
        'time': now.isoformat(timespec='seconds'),
        'seconds': _SECONDS,
      }
    )

  def _take(self, report, cancelled):
    """Returns the generation of the lease once it is this process's."""
    generation, deadline, owner = 0, 0.0, ''
    while True:
      try:
        found = self._bucket.read(NAME)
        if not found:
          return self._bucket.write(NAME, self._content(), 0)
        if found[1] != generation and generation:
          raise Locked(
            f'{self._bucket.url}: another process is writing here'
            f' ({_describe(found[0])[0]}); wait for it, or choose another'
            ' folder.'
          )
        if not generation:
          generation = found[1]
          owner, seconds = _describe(found[0])
          deadline = time.monotonic() + seconds
          report(
            f'{self._bucket.url}: waiting up to {seconds:.0f} s for {owner},'
            ' which wrote here last'
          )
        if time.monotonic() >= deadline:
          taken = self._bucket.write(NAME, self._content(), generation)
          report(f'{self._bucket.url}: took over from {owner}, which has died')
          return taken
      except Changed:
        continue
      if cancelled.wait(min(_POLL, max(deadline - time.monotonic(), 0))):
        raise _Cancelled

  def _renew(self):
    while not self._ended.wait(_SECONDS / _RENEWALS):
      try:
        self._generation = self._bucket.write(
          NAME, self._content(), self._generation
        )
      except Changed:
        found = None
        with contextlib.suppress(UserError):
          found = self._bucket.read(NAME)
        if found and json.loads(found[0]).get('id') == self._id:
          self._generation = found[1]  # Written, but the answer was lost.
          continue
        self._lost = _describe(found[0])[0] if found else 'it was removed'
        return
      except UserError:
        continue  # Tried again; whoever takes over ends this process.


def _describe(content):
  """Owner and seconds of a lease; also of a damaged one."""
  try:
    lease = json.loads(content)
    owner = f'{lease["owner"]}, renewed at {lease["time"]}'
    return owner, min(max(float(lease['seconds']), 0.0), 600.0)
  except (ValueError, KeyError, TypeError):
    return 'an unknown process', _SECONDS
