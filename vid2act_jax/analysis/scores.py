"""Scores of groups of runs: curves, means, intervals, comparisons.

What comes out is plain data, as it goes into results.json.
"""

import math
import re
from collections.abc import Iterable

import numpy as np

from vid2act_jax.analysis import curves
from vid2act_jax.analysis.reading import Run

# Of the furthest run of its task: one that got less far would cut the others
# down to what it has. It is left out of the means, which is told.
_LEAST_REACH = 0.5
# Differences that chance makes at most so often are told as such.
SURE = round(1 - curves.CONFIDENCE, 9)


def in_order(labels: Iterable[str], baseline: str) -> list[str]:
  """Labels of the method, of the baseline, and the others; numbers by size."""
  first = ['vid2act', baseline]

  def key(label):
    variant = label.split(',')[0]
    place = first.index(variant) if variant in first else len(first)
    parts = re.split(r'(\d+(?:\.\d+)?)', label)
    # Text and numbers take turns, so that alike is compared with alike.
    return place, [float(p) if i % 2 else p for i, p in enumerate(parts)]

  return sorted(labels, key=key)


def of_task(
  task: str, labels: dict[str, list[Run]], baseline: str
) -> tuple[dict, list[str]]:
  """Everything that the runs of a task scored.

  Args:
    task: its name.
    labels: of `grouping.group`.
    baseline: the variant that the others are compared with.

  Returns:
    {'metric', 'scale' (of a perfect score; None: unknown), 'start', 'horizon'
    (env steps that means and comparisons are from and up to), 'grid',
    'baseline' (its label, or None), 'labels': {label: ...}}, and what was left
    out, in sentences.
  """
  metric = _metric(task, labels)
  told = {
    label: [(run, run.series(f'eval/{metric}')) for run in runs]
    for label, runs in labels.items()
  }
  counted, problems = _comparable(task, told)
  if task.startswith('metaworld_') and metric == 'return':
    problems.append(
      f'{task}: some runs tell no success: returns are compared, which have no'
      ' known scale'
    )
  every = [curve for pairs in counted.values() for _, curve in pairs]
  grid = curves.common_grid(every)
  furthest = max(steps[-1] for steps, _ in every)
  if furthest > grid[-1]:
    problems.append(
      f'{task}: means and comparisons end at {grid[-1]:.0f} env steps, where'
      f' the shortest run does; others go on to {furthest:.0f}'
    )
  start, horizon = float(grid[0]), float(grid[-1])
  out = {
    'metric': metric,
    'scale': _scale(task, metric, labels),
    'start': start,
    'horizon': horizon,
    'grid': grid.tolist(),
    'labels': {
      label: _label(metric, told[label], pairs, grid)
      for label, pairs in counted.items()
    },
  }
  out['baseline'] = base = _baseline(out['labels'], baseline)
  for label, about in out['labels'].items():
    about['improvement'] = None
    if base and label != base:
      strata = [[_finals(out['labels'][name])] for name in (label, base)]
      about['improvement'] = _compare(*strata)
  return out, problems


def over_tasks(tasks: dict[str, dict], baseline: str) -> dict | None:
  """Normalised scores over several tasks.

  Only labels that have runs in all of these tasks are averaged: of all sets of
  tasks, the one with the most tasks times labels.

  Args:
    tasks: {task: of `of_task`}.
    baseline: the variant that the others are compared with.

  Returns:
    {'tasks', 'left_out' (labels), 'grid', 'baseline', 'labels': {label: {'iqm',
    'low', 'high', 'final', 'area', 'improvement'}}}, or None where there are
    not two tasks of known scale.
  """
  having: dict[str, set] = {}
  for task, told in tasks.items():
    if told['scale']:
      for label in told['labels']:
        having.setdefault(label, set()).add(task)
  best = max(
    (have for have in having.values() if len(have) > 1),
    key=lambda have: len(have) * sum(have <= h for h in having.values()),
    default=None,
  )
  if best is None:
    return None
  chosen = [task for task in tasks if task in best]
  labels = [label for label, have in having.items() if best <= have]
  labels = in_order(labels, baseline)
  grid = _shared_grid([tasks[task] for task in chosen])
  out = {
    'tasks': chosen,
    'left_out': sorted(set(having) - set(labels)),
    'grid': grid.tolist(),
    'labels': {},
  }
  for label in labels:
    parts = [(tasks[t]['labels'][label], tasks[t]['scale']) for t in chosen]
    strata = [_aligned(part, grid) / scale for part, scale in parts]
    finals = [_finals(part) / scale for part, scale in parts]
    areas = [_finals(part, 'area') / scale for part, scale in parts]
    out['labels'][label] = {
      'seeds': [len(part['seeds']) for part, _ in parts],
      **(
        _curve(strata) if len(grid) else dict.fromkeys(('iqm', 'low', 'high'))
      ),
      'final': _summary(finals),
      'area': _summary(areas),
    }
  out['baseline'] = base = _baseline(out['labels'], baseline)
  for label in labels:
    strata = [
      [_finals(tasks[t]['labels'][name]) for t in chosen]
      for name in (label, base)
      if name
    ]
    sides = base and label != base
    out['labels'][label]['improvement'] = _compare(*strata) if sides else None
  return out


def _metric(task, labels):
  """Success on Meta-World, where that is what counts; else the return."""
  runs = [run for members in labels.values() for run in members]
  succeeds = all(len(run.series('eval/success')[0]) for run in runs)
  return 'success' if task.startswith('metaworld_') and succeeds else 'return'


def _scale(task, metric, labels):
  if metric == 'success':
    return 1.0
  if not task.startswith('dmc_'):
    return None
  # A reward of at most 1 for each env step.
  limits = {
    run.setting('env.time_limit', 1000)
    for members in labels.values()
    for run in members
    if isinstance(run.setting('env.time_limit', 1000), int | float)
  }
  limit = limits.pop() if len(limits) == 1 else None
  return float(limit) if limit and limit > 0 else None


def _comparable(task, told):
  """Those runs that have enough steps in common, and sentences of the rest."""
  furthest = max(c[0][-1] for pairs in told.values() for _, c in pairs)
  problems = []

  def keep(run, steps, most):
    good = steps[-1] >= _LEAST_REACH * furthest and steps[0] <= most
    if not good:
      problems.append(
        f'{run.path}: left out of means and comparisons: evaluated from'
        f' {steps[0]:.0f} to {steps[-1]:.0f} env steps, others of {task} up to'
        f' {furthest:.0f}'
      )
    return good

  # The earliest end of those that got far enough.
  most = min(
    c[0][-1]
    for pairs in told.values()
    for _, c in pairs
    if c[0][-1] >= _LEAST_REACH * furthest
  )
  kept = {
    label: [(run, c) for run, c in pairs if keep(run, c[0], most)]
    for label, pairs in told.items()
  }
  return {label: pairs for label, pairs in kept.items() if pairs}, problems


def _label(metric, all_pairs, pairs, grid):
  """What is told of one label of a task; `pairs` are those that count."""
  start, horizon = grid[0], grid[-1]
  randoms = [run.series(f'random/{metric}')[1] for run, _ in pairs]
  randoms = [values[-1] for values in randoms if len(values)]
  return {
    'seeds': [run.seed for run, _ in pairs],
    'runs': [str(run.path) for run, _ in pairs],
    'each': [
      {
        'seed': run.seed,
        'counts': any(run is other for other, _ in pairs),
        'steps': steps.tolist(),
        'values': values.tolist(),
      }
      for run, (steps, values) in all_pairs
    ],
    **_curve([curves.align([curve for _, curve in pairs], grid)]),
    'final': _summary(
      [np.array([curves.final_score(*curve, horizon) for _, curve in pairs])]
    ),
    'area': _summary(
      [np.array([curves.area(*curve, start, horizon) for _, curve in pairs])]
    ),
    'random': float(np.mean(randoms)) if randoms else None,
  }


def _aligned(part, grid):
  """Values [S, G] of a task's label, of the runs that count."""
  by_seed = [
    (np.array(one['steps']), np.array(one['values']))
    for one in part['each']
    if one['counts']
  ]
  return curves.align(by_seed, grid)


def _shared_grid(told):
  low = max(t['start'] for t in told)
  high = min(t['horizon'] for t in told)
  return np.linspace(low, high, 101) if high > low else np.zeros(0)


def _curve(strata):
  mean = curves.iqm(np.concatenate(strata))
  interval = curves.iqm_interval(strata)
  low, high = (x.tolist() for x in interval) if interval else (None, None)
  return {'iqm': mean.tolist(), 'low': low, 'high': high}


def _summary(strata):
  """Interquartile mean and interval of numbers, per task [S]."""
  interval = curves.iqm_interval(strata)
  return {
    'each': [values.tolist() for values in strata],
    'iqm': float(curves.iqm(np.concatenate(strata))),
    'interval': interval and [float(x) for x in interval],
  }


def _finals(about, key='final'):
  return np.concatenate([np.array(x) for x in about[key]['each']])


def _baseline(labels, variant):
  """The label of the baseline; of several, the one with the most seeds."""
  ours = [x for x in labels if x == variant or x.startswith(f'{variant},')]
  return max(
    ours, key=lambda x: np.sum(labels[x].get('seeds', 0)), default=None
  )


def _compare(ours, theirs):
  """Of two lists of per-task scores: how sure it is that ours are better."""
  interval = curves.improvement_interval(ours, theirs)
  chance = curves.chance(ours, theirs)
  # However the runs came out: all of one kind above all of the other.
  deals = [
    math.comb(len(x) + len(y), len(x))
    for x, y in zip(ours, theirs, strict=True)
  ]
  verdict = 'undecided'
  if interval and chance <= SURE and interval[0] > 0.5:
    verdict = 'better'
  if interval and chance <= SURE and interval[1] < 0.5:
    verdict = 'worse'
  return {
    'probability': curves.improvement(ours, theirs),
    'interval': interval and list(interval),
    'chance': chance,
    'least_chance': min(1.0, 2 / math.prod(deals)),
    'verdict': verdict,
  }
