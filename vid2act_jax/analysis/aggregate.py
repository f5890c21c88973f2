"""Aggregates runs into the results of a report, as plain data for results.json.

Labels are scored on each task, over its seeds, and over several tasks, whose
scores are normalised first.
"""

import functools
import json
import math
import pathlib

import numpy as np
import pandas as pd

from vid2act_jax.analysis import (
  findings,
  group_runs,
  statistics,
  transfer_findings,
)
from vid2act_jax.analysis import model_sections as sections
from vid2act_jax.analysis.load_runs import Run

VERSION = 1
# Share of the steps of a task's longest run. A run that got less far would
# shorten all others to its length: it is left out of the means, and named.
_MIN_REACH = 0.5
_PUBLISHED = pathlib.Path(__file__).with_name('published.json')
_PUBLISHED_REACH = 2.0  # Longer curves would squeeze ours into a corner.
# Data about the models of a label's runs, by key of the results.
_PARTS = {
  'similarity': sections.similarity_weights,
  'relation': functools.partial(sections.diagnosed, name='relation'),
  'pull': functools.partial(sections.diagnosed, name='pull'),
  'errors': sections.prediction_errors,
  'predictions': sections.mean_predictions,
  'vae': functools.partial(sections.diagnosed, name='vae'),
  'guidance': functools.partial(sections.diagnosed, name='guidance'),
  'teacher_kl': functools.partial(sections.diagnosed, name='teacher_kl'),
  'undiagnosed': sections.undiagnosed,
}


def gather(found: list[Run], problems: list[str], baseline: str) -> dict:
  """Compares runs with those of the baseline's variant, and describes each.

  Returns:
    What results.json holds: 'tasks' and 'overall' as in `score_task` and
    `score_overall`, the keys of `_PARTS` and 'costs' as {task: {label: ...}},
    and lists. 'tasks' is empty if no run can be compared. To the 'problems'
    that were known before, those of runs and groups are added.
  """
  every = group_runs.run_table(found)
  table, texts = group_runs.group(every)
  problems, tasks, groups, costs = [*problems, *texts], {}, {}, {}
  for task, runs in table.groupby('task'):
    labels = group_runs.sort_labels(runs.label.unique(), baseline)
    members = {label: runs[runs.label == label] for label in labels}
    costs[task] = {x: group_runs.mean_costs(y) for x, y in members.items()}
    groups[task] = {label: list(x.object) for label, x in members.items()}
    tasks[task], texts = score_task(task, groups[task], baseline)
    problems += texts
  problems += [f'{run.path}: {text}' for run in found for text in run.problems]
  if tasks and not any(x['baseline'] for x in tasks.values()):
    problems.append(
      f'no runs of the baseline {baseline}: nothing is compared with it'
      ' (--baseline names another)'
    )

  parts: dict[str, dict] = {}
  for name, describe in _PARTS.items():
    for task, labels in groups.items():
      values = {label: describe(runs) for label, runs in labels.items()}
      if values := {label: value for label, value in values.items() if value}:
        parts.setdefault(name, {})[task] = values
  results = {
    'version': VERSION,
    'baseline': baseline,
    'tasks': tasks,
    'overall': score_overall(tasks, baseline),
    'published': {
      task: published_curves(task, x['metric'], x['horizon'])
      for task, x in tasks.items()
    },
    **{name: parts.get(name, {}) for name in _PARTS},
    'costs': costs,
    'findings': [row for run in found for row in findings.rows(run)],
    'runs': every[group_runs.DESCRIPTION].to_dict('records'),
    'problems': list(dict.fromkeys(problems)),
  }
  results['findings'] += transfer_findings.find(results)
  return results


def published_curves(task: str, metric: str, steps: float) -> list[dict]:
  """Returns published curves of a task, up to twice as far as our env steps.

  Means and standard deviations over seeds, each with its source and its
  protocol, which differs from ours. A modified task ('@') has none.
  """
  out = []
  for curve in json.loads(_PUBLISHED.read_text(encoding='utf-8')):
    count = sum(x <= _PUBLISHED_REACH * steps for x in curve['env_steps'])
    if (curve['task'], curve['metric']) == (task, metric) and count:
      cut = {key: curve[key][:count] for key in ('env_steps', 'mean', 'std')}
      out.append({**curve, **cut})
  return out


def score_task(
  task: str, labels: dict[str, list[Run]], baseline: str
) -> tuple[dict, list[str]]:
  """Scores the runs of a task, by label, and compares them with the baseline.

  Returns:
    {'metric', 'scale' (of a perfect score; None: unknown), 'start', 'horizon'
    (env steps of the first and last common value), 'grid', 'baseline' (its
    label, or None), 'labels': {label: ...}}, and what was left out.
  """
  members = [run for runs in labels.values() for run in runs]
  succeeds = all(len(run.series('eval/success')) for run in members)
  is_metaworld = task.startswith('metaworld_')
  metric = 'success' if is_metaworld and succeeds else 'return'
  every = {run.path: run.series(f'eval/{metric}') for run in members}
  counted, problems = _comparable(task, every)
  if is_metaworld and metric == 'return':
    problems.append(
      f'{task}: some runs log no success: returns are compared, which have no'
      ' known scale'
    )
  grid = statistics.common_grid(list(counted.values()))
  furthest = max(curve.index[-1] for curve in counted.values())
  if furthest > grid[-1]:
    problems.append(
      f'{task}: means and comparisons end at {grid[-1]:.0f} env steps, where'
      f' the shortest run ends; others continue to {furthest:.0f}'
    )
  scored = {}
  for label, runs in labels.items():
    kept = [run for run in runs if run.path in counted]
    if not kept:
      continue
    curves = [counted[run.path] for run in kept]
    randoms = [x for run in kept for x in run.series(f'random/{metric}')[-1:]]
    finals = [statistics.final_score(x, grid[-1]) for x in curves]
    areas = [statistics.area(x, grid[0], grid[-1]) for x in curves]
    scored[label] = {
      'seeds': [run.seed for run in kept],
      'runs': [str(run.path) for run in kept],
      'each': [
        {'seed': run.seed, 'counts': run.path in counted}
        | sections.points(every[run.path])
        for run in runs
      ],
      **_score([statistics.align(curves, grid)], [finals], [areas]),
      'random': float(np.mean(randoms)) if randoms else None,
    }
  return {
    'metric': metric,
    'scale': 1.0 if metric == 'success' else _return_scale(task, members),
    'start': float(grid[0]),
    'horizon': float(grid[-1]),
    'grid': grid.tolist(),
    'labels': scored,
    'baseline': _compare_with_baseline(scored, baseline),
  }, problems


def _return_scale(task, members):
  """On DeepMind Control, a reward of at most 1 for each env step."""
  limits = [run.config.get('env.time_limit', 1000) for run in members]
  known = task.startswith('dmc_') and len(set(map(str, limits))) == 1
  known = known and isinstance(limits[0], int | float) and limits[0] > 0
  return float(limits[0]) if known else None


def _comparable(task, every):
  """Returns the curves with enough steps in common, and what is left out."""
  furthest = max(curve.index[-1] for curve in every.values())
  reach = _MIN_REACH * furthest
  end = min(x.index[-1] for x in every.values() if x.index[-1] >= reach)
  kept, problems = {}, []
  for path, curve in every.items():
    first, last = curve.index[[0, -1]]
    if last >= reach and first <= end:
      kept[path] = curve
      continue
    problems.append(
      f'{path}: left out of means and comparisons: evaluated from {first:.0f}'
      f' to {last:.0f} env steps, others of {task} up to {furthest:.0f}'
    )
  return kept, problems


def score_overall(tasks: dict[str, dict], baseline: str) -> dict | None:
  """Scores labels over several tasks, normalised by the tasks' scales.

  Only labels with runs in all of these tasks are averaged: of all sets of
  tasks, the one with the most tasks times labels.

  Returns:
    {'tasks', 'left_out' (labels), 'grid', 'baseline', 'labels': {label: {'iqm',
    'low', 'high', 'final', 'area', 'improvement'}}}, or None without two tasks
    of known scale.
  """
  having: dict[str, set] = {}
  for task, result in tasks.items():
    for label in result['labels'] if result['scale'] else ():
      having.setdefault(label, set()).add(task)
  sets = [have for have in having.values() if len(have) > 1]
  if not sets:
    return None
  size = lambda have: len(have) * sum(have <= x for x in having.values())
  best = max(sets, key=size)
  labels = [label for label, have in having.items() if best <= have]
  chosen = [result for task, result in tasks.items() if task in best]
  low = max(result['start'] for result in chosen)
  high = min(result['horizon'] for result in chosen)
  grid = np.linspace(low, high, 101) if high > low else np.zeros(0)
  scored = {}
  for label in group_runs.sort_labels(labels, baseline):
    curves, finals, areas = [], [], []
    for result in chosen:
      scores, scale = result['labels'][label], result['scale']
      counted = [x for x in scores['each'] if x['counts']]
      each = [pd.Series(x['values'], x['steps']) for x in counted]
      curves.append(statistics.align(each, grid) / scale)
      finals.append(np.array(scores['final']['each'][0]) / scale)
      areas.append(np.array(scores['area']['each'][0]) / scale)
    seeds = [len(x) for x in finals]
    scored[label] = {'seeds': seeds, **_score(curves, finals, areas)}
  return {
    'tasks': [task for task in tasks if task in best],
    'left_out': sorted(set(having) - set(labels)),
    'grid': grid.tolist(),
    'labels': scored,
    'baseline': _compare_with_baseline(scored, baseline),
  }


def _score(curves, finals, areas):
  """Scores a label; for each task curves [S_m, G], finals and areas [S_m]."""
  out = dict.fromkeys(('iqm', 'low', 'high'))
  if curves[0].size:
    mean = _summary(curves)
    low, high = mean['interval'] or (None, None)
    out = {'iqm': mean['iqm'], 'low': low, 'high': high}
  return {**out, 'final': _summary(finals), 'area': _summary(areas)}


def _summary(strata):
  """Interquartile mean and interval of scores or curves, by task [S_m, ...]."""
  strata = [np.array(scores) for scores in strata]
  interval = statistics.iqm_interval(strata)
  return {
    'each': [values.tolist() for values in strata],
    'iqm': statistics.iqm(np.concatenate(strata)).tolist(),
    'interval': interval and [bound.tolist() for bound in interval],
  }


def _compare_with_baseline(scored, baseline):
  """Adds 'improvement' over the baseline's label, which is returned.

  If the baseline has several labels, the one with the most seeds.
  """
  finals = {
    label: [np.array(x) for x in scores['final']['each']]
    for label, scores in scored.items()
  }
  names = (x for x in scored if x == baseline or x.startswith(f'{baseline},'))
  base = max(names, key=lambda x: sum(map(len, finals[x])), default=None)
  for label, scores in scored.items():
    scores['improvement'] = None
    if base and label != base:
      scores['improvement'] = _compare(finals[label], finals[base])
  return base


def _compare(ours, theirs):
  """Compares per-task scores: probability of improvement, and its verdict."""
  interval = statistics.improvement_interval(ours, theirs)
  p_value, verdict = statistics.p_value(ours, theirs), 'undecided'
  if interval and p_value <= statistics.ALPHA:
    better, worse = interval[0] > 0.5, interval[1] < 0.5
    verdict = 'better' if better else 'worse' if worse else verdict
  pairs = zip(ours, theirs, strict=True)
  assignments = math.prod(math.comb(len(x) + len(y), len(x)) for x, y in pairs)
  return {
    'probability': float(statistics.improvement(ours, theirs)),
    'interval': interval and list(interval),
    'chance': p_value,
    'least_chance': min(1.0, 2 / assignments),
    'verdict': verdict,
  }
