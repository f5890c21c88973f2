"""Runs the points of a grid, several at a time, here and on other machines.

A point is a process of `experiments.run`. Grids over one folder share the
points out by locks: each starts what is ready and no other is at.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from experiments.grid.jobs import Job
from vid2act_jax.data import files
from vid2act_jax.loops.preemption import EXIT_STATUS

PROGRAM = sys.executable, '-m', 'experiments.run'
_TICK = 0.2  # Seconds between looks at the processes here,
_LOOK = 5.0  # and at points that another grid is at.
_TOLD = 12  # Lines of a failed run's log.


def log_of(point: Job) -> pathlib.Path:
  """Where a point's process writes what it says."""
  return point.workdir.parent / 'logs' / f'{point.name}.log'


def describe(points: list[Job]) -> dict[str, str]:
  """{name: done, running, failed, half, todo or spare} of points.

  Spare: not there, but all that needed it is done.
  """
  states = {}
  for point in reversed(points):  # What needs it comes first.
    users = [p for p in points if point.name in p.needs]
    if point.is_done():
      states[point.name] = 'done'
    elif users and all(states[p.name] in ('done', 'spare') for p in users):
      states[point.name] = 'spare'
    elif _is_running(point):
      states[point.name] = 'running'
    elif _mark_of(point).exists():
      states[point.name] = 'failed'
    else:
      states[point.name] = 'half' if point.workdir.exists() else 'todo'
  return {point.name: states[point.name] for point in points}


class _Child:
  """A point's process, and the lock that keeps others from starting it."""

  def __init__(self, point: Job, gpu: str | None, lock: contextlib.ExitStack):
    self.point, self._lock = point, lock
    self._began = time.monotonic()
    self.asked = False
    command = [*PROGRAM, *point.arguments, f'--workdir={point.workdir}']
    environment = dict(os.environ)
    if gpu is not None:
      environment['CUDA_VISIBLE_DEVICES'] = gpu
    path = log_of(point)
    files.make_folder(path.parent)
    _mark_of(point).unlink(missing_ok=True)
    with open(path, 'ab') as log:
      log.write(f'$ {shlex.join(command)}\n'.encode())
      log.flush()
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        # A Ctrl-C is for the grid, which tells its runs.
        start_new_session=True,
      )

  def ask(self):
    """Asks it to save and stop."""
    self.asked = True
    self._process.terminate()

  def kill(self):
    """Ends it at once; the point goes on from its last checkpoint."""
    self.asked = True
    self._process.kill()

  def ended(self, stops: bool) -> str | None:
    """How it ended.

    Args:
      stops: whether the grid was asked to stop, as it may have been, too.

    Returns:
      'done', 'saved' or 'failed'; None while it runs.
    """
    status = self._process.poll()
    if status is None:
      return None
    self._lock.close()
    # Asked before it listens, or killed: then it goes on where it had saved.
    stopped = (self.asked or stops) and status in (
      -signal.SIGTERM,
      -signal.SIGKILL,
    )
    if status == EXIT_STATUS or stopped:
      return 'saved'
    if status == 0 and self.point.is_done():
      return 'done'
    _mark_of(self.point).write_text(f'status {status}\n')
    return 'failed'

  def minutes(self) -> str:
    """How long it has been running."""
    return f'{(time.monotonic() - self._began) / 60:.1f} min'


class Runner:
  """Runs points until all are done, one has failed, or it is asked to stop."""

  def __init__(
    self,
    points: list[Job],
    gpus: list[str | None],
    keep_going: bool = False,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
  ):
    """Takes the points, in an order in which they can be done.

    Args:
      points: of `jobs.make`.
      gpus: for each job at once, the one it sees; None: all there are.
      keep_going: whether the others go on when one has failed.
      say: takes a line of progress.
    """
    states = describe(points)
    self._done = {n for n, s in states.items() if s in ('done', 'spare')}
    self._left = [p for p in points if p.name not in self._done]
    self._total = len(points)
    self._keep_going, self._say = keep_going, say
    self._gpus = gpus
    self._children: dict[int, _Child] = {}  # By slot.
    self._failed = self._saved = self._waiting = False
    self._signals: list[int] = []
    self._heard = 0
    self._next_look = 0.0

  def run(self) -> int:
    """Starts and watches the processes.

    Returns:
      The exit status: 0; 1 when a point has failed; 75 when it was asked to
      stop, or a run was: the same command goes on.

    Raises:
      UserError: a folder cannot be written.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, self._hear) for n in numbers}
    self._say(f'{len(self._done)} of {self._total} points are done')
    try:
      while self._children or (self._left and not self._stops()):
        self._look()
        time.sleep(_TICK)
        self._pass_on()
        self._take_ended()
    except BaseException:  # Nobody would watch over them.
      for child in self._children.values():
        child.ask()
      raise
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)
    if self._failed:
      return 1
    return EXIT_STATUS if self._signals or self._saved else 0

  def _hear(self, number, unused_frame):
    self._signals.append(number)

  def _stops(self):
    return bool(self._signals) or (self._failed and not self._keep_going)

  def _look(self):
    """Starts what is ready, where there is room."""
    now = time.monotonic()
    full = len(self._children) == len(self._gpus)
    if full or self._stops() or now < self._next_look:
      return
    self._next_look = now + _LOOK
    children = [child.point for child in self._children.values()]
    pending = {point.name for point in [*self._left, *children]}
    for point in list(self._left):
      if pending.isdisjoint(point.needs):
        self._try(point)
    if self._left and not self._children and not self._waiting:
      self._say(f'{len(self._left)} points left, under way elsewhere: waiting')
    self._waiting = not self._children

  def _try(self, point):
    """Starts a point, unless it is done or under way elsewhere."""
    free = [i for i in range(len(self._gpus)) if i not in self._children]
    if not free:
      return
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(files.lock(_lock_of(point)))
        # Not by a grid, or by one that was killed and left it running.
        for folder in filter(pathlib.Path.exists, point.written()):
          with files.lock(folder):
            pass
      except files.Locked:
        return
      self._left.remove(point)
      if point.is_done():
        self._end(point, 'done, elsewhere')
        return
      child = _Child(point, self._gpus[free[0]], stack.pop_all())
    self._children[free[0]] = child
    self._say(f'started {point.name}, says {log_of(point)}')

  def _pass_on(self):
    """Asks the processes to stop, and kills them when asked again."""
    before, self._heard = self._heard, len(self._signals)
    for child in self._children.values():
      if self._stops() and not child.asked:
        child.ask()
      elif 0 < before < self._heard:
        child.kill()

  def _take_ended(self):
    for slot, child in list(self._children.items()):
      end = child.ended(bool(self._signals))
      if not end:
        continue
      del self._children[slot]
      self._next_look = 0.0  # There is room, and more may be ready.
      if end == 'done':
        self._end(child.point, f'done in {child.minutes()}')
      else:
        self._drop(child.point, end)

  def _end(self, point, how):
    self._done.add(point.name)
    self._next_look = 0.0
    self._say(f'[{len(self._done)}/{self._total}] {point.name}: {how}')

  def _drop(self, point, end):
    """Of one that did not get to its end; what needs it is left out."""
    name = point.name
    if end == 'saved':
      self._saved = True
      self._say(f'{name}: saved, the same command goes on')
    else:
      self._failed = True
      self._say(f'{name}: failed; the end of {log_of(point)}:\n{_tail(point)}')
    lost = {name}
    for other in list(self._left):  # In the order of their needs.
      if lost.intersection(other.needs):
        lost.add(other.name)
        self._left.remove(other)
    if len(lost) > 1 and not self._stops():
      self._say(f'left out, for they need {name}: {len(lost) - 1} points')


def _lock_of(point):
  return point.workdir.parent / 'locks' / point.name


def _mark_of(point):
  return log_of(point).with_suffix('.failed')


def _is_running(point):
  """Whether a grid is at it."""
  folder = _lock_of(point)
  if not folder.exists():
    return False
  try:
    with files.lock(folder):
      return False
  except files.Locked:
    return True


def _tail(point):
  text = log_of(point).read_text(errors='replace')
  lines = [line for line in text.splitlines() if line.strip()]
  return '\n'.join(f'  | {line}' for line in lines[-_TOLD:])
