"""What runs cost: seconds, speed, memory, and on what."""

import math
import pathlib

import numpy as np

from vid2act_jax.analysis import diagnosed
from vid2act_jax.analysis.reading import Run

STAGES = ('collect', 'pretrain', 'finetune')
_NUMBERS = (
    'env_steps_per_s', 'updates', 'seconds_per_update', 'peak_gb',
    'device_peak_gb',
)  # fmt: skip


def of_run(run: Run, others: dict[pathlib.Path, Run]) -> dict:
  """A run's costs; None for what it does not tell.

  Args:
    run: the run.
    others: all runs of the report by their resolved paths: one of them may
      have made its teacher, whose seconds then are told as its own.

  Returns:
    {'seconds': {stage: s}, 'shared': whether the teacher's are another run's,
    'env_steps_per_s', 'updates', 'seconds_per_update' (both of finetuning, with
    acting and evaluating), 'peak_gb' (the process's memory),
    'device_peak_gb', 'sources', 'machine', 'commit'}.
  """
  seconds = {stage: run.seconds.get(stage) for stage in STAGES}
  teacher = _teacher(run, others)
  if seconds['pretrain'] is None and teacher:
    seconds['pretrain'] = teacher.seconds.get('pretrain')
  return {
    'seconds': seconds,
    'shared': teacher is not None,
    'env_steps_per_s': _env_steps_per_s(run),
    **_updates(run),
    'peak_gb': _most(run, 'peak_gb'),
    'device_peak_gb': _most(run, 'device_peak_gb'),
    'sources': len(run.sources),
    'machine': run.machine,
    'commit': run.commit,
  }


def of_group(costs: list[dict]) -> dict:
  """The means of several runs' costs; machines and commits as sets, in words.

  Args:
    costs: of `of_run`.
  """
  out = {
    'runs': len(costs),
    'seconds': {s: _mean(c['seconds'][s] for c in costs) for s in STAGES},
    'shared': any(c['shared'] for c in costs),
  }
  for key in _NUMBERS:
    out[key] = _mean(c[key] for c in costs)
  for key in ('sources', 'machine', 'commit'):
    out[key] = '; '.join(sorted({str(c[key]) for c in costs}))
  return out


def _mean(values):
  there = [value for value in values if value is not None]
  return float(np.mean(there)) if there else None


def _teacher(run, others):
  path = run.setting('teacher_from')
  if not isinstance(path, str) or not path:
    return None
  try:
    # A relative one is of where the run was started: here, or above the run.
    tried = [pathlib.Path(path).resolve()]
    tried += [folder / path for folder in run.path.resolve().parents]
  except (OSError, ValueError):  # No path that this system could have.
    return None
  return next((others[place] for place in tried if place in others), None)


def _env_steps_per_s(run):
  rows = [row for row in run.metrics if row['stage'] == 'finetune']
  steps = max((row['step'] for row in rows), default=0)
  seconds = run.seconds.get('finetune', 0)
  return steps / seconds if steps and seconds else None


def _updates(run):
  """From the log's lines, each of as many updates; finer, the diagnosis."""
  every = diagnosed.number(run.setting('finetune.log_every'))
  times = [
    row.get('time', math.nan)
    for row in run.metrics
    if row['stage'] == 'finetune' and 'train/skipped' in row
  ]
  told = diagnosed.updates(run)
  if every is None or not times:
    return {'updates': told, 'seconds_per_update': None}
  pace = None
  if len(times) > 1 and math.isfinite(times[-1] - times[0]):
    pace = (times[-1] - times[0]) / ((len(times) - 1) * every)
  return {
    'updates': told if told is not None else len(times) * every,
    'seconds_per_update': pace,
  }


def _most(run, name):
  """The most that a stage told of a metric, whatever stands before it."""
  told = [
    value
    for row in run.metrics
    for key, value in row.items()
    if key.split('/')[-1] == name and math.isfinite(value)
  ]
  return max(told, default=None)
