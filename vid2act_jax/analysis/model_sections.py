"""The report's data about models: similarity weights and diagnosed parts.

Functions of a run read its metrics and its diagnosis.json. Those of several
runs, the seeds of a label, return plain data for results.json.
"""

import itertools
import math
import re

import numpy as np
import pandas as pd

from vid2act_jax.analysis import statistics
from vid2act_jax.analysis.load_runs import DIAGNOSIS, Run, printable
from vid2act_jax.analysis.style import thin
from vid2act_jax.learner.variants import VARIANTS

REPEATED = 'last context frame repeated'  # A prediction without any model.
# Values of learner.transfer.weights that set them: they say nothing.
FIXED = ('uniform', 'frozen', 'single')
AS_EXPECTED = 'as expected'
_NOISE = 'probe_noise'  # A source without any use.
_NEUTRAL = re.compile(r'|copy(=.*)?|(gravity|gain|mass)=0*1(\.0*)?')
_FINAL_SHARE = 0.1  # Of the logged points, that a final weight is a mean of.
# Difference, relative to the sum, of two sources with the same data: only the
# teacher's label distinguishes them.
_MAX_DUPLICATES = 0.2
_TIE = 0.01  # Weights closer to each other than this are a tie.
# What is read of the parts of a diagnosis: keys and types; {str: x}: any keys.
_VAE = dict.fromkeys(('error', 'variance', 'kl', 'active', 'latent'), float)
_VAE |= {'edges': [float], 'recorded': [[float]], 'replayed': [[float]]}
_SCHEMA = {
  'prediction': {'student': [float], 'last_frame': [float]},
  'relation': {str: {'distance': float, 'explained': float}},
  'pull': {'distillation': float, 'others': float},
  'vae': {str: _VAE},
  'guidance': {'shuffled': float, 'across_states': float},
  'teacher_kl': {str: {'kl': float}},
}


def weights(run: Run) -> pd.DataFrame:
  """Returns logged weights: steps with all sources, a column per source."""
  rows = run.metrics[run.metrics.stage == 'finetune']
  rows = rows[rows.key.str.startswith('similarity/')]
  num, rows = rows.key.nunique(), rows.dropna(subset='value')
  rows = rows[rows.groupby('step').key.transform('nunique') == num]
  table = rows.groupby(['step', 'key']).value.last().unstack()
  table.columns = table.columns.str.removeprefix('similarity/')
  ordered = [name for name in run.sources if name in table]
  return table[ordered + sorted(set(table) - set(ordered))]


def entropy(run: Run) -> tuple[pd.Series, bool]:
  """Returns the weights' entropy by step, in nats, and whether it was logged.

  If it was not, it is that of the mean weights, which is never lower.
  """
  logged = run.series('train/similarity_entropy')
  if len(logged):
    return logged, True
  shares = weights(run).clip(1e-12, 1)
  return -(shares * np.log(shares)).sum(axis=1), False


def final_weights(run: Run) -> dict[str, float]:
  """Returns each source's mean weight over the last tenth of the log."""
  table = weights(run)
  count = math.ceil(len(table) * _FINAL_SHARE)
  return table.tail(count).mean().to_dict() if count else {}


def is_fixed(run: Run) -> bool:
  """Returns whether the config sets the weights, so that they say nothing."""
  return _weights_kind(run) in FIXED


def are_evidence(run: Run) -> bool:
  """Returns whether the weights are a posterior, without a network."""
  return _weights_kind(run) == 'evidence'


def _weights_kind(run):
  """The config's weights, or the name of its preset."""
  preset = printable(run.config.get('variant')) or ''
  field = run.config.get('learner.transfer.weights')
  default = VARIANTS.get(preset, {}).get('weights', preset)
  chosen = field if isinstance(field, str) else default
  return str(chosen).split(':')[0]


def canonical_task(task: str) -> str:
  """Returns a task's name without modifiers that change nothing.

  'a@copy=1,mass=1.0,gravity=2' is 'a@gravity=2'.
  """
  base, _, modifiers = task.partition('@')
  kept = sorted(x for x in modifiers.split(',') if not _NEUTRAL.fullmatch(x))
  return '@'.join([base, ','.join(kept)] if kept else [base])


def relevance(run: Run) -> list[dict[str, str]]:
  """Compares the final weights with what is known in advance.

  It is known if the sources include the target's own task, the same task twice,
  or noise. Rows have what (the sources are), expected, seen and verdict; there
  are none without learned weights.
  """
  final = final_weights(run)
  if len(final) < 2 or is_fixed(run):
    return []
  alike: dict[str, list[str]] = {}
  for name in final:
    alike.setdefault(canonical_task(name), []).append(name)
  rows = []

  def add(what, expected, seen, agrees, tie=False):
    verdict = AS_EXPECTED if agrees else 'NOT as expected'
    verdict = f'too close to call (less than {_TIE} apart)' if tie else verdict
    rows.append(dict(what=what, expected=expected, seen=seen, verdict=verdict))

  def compare(own, extreme, what, expected, other):
    """Compares the heaviest of some sources with the extreme of the others."""
    others = [name for name in final if name not in own]
    if own and others:
      # Not sums: a softmax gives a source its weight relative to each other one
      # whether or not there is a second of its kind.
      ours, theirs = max(own, key=final.get), extreme(others, key=final.get)
      seen = f'{ours} {final[ours]:.3f}, {other} {theirs} {final[theirs]:.3f}'
      agrees = extreme((ours, theirs), key=final.get) == ours
      add(what, expected, seen, agrees, abs(final[ours] - final[theirs]) < _TIE)

  what = 'same task as the target', 'its weight is the largest', 'next'
  compare(alike.get(canonical_task(run.task or ''), []), max, *what)
  limit = f'weights differ by less than {_MAX_DUPLICATES:.0%} of their sum'
  for names in alike.values():
    for first, second in itertools.combinations(names, 2):
      a, b = final[first], final[second]
      share = abs(a - b) / max(a + b, 1e-12)
      seen = f'{first} {a:.3f}, {second} {b:.3f}: {share:.0%}'
      add('the same data twice', limit, seen, share < _MAX_DUPLICATES)
  what = 'pure noise', 'its weight is the lowest', 'lowest other'
  compare(alike.get(_NOISE, []), min, *what)
  return rows


def read_diagnosis(run: Run, name: str) -> dict:
  """Reads a part of the diagnosis; {} if it is missing or damaged.

  Args:
    run: diagnosed or not.
    name: of the part in diagnosis.json:
      prediction: {model: [error of each predicted frame, (0..1 pixel)²]}.
      relation: {source: {'weight', 'distance', 'explained'}}.
      pull: {'distillation', 'others': gradient norms, 'share': their ratio}.
      vae: {source: {'unexplained': error / variance, 'kl': nats per latent
        dimension, 'active': dimensions, 'latent': out of how many, 'coverage':
        of recorded actions by replayed ones, None in older diagnoses,
        'spread': see `spread`, 'edges': [E + 1], 'recorded', 'replayed':
        densities per action dimension [[E]]}}.
      guidance: {'share': change of actions when guidance is shuffled, relative
        to that from state to state; the same, None if not known, for 'noise'
        and the 'domains' of another; 'dead': share of units always zero}.
      teacher_kl: {source: {'kl': nats a frame of the target}}.
  """
  try:
    part = _select(run.diagnosis[name], _SCHEMA[name])
    if name == 'prediction':
      teachers = run.diagnosis[name].get('teachers') or {}
      part[REPEATED] = part.pop('last_frame')
      for source, curve in _select(teachers, {str: [float]}).items():
        part[f'teacher {source}'] = curve
    if name == 'relation':
      weights = _select(run.diagnosis['similarity'], {str: float})
      return {x: {'weight': weights[x], **part[x]} for x in part}
    if name == 'pull':
      part['share'] = part['distillation'] / part['others']
    if name == 'guidance':
      return _read_guidance(run.diagnosis[name], part['across_states'])
    if name == 'vae':
      known = {x: _optional(run.diagnosis[name][x], 'coverage') for x in part}
      return {x: {**_read_vae(**part[x]), 'coverage': known[x]} for x in part}
    return part
  except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
    return {}


def _select(value, schema):
  """Returns what a schema names of a value; raises an error without it."""
  if isinstance(schema, dict):
    keys = value if str in schema else schema
    return {x: _select(value[x], schema.get(str) or schema[x]) for x in keys}
  if isinstance(schema, list) and isinstance(value, list) and value:
    return [_select(x, schema[0]) for x in value]
  if isinstance(schema, list) or not isinstance(value, schema):
    raise TypeError(value)
  return value


def _read_guidance(part, across_states):
  keys = {'share': 'shuffled', 'noise': 'noise', 'domains': 'across_domains'}
  found = {name: _optional(part, key) for name, key in keys.items()}
  shares = {
    k: None if x is None else x / across_states for k, x in found.items()
  }
  return {**shares, 'dead': _optional(part, 'dead_units')}


def _optional(part, key):
  """Returns a number that older diagnoses lack, or None."""
  value = part.get(key)
  return value if isinstance(value, float) else None


def _read_vae(error, variance, edges, recorded, replayed, **latents):
  tables = np.array([recorded, replayed])  # Fails if they differ in shape.
  if tables.shape[2:] != np.diff(edges).shape or min(np.diff(edges)) <= 0:
    raise ValueError(edges)
  unexplained = {'unexplained': error / variance if variance else None}
  histograms = {'edges': edges, 'recorded': recorded, 'replayed': replayed}
  return unexplained | latents | {'spread': spread(histograms)} | histograms


def spread(part: dict) -> float:
  """Returns the variance of replayed actions over that of recorded ones.

  Sums over the action dimensions, from the histograms of a source's part of
  `read_diagnosis`; 1 if all recorded actions are equal. A ValueError if they
  are no histograms.
  """
  edges = np.array(part['edges'])
  centers, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)

  def variance(densities):
    mass = np.array(densities) * width
    if (mass < 0).any() or not mass.any(-1).all():
      raise ValueError(densities)
    mass = mass / mass.sum(-1, keepdims=True)
    mean = mass @ centers
    return float((mass * np.square(centers - mean[:, None])).sum())

  recorded, replayed = (variance(part[x]) for x in ('recorded', 'replayed'))
  return replayed / recorded if recorded else 1.0


def undiagnosed(runs: list[Run]) -> dict[str, str]:
  """Returns {part of the diagnosis: why the first run without it has none}."""
  lacking = {
    name: [run.diagnosis for run in runs if not read_diagnosis(run, name)]
    for name in _SCHEMA
  }
  return {name: _why(name, *x[:1]) for name, x in lacking.items() if x}


def _why(name, diagnosis):
  if not diagnosis:
    return 'python -m vid2act_jax.analysis diagnose RUN makes it'
  reason = diagnosis.get(f'{name}_missing')
  state = 'damaged' if diagnosis.get(name) else 'not'
  return reason if isinstance(reason, str) else f'{state} in {DIAGNOSIS}'


def diagnosed(runs: list[Run], name: str) -> list[dict]:
  """Returns a part of each run's diagnosis; of sources, under 'sources'."""
  parts = [(run, read_diagnosis(run, name)) for run in runs]
  key = 'sources' if str in _SCHEMA[name] else None
  return [
    _run(run) | ({key: part} if key else part) for run, part in parts if part
  ]


def _run(run):
  return {'run': str(run.path), 'seed': run.seed}


def mean_predictions(runs: list[Run]) -> dict[str, list[float]]:
  """Returns the runs' mean errors: {model: [error of each frame]}."""
  parts = [read_diagnosis(run, 'prediction') for run in runs]
  names = dict.fromkeys(name for part in parts for name in part)
  curves = {name: [x[name] for x in parts if name in x] for name in names}
  # As far as all of them go.
  frames = {k: list(zip(*each, strict=False)) for k, each in curves.items()}
  return {name: np.mean(each, 1).tolist() for name, each in frames.items()}


def points(curve: pd.Series) -> dict[str, list[float]]:
  """Returns {'steps', 'values'} of a curve."""
  return {'steps': curve.index.tolist(), 'values': curve.tolist()}


def prediction_errors(runs: list[Run]) -> dict | None:
  """Returns the student's prediction error during the training."""
  curves = [(run, run.series('open_loop/error')) for run in runs]
  curves = [(run, curve) for run, curve in curves if len(curve)]
  each = [curve for _, curve in curves]
  grid = statistics.common_grid(each)
  if not len(grid):
    return None
  middle = (grid[0] + grid[-1]) / 2
  halves = (grid[0], middle), (middle, grid[-1])
  areas = [[statistics.area(x, *half) for x in each] for half in halves]
  return {
    'grid': grid.tolist(),
    'mean': statistics.align(each, grid).mean(0).tolist(),
    # Means over the two halves of the steps that all runs have.
    'halves': np.mean(areas, 1).tolist(),
    'runs': [_run(run) | points(thin(curve)) for run, curve in curves],
  }


def similarity_weights(runs: list[Run]) -> dict | None:
  """Returns the weights of each run, and their means at common steps."""
  tables = [(run, thin(weights(run))) for run in runs]
  tables = [(run, table) for run, table in tables if len(table)]
  each = [table for _, table in tables]
  # Runs of a label have the same sources, unless their metrics are damaged.
  names = [x for x in each[0] if all(x in y for y in each)] if each else ()
  if not len(names):
    return None
  grid = statistics.common_grid(each)
  mean = lambda name: statistics.align([x[name] for x in each], grid).mean(0)
  return {
    'grid': grid.tolist(),
    'mean': {name: mean(name).tolist() for name in names},
    'runs': [_describe_weights(run, table) for run, table in tables],
  }


def _describe_weights(run, table):
  values, logged = entropy(run)
  values = thin(values)
  return {
    **_run(run),
    'given': is_fixed(run),
    'steps': table.index.tolist(),
    'weights': table.to_dict('list'),
    'entropy_steps': values.index.tolist(),
    'entropy': values.tolist(),
    'entropy_of_means': not logged,
    'most': math.log(len(table.columns)) or 1.0,  # One source: 0 of nothing.
    'end': final_weights(run),
    'relevance': relevance(run),
  }
