"""Estimates the time of a run from the metrics of earlier runs like it."""

import dataclasses
import pathlib
from collections.abc import Iterator

from vid2act_jax.loops import config_keys, progress, run_checks, runs
from vid2act_jax.loops.logger import METRICS, read_metrics
from vid2act_jax.types import UserError

_MIN_ROWS = 2  # Of metrics, to measure a rate.


def describe(config, workdir: pathlib.Path) -> str:
  """Describes the time that is left of pretraining and finetuning.

  Args:
    config: the run's.
    workdir: its folder; runs of the same config next to it are used, too.
  """
  work = run_checks.work_of(config, workdir)
  amounts = {
    'pretrain': config.pretrain.steps if work.pretrains else 0,
    'finetune': config.finetune.env_steps if work.finetunes else 0,
  }
  parts, unknown = [], []
  for stage in [stage for stage, amount in amounts.items() if amount]:
    found = next(_rates(config, workdir, stage), None)
    if found is None:
      unknown.append(stage)
      continue
    seconds = found.seconds * max(amounts[stage] - found.done, 0)
    machine = f' on {found.machine}' if found.machine else ''
    parts.append(
      f'{stage} about {progress.duration(seconds)} (as {found.folder}{machine})'
    )
  if unknown:
    parts.append(
      f'{" and ".join(unknown)} not known; measure with the same command and'
      f' {_short(config, unknown)} --workdir={workdir.parent / "measure"}, then'
      ' ask again'
    )
  if work.collects:
    parts.append('collecting comes on top')
  return f'time: {"; ".join(parts) or "nothing to do"}'


def _short(config, stages):
  """Flags of a short run that has enough metrics."""
  flags = []
  if 'pretrain' in stages:
    steps = min(config.pretrain.steps, 3 * config.pretrain.log_every)
    flags.append(f'--config.pretrain.steps={steps}')
  if 'finetune' in stages:
    c = config.finetune
    updates = max(3 * c.log_every - c.first_updates, 0)
    steps = config.env.action_repeat * (c.prefill + c.update_every * updates)
    flags.append(f'--config.finetune.env_steps={min(steps, c.env_steps)}')
  return ' '.join(flags)


@dataclasses.dataclass(frozen=True)
class Rate:
  """How fast a stage of an earlier run was.

  seconds: for an update of pretraining, or an env step of finetuning.
  done: of those, by the run whose time is estimated.
  folder: of the earlier run.
  machine: that it ran on, or ''.
  """

  seconds: float
  done: int
  folder: pathlib.Path
  machine: str


def _rates(config, workdir, stage) -> Iterator[Rate]:
  """Yields the rates of runs of this config: of its own folder first."""
  # Next to it, and the seeds in the folders next to it.
  found = [
    path.parent
    for pattern in (f'*/{METRICS}', f'*/*/{METRICS}')
    for path in sorted(workdir.parent.glob(pattern))
  ]
  for folder in dict.fromkeys([workdir, *found]):
    try:
      rows = read_metrics(folder, stage)
      if len(rows) < _MIN_ROWS or not _is_alike(config, folder):
        continue
      done = int(rows[-1]['step']) if folder == workdir else 0
      if seconds := _seconds_per_step(rows):
        yield Rate(seconds, done, folder, _machine(folder))
    except (UserError, OSError, KeyError, ValueError):
      continue  # Another program's file, or a damaged run.


def _is_alike(config, folder):
  """Whether a run has this config, apart from seed, length and logging."""
  ignored = *config_keys.RUNTIME, *config_keys.BUDGET, 'seed', 'seeds'
  ignored = *ignored, 'source_dir', 'teacher_from'
  trees = runs.read_config_dict(folder), runs.as_dict(config)
  one, other = (config_keys.exclude(tree, ignored) for tree in trees)
  return one == other


def _seconds_per_step(rows):
  """The mean over all rows; the clock starts again when a run resumes."""
  seconds = steps = 0.0
  for last, row in zip(rows, rows[1:], strict=False):
    if row['time'] >= last['time'] and row['step'] >= last['step']:
      seconds += row['time'] - last['time']
      steps += row['step'] - last['step']
  return seconds / steps if steps else 0.0


def _machine(folder):
  if not (folder / runs.STARTS).exists():
    return ''
  return runs.read_starts(folder)[-1].get('machine', '')
