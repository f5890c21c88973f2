"""Runs the jobs of a grid, several in parallel, on one or more machines.

A job is a process of `experiments.run`. Runners that share a folder split the
jobs between them by locks: each starts jobs that are ready and not locked.
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
_PROCESS_POLL_SECONDS = 0.2  # For processes of this runner.
_LOCK_POLL_SECONDS = 5.0  # For jobs of other runners.
_LOG_TAIL_LINES = 12  # Printed of a failed job's log.


def log_path(job: Job) -> pathlib.Path:
  """The file with the output of a job's process."""
  return job.workdir.parent / 'logs' / f'{job.name}.log'


def job_states(jobs: list[Job]) -> dict[str, str]:
  """Returns {name: done, running, failed, partial, todo or unneeded}.

  An unneeded job is not done, but all jobs that depend on it are.
  """
  states = {}
  for job in reversed(jobs):  # Dependents come first.
    dependents = [j for j in jobs if job.name in j.deps]
    if job.is_done():
      states[job.name] = 'done'
    elif dependents and all(
      states[j.name] in ('done', 'unneeded') for j in dependents
    ):
      states[job.name] = 'unneeded'
    elif _is_running(job):
      states[job.name] = 'running'
    elif _failed_path(job).exists():
      states[job.name] = 'failed'
    else:
      states[job.name] = 'partial' if job.workdir.exists() else 'todo'
  return {job.name: states[job.name] for job in jobs}


class _Process:
  """A job's process, and the lock that keeps others from starting it."""

  def __init__(self, job: Job, gpu: str | None, lock: contextlib.ExitStack):
    self.job, self._lock = job, lock
    self._started = time.monotonic()
    self.stop_requested = False
    command = [*PROGRAM, *job.arguments, f'--workdir={job.workdir}']
    environment = dict(os.environ)
    if gpu is not None:
      environment['CUDA_VISIBLE_DEVICES'] = gpu
    path = log_path(job)
    files.make_folder(path.parent)
    _failed_path(job).unlink(missing_ok=True)
    with open(path, 'ab') as log:
      log.write(f'$ {shlex.join(command)}\n'.encode())
      log.flush()
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        # Only the runner gets a Ctrl-C; it forwards the signal.
        start_new_session=True,
      )

  def terminate(self):
    """Requests that it saves and stops."""
    self.stop_requested = True
    self._process.terminate()

  def kill(self):
    """Kills it; the job resumes later from its last checkpoint."""
    self.stop_requested = True
    self._process.kill()

  def poll(self, stopping: bool) -> str | None:
    """Checks whether it has ended.

    Args:
      stopping: whether the runner was asked to stop; the process may have got
        the same signal.

    Returns:
      'done', 'saved' or 'failed'; None while it runs.
    """
    status = self._process.poll()
    if status is None:
      return None
    self._lock.close()
    # Killed, or terminated before its signal handler was set: it resumes from
    # its last checkpoint.
    stopped = (self.stop_requested or stopping) and status in (
      -signal.SIGTERM,
      -signal.SIGKILL,
    )
    if status == EXIT_STATUS or stopped:
      return 'saved'
    if status == 0 and self.job.is_done():
      return 'done'
    _failed_path(self.job).write_text(f'status {status}\n')
    return 'failed'

  def elapsed(self) -> str:
    """Returns the time since its start."""
    return f'{(time.monotonic() - self._started) / 60:.1f} min'


class Runner:
  """Runs jobs until all are done, one has failed, or it is asked to stop."""

  def __init__(
    self,
    jobs: list[Job],
    gpus: list[str | None],
    keep_going: bool = False,
    log_fn: Callable[[str], None] = lambda text: print(text, flush=True),
  ):
    """Initialises the runner.

    Args:
      jobs: from `make_jobs`, in the order of their dependencies.
      gpus: the GPU of each parallel job; None: all GPUs.
      keep_going: whether to continue with the other jobs when one has failed.
      log_fn: called with each line of progress.
    """
    states = job_states(jobs)
    self._done = {n for n, s in states.items() if s in ('done', 'unneeded')}
    self._pending = [j for j in jobs if j.name not in self._done]
    self._total = len(jobs)
    self._keep_going, self._log = keep_going, log_fn
    self._gpus = gpus
    self._processes: dict[int, _Process] = {}  # By slot.
    self._failed = self._saved = self._waiting = False
    self._signals: list[int] = []
    self._num_forwarded = 0
    self._next_poll = 0.0

  def run(self) -> int:
    """Starts the processes and waits for them.

    Returns:
      The exit status: 0; 1 if a job has failed; 75 if the runner or a job was
      asked to stop: the same command resumes.

    Raises:
      UserError: a folder cannot be written.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {n: signal.signal(n, self._on_signal) for n in numbers}
    self._log(f'{len(self._done)} of {self._total} jobs are done')
    try:
      while self._processes or (self._pending and not self._stopping()):
        self._start_ready()
        time.sleep(_PROCESS_POLL_SECONDS)
        self._forward_signals()
        self._reap()
    except BaseException:  # The processes must not run without a runner.
      for process in self._processes.values():
        process.terminate()
      raise
    finally:
      for number, handler in handlers.items():
        signal.signal(number, handler)
    if self._failed:
      return 1
    return EXIT_STATUS if self._signals or self._saved else 0

  def _on_signal(self, number, unused_frame):
    self._signals.append(number)

  def _stopping(self):
    return bool(self._signals) or (self._failed and not self._keep_going)

  def _start_ready(self):
    """Starts ready jobs in free slots."""
    now = time.monotonic()
    full = len(self._processes) == len(self._gpus)
    if full or self._stopping() or now < self._next_poll:
      return
    self._next_poll = now + _LOCK_POLL_SECONDS
    running = [process.job for process in self._processes.values()]
    unfinished = {job.name for job in [*self._pending, *running]}
    for job in list(self._pending):
      if unfinished.isdisjoint(job.deps):
        self._try_start(job)
    if self._pending and not self._processes and not self._waiting:
      self._log(f'waiting for {len(self._pending)} jobs of other processes')
    self._waiting = not self._processes

  def _try_start(self, job):
    """Starts a job, unless it is done or locked by another process."""
    free = [i for i in range(len(self._gpus)) if i not in self._processes]
    if not free:
      return
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(files.lock(_lock_path(job)))
        # Its process may run without a grid, or outlive a killed one.
        for folder in filter(pathlib.Path.exists, job.output_folders()):
          with files.lock(folder):
            pass
      except files.Locked:
        return
      self._pending.remove(job)
      if job.is_done():
        self._finish(job, 'done by another process')
        return
      process = _Process(job, self._gpus[free[0]], stack.pop_all())
    self._processes[free[0]] = process
    self._log(f'started {job.name}, log: {log_path(job)}')

  def _forward_signals(self):
    """Terminates the processes, and kills them at the second signal."""
    before, self._num_forwarded = self._num_forwarded, len(self._signals)
    for process in self._processes.values():
      if self._stopping() and not process.stop_requested:
        process.terminate()
      elif 0 < before < self._num_forwarded:
        process.kill()

  def _reap(self):
    for slot, process in list(self._processes.items()):
      outcome = process.poll(bool(self._signals))
      if not outcome:
        continue
      del self._processes[slot]
      self._next_poll = 0.0  # A slot is free, and more jobs may be ready.
      if outcome == 'done':
        self._finish(process.job, f'done in {process.elapsed()}')
      else:
        self._drop(process.job, outcome)

  def _finish(self, job, text):
    self._done.add(job.name)
    self._next_poll = 0.0
    self._log(f'[{len(self._done)}/{self._total}] {job.name}: {text}')

  def _drop(self, job, outcome):
    """Handles a saved or failed job, and skips its dependents."""
    name = job.name
    if outcome == 'saved':
      self._saved = True
      self._log(f'{name}: saved; the same command resumes')
    else:
      self._failed = True
      self._log(f'{name}: failed; end of {log_path(job)}:\n{_log_tail(job)}')
    dropped = {name}
    for other in list(self._pending):  # In the order of dependencies.
      if dropped.intersection(other.deps):
        dropped.add(other.name)
        self._pending.remove(other)
    if len(dropped) > 1 and not self._stopping():
      self._log(f'skipped {len(dropped) - 1} jobs that depend on {name}')


def _lock_path(job):
  return job.workdir.parent / 'locks' / job.name


def _failed_path(job):
  return log_path(job).with_suffix('.failed')


def _is_running(job):
  """Whether a runner holds the job's lock."""
  folder = _lock_path(job)
  if not folder.exists():
    return False
  try:
    with files.lock(folder):
      return False
  except files.Locked:
    return True


def _log_tail(job):
  text = log_path(job).read_text(errors='replace')
  lines = [line for line in text.splitlines() if line.strip()]
  return '\n'.join(f'  | {line}' for line in lines[-_LOG_TAIL_LINES:])
