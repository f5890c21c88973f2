"""A table of all runs, and groups by task and label: the seeds of a label.

A label is the variant, followed by the config keys whose values differ between
the runs of a task and variant.
"""

import hashlib
import json
import math
import pathlib
import re

import pandas as pd

from vid2act_jax.analysis.load_runs import Run
from vid2act_jax.analysis.style import shorten
from vid2act_jax.loops import config_keys

_IGNORED = (*config_keys.RUNTIME, *config_keys.GROUPED)
_STAGES = ['collect', 'pretrain', 'finetune']
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
_MEANS = [
  'env_steps_per_s', 'updates', 'seconds_per_update', 'peak_gb',
  'device_peak_gb',
]  # fmt: skip
_LISTED = ['num_sources', 'machine', 'commit']


def run_table(runs: list[Run]) -> pd.DataFrame:
  """Returns a line per run: what it is, how far it got, what it cost."""
  paths = {run.path.resolve(): run for run in runs}
  rows = []
  for run in runs:
    steps = run.series('eval/return').index
    keys = 'task', 'variant', 'seed', 'sources', 'commit', 'machine'
    row = {'object': run, 'run': str(run.path)}
    row |= {key: getattr(run, key) for key in keys}
    row['env_steps'] = float(steps[-1]) if len(steps) else None
    row |= {'evaluations': len(steps), 'episodes': _episodes(run)}
    row['length'] = str(run.config.get('finetune.env_steps', 'unknown'))
    for key in ('source_dir', 'teacher_from'):
      row[key] = re.sub(rf'-{run.seed}$', '', str(run.config.get(key, '')))
    rows.append(row | run_costs(run, paths))
  columns = None if rows else ['object', *DESCRIPTION, 'label']
  return pd.DataFrame(rows, columns=columns, dtype=object)


def _episodes(run):
  episodes = run.series('eval/episodes').astype(int)
  if episodes.empty:
    return str(run.config.get('evaluate.episodes', 'unknown'))
  low, high = episodes.min(), episodes.max()
  return str(low) if low == high else f'{low} to {high}'


def run_costs(run: Run, others: dict[pathlib.Path, Run]) -> dict:
  """Returns a run's costs, NaN where unknown.

  Args:
    run: the run.
    others: all runs by their resolved paths. If one of them made this run's
      teacher, its seconds of pretraining are counted.

  Returns:
    Seconds by stage; 'shared': whether the teacher is another run's;
    'env_steps_per_s', 'updates', 'seconds_per_update' (of finetuning, with
    acting and evaluating), 'peak_gb' (of the process), 'device_peak_gb'.
  """
  stages = run.metrics.groupby('stage')
  seconds = stages.time.max().reindex(_STAGES)
  teacher = _teacher(run, others)
  if math.isnan(seconds.pretrain) and teacher:
    last = teacher.metrics.groupby('stage').time.max()
    seconds['pretrain'] = last.get('pretrain', math.nan)
  names = run.metrics.key.str.split('/').str[-1]
  peaks = run.metrics.groupby(names).value.max()
  steps = stages.step.max().get('finetune', math.nan)
  return {
    **seconds,
    'shared': teacher is not None,
    'env_steps_per_s': steps / (seconds.finetune or math.nan),
    **_updates(run),
    **peaks.reindex(['peak_gb', 'device_peak_gb']),
    'num_sources': len(run.sources),
  }


def _teacher(run, others):
  path = run.config.get('teacher_from')
  if not isinstance(path, str) or not path:
    return None
  try:
    # A relative path starts where the run was started: in the current folder,
    # or in one above the run.
    tried = [pathlib.Path(path).resolve()]
    tried += [folder / path for folder in run.path.resolve().parents]
  except (OSError, ValueError):  # No path that this system could have.
    return None
  return next((others[x] for x in tried if x in others), None)


def _updates(run):
  """Counts logged lines, each of as many updates; a diagnosis is more exact."""
  every = run.config.get('finetune.log_every')
  every = float(every) if type(every) in (int, float) else math.nan
  rows = run.metrics[run.metrics.stage == 'finetune']
  times = rows.time[rows.key == 'train/skipped'].to_numpy()
  updates, pace = run.diagnosis.get('updates'), math.nan
  if not isinstance(updates, float):
    updates = len(times) * every if len(times) else math.nan
  if len(times) > 1 and every:
    pace = (times[-1] - times[0]) / ((len(times) - 1) * every)
  return {'updates': updates, 'seconds_per_update': pace}


def mean_costs(table: pd.DataFrame) -> dict:
  """Returns the means of the runs in a `run_table`; machines are listed."""
  numbers = table[_STAGES + _MEANS].astype(float).mean()
  means = {key: None if math.isnan(x) else x for key, x in numbers.items()}
  listed = {
    key: '; '.join(sorted(set(map(str, table[key])))) for key in _LISTED
  }
  return {
    'runs': len(table),
    'seconds': {stage: means.pop(stage) for stage in _STAGES},
    'shared': bool(table.shared.any()),
    **means,
    'sources': listed.pop('num_sources'),
    **listed,
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
  labels = [
    pd.Series(_labels(variant, kind.object), kind.index)
    for (_, variant), kind in table[known].groupby(['task', 'variant'])
  ]
  table = table[known].assign(label=pd.concat(labels) if labels else '')
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
    [
      {key: json.dumps(x, sort_keys=True) for key, x in config.items()}
      for config in configs
    ]
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
  different = texts.nunique()
  if all(isinstance(value, list) for value in values):
    lengths = [str(len(value)) for value in values]
    if len(set(lengths)) == different:
      return lengths
    values = ['+'.join(map(str, value)) or 'none' for value in values]
  short = [shorten(str(value), 40) for value in values]
  if len(set(short)) == different:
    return short
  marks = (hashlib.blake2b(x.encode(), digest_size=2) for x in texts)
  return [f'{x} ({y.hexdigest()})' for x, y in zip(short, marks, strict=True)]


def _differences(task, runs):
  """Names what is not the same in all compared runs, and should be."""
  seeds = {x: set(y.seed.dropna()) for x, y in runs.groupby('label')}
  for label, present in seeds.items():
    if missing := sorted(set().union(*seeds.values()) - present):
      text = ', '.join(map(str, missing))
      yield f'{task}, {label}: no seed {text}, which other labels have'
  for column, name in _EQUAL.items():
    counts = runs[column].value_counts().sort_index()
    if len(counts) > 1:
      text = ', '.join(f'{k} ({n} runs)' for k, n in counts.items())
      yield f'{task}: runs differ in their {name}: {text}'
  # Places are in no label: the same data may lie in two of them.
  for label, members in runs.groupby('label'):
    for key in ('source_dir', 'teacher_from'):
      places = ', '.join(sorted(members[key].unique()))
      if members[key].nunique() > 1:
        yield (
          f'{task}, {label}: seeds differ in config.{key} ({places}); unless'
          ' they hold the same, these are not seeds of one thing'
        )
