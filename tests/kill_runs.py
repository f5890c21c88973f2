"""Kills runs at random times, and compares them with an uninterrupted run.

  python -m tests.kill_runs --kills 20

Runs experiments/debug.py to its end; then again, killed (SIGKILL) and started
again as often as asked: at random times in all stages, and while a checkpoint
or an episode is being written. Exits with status 1 unless both runs are equal,
bit for bit: parameters, optimizers, counters, metrics, episodes. Overrides of
the config may follow, as in --config.env.parallel=True.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files
from vid2act_jax.loops import finetune, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import METRICS, read_metrics
from vid2act_jax.loops.preemption import EXIT_STATUS

_TIMEOUT = 300  # Seconds, of one start of a run.
# Files that exist while something is being written.
_WRITES = {
  'checkpoint': ('teacher/*tmp*', 'student/*tmp*'),
  'episode': (f'**/{eps.FOLDER}/*{files.TEMPORARY}',),
}


# Metrics that may differ between equal runs.
NONDETERMINISTIC = 'time', 'peak_gb', 'device_peak_gb', 'eval/seconds'


class Killed(Exception):
  """Simulates the death of the process."""


def kill_after(monkeypatch, updates: int) -> None:
  """Makes the finetuning raise `Killed` after this number of updates."""
  learn = finetune.Finetuner._learn

  def die(self):
    learn(self)
    if self.counters.updates == updates:
      raise Killed

  monkeypatch.setattr(finetune.Finetuner, '_learn', die)


def start(workdir: pathlib.Path, *overrides: str) -> subprocess.Popen:
  """Starts or resumes the run, in a new process group."""
  command = [sys.executable, '-m', 'experiments.run']
  command += ['--config=experiments/debug.py', f'--workdir={workdir}']
  return subprocess.Popen(
    [*command, *overrides],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    start_new_session=True,
    text=True,
  )


def kill_at(process, reached, signum=signal.SIGKILL) -> bool:
  """Waits until `reached()`, then kills; False if the run ended first."""
  deadline = time.monotonic() + _TIMEOUT
  while process.poll() is None:
    if reached():
      os.killpg(process.pid, signum)
      process.wait(_TIMEOUT)
      return True
    if time.monotonic() > deadline:
      os.killpg(process.pid, signal.SIGKILL)
      raise TimeoutError(f'the run made no progress in {_TIMEOUT} s')
    time.sleep(0.0005)
  return False


def finish(process) -> None:
  """Waits for the run to end; raises if it failed."""
  _, errors = process.communicate(timeout=_TIMEOUT)
  if process.returncode:
    raise RuntimeError(f'status {process.returncode}:\n{errors}')


def num_lines(workdir: pathlib.Path) -> int:
  """Returns the number of lines of metrics so far."""
  path = workdir / METRICS
  return path.read_bytes().count(b'\n') if path.exists() else 0


def kill_condition(workdir: pathlib.Path, kind: str, lines: int, delay: float):
  """Returns a function that is true when it is time to kill the run.

  Args:
    workdir: of the run.
    kind: 'random', or one of `_WRITES`.
    lines: 'random': wait for this number of lines of metrics.
    delay: 'random': seconds after that.
  """
  start_times = []

  def random_time():
    if not start_times and num_lines(workdir) >= lines:
      start_times.append(time.monotonic())
    return bool(start_times) and time.monotonic() - start_times[0] >= delay

  def writing():
    return any(any(workdir.glob(names)) for names in _WRITES[kind])

  return random_time if kind == 'random' else writing


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """Lists the differences between two finished runs."""
  diff = []
  for stage in (runs.TEACHER, runs.STUDENT):
    left, right = (Checkpoint(w / stage).restore_raw() for w in (one, other))
    diff += _unequal(f'{stage} checkpoint', left, right)
  left, right = (
    [
      {k: v for k, v in m.items() if k not in NONDETERMINISTIC}
      for m in read_metrics(w)
    ]
    for w in (one, other)
  )
  diff += [] if left == right else ['metrics']
  folders = [p.parent for p in sorted(one.rglob(eps.FOLDER))]
  for folder in folders:
    other_folder = other / folder.relative_to(one)
    names = [f.path.name for f in eps.list_episodes(folder)]
    if names != [f.path.name for f in eps.list_episodes(other_folder)]:
      diff.append(f'episodes of {folder.name}')
      continue
    for name in names:
      left, right = (
        eps.load(w / eps.FOLDER / name) for w in (folder, other_folder)
      )
      diff += _unequal(f'{folder.name}/{name}', left, right)
  return diff


def _unequal(name, left, right):
  left, right = (jax.tree_util.tree_leaves_with_path(x) for x in (left, right))
  if [p for p, _ in left] != [p for p, _ in right]:
    return [f'{name}: other names']
  return [
    f'{name}{jax.tree_util.keystr(path)}'
    for (path, x), (_, y) in zip(left, right, strict=True)
    if np.asarray(x).dtype != np.asarray(y).dtype or not np.array_equal(x, y)
  ]


def run_with_kills(
  folder: pathlib.Path,
  kinds: list[str],
  rng: random.Random,
  reference: pathlib.Path,
  signum=signal.SIGKILL,
  overrides: tuple[str, ...] = (),
) -> tuple[list[str], int]:
  """Runs with kills, and compares with the reference.

  Args:
    folder: for the run.
    kinds: of the kills, in order; see `kill_condition`.
    rng: of the times.
    reference: a finished run.
    signum: the signal.
    overrides: of the reference's config.

  Returns:
    The differences, and the number of kills before the run ended.
  """
  last, kills = num_lines(reference), 0
  for kind in kinds:
    before = num_lines(folder)
    # In the first half of the remaining lines: the last lines may follow so
    # quickly that the run would end before the signal.
    lines = rng.randint(before, (before + last) // 2)
    reached = kill_condition(folder, kind, lines, rng.uniform(0, 0.5))
    process = start(folder, *overrides)
    if not kill_at(process, reached, signum):
      finish(process)
      break
    _, errors = process.communicate()
    if signum == signal.SIGTERM and process.returncode == 0:
      break  # Only the summary was missing.
    # Signalled while Python still imports, it has no handler and saves nothing.
    saved = (EXIT_STATUS,) if signum == signal.SIGTERM else ()
    if process.returncode not in (-signum, *saved):
      raise RuntimeError(f'status {process.returncode}: {errors}')
    kills += 1
    print(
      f'{kind}: killed with {num_lines(folder)} of {last} lines', flush=True
    )
  finish(start(folder, *overrides))
  return differences(reference, folder), kills


def main():
  """Kills, compares and reports."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--signal', default='KILL', help='or TERM')
  args, overrides = parser.parse_known_args()
  rng, kills, diff = random.Random(args.seed), 0, []
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    finish(start(folder / 'reference', *overrides))
    run = 0
    while kills < args.kills:
      kinds = rng.choices(('random', *_WRITES), (3, 1, 1), k=6)
      new_diff, new_kills = run_with_kills(
        folder / f'killed-{run}',
        kinds[: args.kills - kills],
        rng,
        folder / 'reference',
        signal.Signals[f'SIG{args.signal}'],
        tuple(overrides),
      )
      diff, kills, run = diff + new_diff, kills + new_kills, run + 1
  print(f'{kills} kills in {run} runs; differences: {diff or "none"}')
  sys.exit(bool(diff))


if __name__ == '__main__':
  main()
