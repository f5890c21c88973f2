"""A table of all runs with their costs, and labels to group them by.

A label is the variant, followed by the config keys whose values differ between
the runs of a task and variant. Runs of a task and label are its seeds.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable

import pandas as pd

from vid2act_jax.analysis.load_runs import Run, candidates, is_number
from vid2act_jax.analysis.style import shorten
from vid2act_jax.loops import config_keys

_IGNORED = (*config_keys.RUNTIME, *config_keys.GROUPED)
# Columns of a `run_table`: what describes a run, what should be the same in all
# runs of a task, and costs of which means are taken or values are listed.
DESCRIPTION = [
  'run', 'task', 'variant', 'seed', 'sources', 'commit', 'machine',
  'env_steps', 'evaluations', 'episodes',
]  # fmt: skip
_EQUAL = {
  'commit': 'commit',
  'length': 'length (config.finetune.env_steps)',
  'episodes': 'number of episodes per evaluation',
}
_STAGES = ['collect', 'pretrain', 'finetune']
_EVERY_ROW = 'train/skipped'  # A metric of every row that updates log.
_PEAKS = ['peak_gb', 'device_peak_gb']
_MEANS = ['env_steps_per_s', 'updates', 'seconds_per_update', *_PEAKS]
_LISTED = {'num_sources': 'sources', 'machine': 'machine', 'commit': 'commit'}


def run_table(runs: list[Run]) -> pd.DataFrame:
  """Returns a line per run: what it is, how far it got, what it cost.

  Costs are NaN where unknown: seconds by stage; 'shared': whether the teacher
  is that of another of the runs, whose seconds of pretraining then count;
  'env_steps_per_s', 'updates' and 'seconds_per_update' (of finetuning, with
  acting and evaluating), 'peak_gb' (of the process), 'device_peak_gb'.
  """
  if not runs:
    return pd.DataFrame(columns=['object', *DESCRIPTION, 'label'])
  table = pd.DataFrame([_describe(run) for run in runs], dtype=object)
  return table.join(_costs(runs))


def _describe(run):
  steps, episodes = (run.series(f'eval/{x}') for x in ('return', 'episodes'))
  counts = sorted({*episodes.astype(int)})
  counts = counts or [run.config.get('evaluate.episodes', 'unknown')]
  counts = dict.fromkeys([counts[0], counts[-1]])
  row = {'object': run, 'num_sources': len(run.sources)}
  keys = 'task', 'variant', 'seed', 'sources', 'commit', 'machine'
  row |= {key: getattr(run, key) for key in keys}
  row |= {'run': str(run.path), 'evaluations': len(steps)}
  row['env_steps'] = float(steps.index[-1]) if len(steps) else None
  row['episodes'] = ' to '.join(map(str, counts))
  row['length'] = str(run.config.get('finetune.env_steps', 'unknown'))
  for key in ('source_dir', 'teacher_from'):
    row[key] = re.sub(rf'-{run.seed}$', '', str(run.config.get(key, '')))
  return row


def _costs(runs):
  rows = pd.RangeIndex(len(runs))
  metrics = pd.concat([x.metrics.assign(run=i) for i, x in enumerate(runs)])
  stages = metrics.groupby(['run', 'stage'])
  last = lambda key: stages[key].max().unstack().reindex(rows, columns=_STAGES)
  seconds, steps = last('time'), last('step').finetune
  places = {run.path.resolve(): row for row, run in enumerate(runs)}
  teachers = pd.Series([_find_teacher(run, places) for run in runs], rows)
  teacher_seconds = seconds.pretrain.reindex(teachers).set_axis(rows)
  names = metrics.key.str.split('/').str[-1]
  peaks = metrics.groupby(['run', names]).value.max().unstack()
  # A row is logged after as many updates. A diagnosis counts them exactly.
  logged = metrics[(metrics.stage == 'finetune') & (metrics.key == _EVERY_ROW)]
  logged = logged.groupby('run').time.agg(['size', 'first', 'last'])
  size, start, end = (logged.reindex(rows)[x] for x in logged)
  every = _numbers(run.config.get('finetune.log_every') for run in runs)
  updates = _numbers(run.diagnosis.get('updates') for run in runs)
  finetuning = seconds.finetune.where(seconds.finetune > 0)
  return seconds.assign(
    pretrain=seconds.pretrain.fillna(teacher_seconds),
    shared=teachers.notna(),
    env_steps_per_s=steps / finetuning,
    updates=updates.fillna(size * every),
    seconds_per_update=(end - start) / (size - 1).where(size > 1) / every,
  ).join(peaks.reindex(rows, columns=_PEAKS))


def _numbers(values):
  values = [x if is_number(x) else math.nan for x in values]
  return pd.Series(values, dtype=float)


def _find_teacher(run, places):
  """Returns the row of the run whose teacher this one has, or None."""
  path = run.config.get('teacher_from')
  if not isinstance(path, str) or not path:
    return None
  try:
    tried = [x.resolve() for x in candidates(path, run.path)]
  except (OSError, ValueError, RuntimeError):  # No path on this system.
    return None
  return next((places[x] for x in tried if x in places), None)


def mean_costs(table: pd.DataFrame) -> dict:
  """Returns the means of the runs in a `run_table`; machines are listed."""
  numbers = table[_STAGES + _MEANS].astype(float).mean()
  means = {key: None if math.isnan(x) else x for key, x in numbers.items()}
  return {
    'runs': len(table),
    'seconds': {stage: means.pop(stage) for stage in _STAGES},
    'shared': bool(table.shared.any()),
    **means,
    **{
      name: '; '.join(sorted({*map(str, table[key])}))
      for key, name in _LISTED.items()
    },
  }


def group(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
  """Gives the runs of a `run_table` labels.

  Returns:
    The runs that can be compared by task, label and seed, with a column
    'label'; and what was left out or differs, in sentences.
  """
  problems: list[str] = []
  known = table[['task', 'variant', 'env_steps']].notna().all(axis=1)
  for run in table.object[~known]:
    stages = run.config.get('stages')
    if isinstance(stages, list) and 'finetune' not in stages:
      continue  # It only made a dataset or a teacher for other runs.
    has_begun = (run.metrics.stage == 'finetune').any()
    why = 'not compared' if has_begun else 'no finetuning yet, not compared'
    problems.append(f'{run.path}: {why}')
  table = table[known].assign(label='')
  for (_, variant), runs in table.groupby(['task', 'variant']):
    table.loc[runs.index, 'label'] = _labels(variant, runs.object)
  table = table.sort_values('env_steps', kind='stable')
  same = ['task', 'label', 'seed']
  worse = table.seed.notna() & table.duplicated(same, keep='last')
  best = table[~worse].set_index(same).run
  for row in table[worse].itertuples():
    problems.append(
      f'{row.run}: the same task, label and seed as'
      f' {best[row.task, row.label, row.seed]} ({row.task}, {row.label}, seed'
      f' {row.seed}), which got as far or further; only that one is compared'
    )
  table = table[~worse].sort_values(same, kind='stable')
  for task, runs in table.groupby('task'):
    problems += _differences(task, runs)
  return table, problems


def _labels(variant, runs):
  """Returns a label for each of the runs of one task and variant."""
  configs = [config_keys.exclude(run.config, _IGNORED) for run in runs]
  texts = pd.DataFrame(
    {key: json.dumps(x, sort_keys=True) for key, x in config.items()}
    for config in configs
  ).dropna(axis=1)  # A key that only some configs have is no difference.
  keys = sorted(key for key in texts if texts[key].nunique() > 1)
  names = [key.split('.')[-1] for key in keys]
  labels = [variant] * len(configs)
  for key, name in zip(keys, names, strict=True):
    name = name if names.count(name) == 1 else key
    values = _short_values([config[key] for config in configs], texts[key])
    labels = [f'{x}, {name}={y}' for x, y in zip(labels, values, strict=True)]
  return labels


def _short_values(values, texts):
  """Shortens values to texts that differ where the values do."""
  tried = []
  if all(isinstance(value, list) for value in values):
    tried.append([str(len(value)) for value in values])
    values = ['+'.join(map(str, value)) or 'none' for value in values]
  tried.append([shorten(str(value), 40) for value in values])
  hashes = [hashlib.blake2b(x.encode(), digest_size=2) for x in texts]
  pairs = zip(tried[-1], hashes, strict=True)
  tried.append([f'{text} ({x.hexdigest()})' for text, x in pairs])
  differ = (short for short in tried if len({*short}) == texts.nunique())
  return next(differ, tried[-1])


def sort_labels(labels: Iterable[str], baseline: str) -> list[str]:
  """Sorts labels: the method, the baseline, the others; numbers by size."""

  def key(label):
    # Text and numbers alternate, so that like is compared with like.
    parts = re.split(r'(\d+(?:\.\d+)?)', label)
    parts[1::2] = map(float, parts[1::2])
    variant = label.split(',')[0]
    return variant != 'vid2act', variant != baseline, parts

  return sorted(labels, key=key)


def _differences(task, runs):
  """Names what is not the same in all compared runs, and should be."""
  labels = runs.groupby('label')
  for label, members in labels:
    if missing := sorted({*runs.seed.dropna()} - {*members.seed}):
      text = ', '.join(map(str, missing))
      yield f'{task}, {label}: no seed {text}, which other labels have'
  for column, name in _EQUAL.items():
    counts = runs[column].value_counts().sort_index()
    if len(counts) > 1:
      text = ', '.join(f'{k} ({n} runs)' for k, n in counts.items())
      yield f'{task}: runs differ in their {name}: {text}'
  # Folders are in no label: the same data may lie in two of them.
  for label, members in labels:
    for key in ('source_dir', 'teacher_from'):
      if members[key].nunique() > 1:
        yield (
          f'{task}, {label}: seeds differ in config.{key}'
          f' ({", ".join(sorted(members[key].unique()))}); unless they hold the'
          ' same, these are not seeds of one thing'
        )
