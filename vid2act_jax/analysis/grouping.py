"""Which runs are compared: groups of seeds by task and label.

A label is the variant, and what else of the config differs among the runs of
one task and variant, in short.
"""

import collections
import hashlib
import json
import re

from vid2act_jax.analysis.reading import Run
from vid2act_jax.loops import config_keys

_ASIDE = (*config_keys.RUNTIME, *config_keys.GROUPED)
_LETTERS = 40  # Of a value in a label.

Groups = dict[str, dict[str, list[Run]]]


def group(found: list[Run]) -> tuple[Groups, list[str]]:
  """Sorts runs into groups whose seeds are compared.

  Args:
    found: runs of any kind.

  Returns:
    {task: {label: runs by seed}} of those that can be compared, and what was
    left out or differs, in sentences.
  """
  problems: list[str] = []
  kinds = collections.defaultdict(list)
  for run in found:
    if run.task and run.variant and len(run.series('eval/return')[0]):
      kinds[run.task, run.variant].append(run)
    elif _has_no_finetuning(run.setting('stages')):
      continue  # Made a dataset or a teacher for others, and that is all.
    elif not any(row['stage'] == 'finetune' for row in run.metrics):
      problems.append(f'{run.path}: no finetuning yet, not compared')
    else:
      problems.append(f'{run.path}: not compared')
  groups: Groups = {}
  for (task, variant), members in sorted(kinds.items()):
    for run, label in zip(members, _labels(variant, members), strict=True):
      groups.setdefault(task, {}).setdefault(label, []).append(run)
  for task, labels in groups.items():
    for label, members in labels.items():
      labels[label] = _unique(task, label, members, problems)
    problems += _missing_seeds(task, labels)
    problems += _differences(task, labels)
  return groups, problems


def _labels(variant, members):
  """A label for each of the runs of one task and variant."""
  leaves = [config_keys.exclude(run.config, _ASIDE) for run in members]
  # What only some versions of the code have is no difference.
  common = set.intersection(*map(set, leaves))
  texts = {
    key: [json.dumps(tree[key], sort_keys=True) for tree in leaves]
    for key in sorted(common)
  }
  texts = {key: told for key, told in texts.items() if len(set(told)) > 1}
  names = collections.Counter(key.split('.')[-1] for key in texts)
  out = [variant] * len(members)
  for key, told in texts.items():
    name = key.split('.')[-1]
    name = name if names[name] == 1 else key
    values = _short([tree[key] for tree in leaves], told)
    out = [
      f'{label}, {name}={value}'
      for label, value in zip(out, values, strict=True)
    ]
  return out


def _short(values, told):
  """Values in few letters, different where they differ."""
  lists = [value for value in values if isinstance(value, list)]
  if len(lists) == len(values):
    lengths = [len(value) for value in values]
    if len(set(lengths)) == len(set(told)):
      return [str(length) for length in lengths]
    values = ['+'.join(map(str, value)) or 'none' for value in values]
  short = [
    text if len(text) <= _LETTERS else f'{text[: _LETTERS - 1]}…'
    for text in map(str, values)
  ]
  if len(set(short)) < len(set(told)):
    marks = [
      hashlib.blake2b(t.encode(), digest_size=2).hexdigest() for t in told
    ]
    short = [
      f'{text} ({mark})' for text, mark in zip(short, marks, strict=True)
    ]
  return short


def _has_no_finetuning(stages):
  return isinstance(stages, list) and 'finetune' not in stages


def _unique(task, label, members, problems):
  """One run of each seed, the one that got furthest; the others are told."""
  best = {}
  for run in members:
    other = best.get(run.seed)
    if other is None or run.seed is None:
      best[run.seed if run.seed is not None else run.path] = run
      continue
    first, second = sorted((other, run), key=_reached)
    problems.append(
      f'{first.path}: the same task, label and seed as {second.path}'
      f' ({task}, {label}, seed {run.seed}), which got as far or further; only'
      ' that one is compared'
    )
    best[run.seed] = second
  return sorted(
    best.values(), key=lambda run: (run.seed is None, run.seed or 0)
  )


def _reached(run):
  return run.series('eval/return')[0][-1]


def _missing_seeds(task, labels):
  seeds = {
    label: {run.seed for run in members if run.seed is not None}
    for label, members in labels.items()
  }
  every = set().union(*seeds.values())
  for label, there in seeds.items():
    if missing := sorted(every - there):
      told = ', '.join(map(str, missing))
      yield f'{task}, {label}: no seed {told}, which other labels have'


def _differences(task, labels):
  """What should be the same in runs that are compared, and is not."""
  members = [run for runs in labels.values() for run in runs]
  asked = {
    'commit': lambda run: run.commit,
    'length (config.finetune.env_steps)': lambda run: run.setting(
      'finetune.env_steps', 'unknown'
    ),
    'number of episodes an evaluation': episodes_evaluated,
  }
  for what, ask in asked.items():
    counts = collections.Counter(str(ask(run)) for run in members)
    if len(counts) > 1:
      told = ', '.join(f'{k} ({n} runs)' for k, n in sorted(counts.items()))
      yield f'{task}: runs differ in their {what}: {told}'
  yield from _origins(task, labels)


def _origins(task, labels):
  """Data and teachers that are not the same for all seeds of a label.

  Where they lie is no difference by itself, so that it is in no label.
  """
  for label, runs in labels.items():
    for key in ('source_dir', 'teacher_from'):
      places = {_without_seed(run, key) for run in runs}
      if len(places) > 1:
        told = ', '.join(sorted(places))
        yield (
          f'{task}, {label}: seeds differ in config.{key} ({told}); unless'
          ' they hold the same, these are not seeds of one thing'
        )


def _without_seed(run, key):
  """A place of the config, but for the run's seed at its end."""
  place = str(run.setting(key, ''))
  return re.sub(rf'-{run.seed}$', '', place)


def episodes_evaluated(run: Run) -> str:
  """How many episodes an evaluation of a run has, in words."""
  _, episodes = run.series('eval/episodes')
  if not len(episodes):
    return str(run.setting('evaluate.episodes', 'unknown'))
  low, high = int(episodes.min()), int(episodes.max())
  return str(low) if low == high else f'{low} to {high}'
