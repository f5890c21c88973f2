"""Kills runs at random moments, and compares them with one left alone.

  python -m tests.kill_runs --kills 20

Runs experiments/debug.py to its end; then again, killed (SIGKILL) and started
again as often as asked: at random places of all stages, and while a checkpoint
or an episode is being written. Ends with status 1 unless both runs hold the
same, bit for bit: parameters, optimizers, counters, metrics, episodes.
Overrides of the config may follow, as in --config.env.parallel=True.
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
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import METRICS, read_metrics
from vid2act_jax.loops.preemption import EXIT_STATUS

_SECONDS = 300  # A start may take at most.
# What is there while something is being written.
_WRITES = {
  'checkpoint': ('teacher/*tmp*', 'student/*tmp*'),
  'episode': (f'**/{eps.FOLDER}/*{files.TEMPORARY}',),
}


# What two runs need not have in common in a row of metrics.
PHYSICAL = 'time', 'peak_gb', 'device_peak_gb'


def start(workdir: pathlib.Path, *overrides: str) -> subprocess.Popen:
  """Starts or continues the run, in a process group of its own."""
  command = [sys.executable, '-m', 'experiments.run']
  command += ['--config=experiments/debug.py', f'--workdir={workdir}']
  return subprocess.Popen(
    [*command, *overrides],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    start_new_session=True,
    text=True,
  )


def kill_at(process, reached, number=signal.SIGKILL) -> bool:
  """Waits until `reached()`, then kills; False if the run ended before."""
  deadline = time.monotonic() + _SECONDS
  while process.poll() is None:
    if reached():
      os.killpg(process.pid, number)
      process.wait(_SECONDS)
      return True
    if time.monotonic() > deadline:
      os.killpg(process.pid, signal.SIGKILL)
      raise TimeoutError(f'the run did not get on in {_SECONDS} s')
    time.sleep(0.0005)
  return False


def finish(process) -> None:
  """Waits for the run to end well."""
  _, errors = process.communicate(timeout=_SECONDS)
  if process.returncode:
    raise RuntimeError(f'status {process.returncode}:\n{errors}')


def told(workdir: pathlib.Path) -> int:
  """Lines of metrics so far."""
  path = workdir / METRICS
  return path.read_bytes().count(b'\n') if path.exists() else 0


def when(workdir: pathlib.Path, kind: str, lines: int, delay: float):
  """The moment to kill: a function that is true from then on.

  Args:
    workdir: of the run.
    kind: 'random', or one of `_WRITES`.
    lines: 'random': so many lines of metrics have been told.
    delay: 'random': seconds after that.
  """
  since = []

  def random_moment():
    if not since and told(workdir) >= lines:
      since.append(time.monotonic())
    return bool(since) and time.monotonic() - since[0] >= delay

  def writing():
    return any(any(workdir.glob(names)) for names in _WRITES[kind])

  return random_moment if kind == 'random' else writing


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """What two finished runs do not have in common."""
  found = []
  for stage in (runs.TEACHER, runs.STUDENT):
    left, right = (Checkpoint(w / stage).restore_raw() for w in (one, other))
    found += _unequal(f'{stage} checkpoint', left, right)
  left, right = (
    [{k: v for k, v in m.items() if k not in PHYSICAL} for m in read_metrics(w)]
    for w in (one, other)
  )
  found += [] if left == right else ['metrics']
  folders = [p.parent for p in sorted(one.rglob(eps.FOLDER))]
  for folder in folders:
    twin = other / folder.relative_to(one)
    names = [f.path.name for f in eps.list_episodes(folder)]
    if names != [f.path.name for f in eps.list_episodes(twin)]:
      found.append(f'episodes of {folder.name}')
      continue
    for name in names:
      left, right = (eps.load(w / eps.FOLDER / name) for w in (folder, twin))
      found += _unequal(f'{folder.name}/{name}', left, right)
  return found


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
  number=signal.SIGKILL,
  overrides: tuple[str, ...] = (),
) -> tuple[list[str], int]:
  """Runs with kills, and compares.

  Args:
    folder: for the run.
    kinds: of the kills, in their order; see `when`.
    rng: of the moments.
    reference: a finished run.
    number: the signal.
    overrides: of the reference's config.

  Returns:
    The differences, and how many kills met the run alive.
  """
  last, met = told(reference), 0
  for kind in kinds:
    before = told(folder)
    # Within the first half of what is left: the last lines may come so close
    # to each other that the run would end before the signal.
    lines = rng.randint(before, (before + last) // 2)
    moment = when(folder, kind, lines, rng.uniform(0, 0.5))
    process = start(folder, *overrides)
    if not kill_at(process, moment, number):
      finish(process)
      break
    _, errors = process.communicate()
    if number == signal.SIGTERM and process.returncode == 0:
      break  # All was done but for the summary.
    # Asked while Python is still importing, it has nothing to save.
    saved = (EXIT_STATUS,) if number == signal.SIGTERM else ()
    if process.returncode not in (-number, *saved):
      raise RuntimeError(f'status {process.returncode}: {errors}')
    met += 1
    print(f'{kind}: killed with {told(folder)} of {last} lines', flush=True)
  finish(start(folder, *overrides))
  return differences(reference, folder), met


def main():
  """Kills, compares and tells."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--signal', default='KILL', help='or TERM')
  args, overrides = parser.parse_known_args()
  rng, met, found = random.Random(args.seed), 0, []
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    finish(start(folder / 'reference', *overrides))
    run = 0
    while met < args.kills:
      kinds = rng.choices(('random', *_WRITES), (3, 1, 1), k=6)
      now, more = run_with_kills(
        folder / f'killed-{run}',
        kinds[: args.kills - met],
        rng,
        folder / 'reference',
        signal.Signals[f'SIG{args.signal}'],
        tuple(overrides),
      )
      found, met, run = found + now, met + more, run + 1
  print(f'{met} kills in {run} runs; differences: {found or "none"}')
  sys.exit(bool(found))


if __name__ == '__main__':
  main()
