"""What a run's diagnosis.json says, as far as it has the expected form."""

import math

from vid2act_jax.analysis.reading import Run

HOW = 'python -m vid2act_jax.analysis diagnose RUN makes it'
REPEATED = 'last context frame repeated'  # What knows nothing of motion.
_MOST = 1000  # Frames, dimensions or bins; more are damage.


def prediction(run: Run) -> dict | None:
  """Errors by predicted frame, in (0..1 pixel)².

  Returns:
    {'context': frames, 'curves': {'student', REPEATED, 'teacher <task>':
    [error]}}, or None where there is none.
  """
  part = _part(run, 'prediction')
  curves = {
    'student': numbers(part.get('student')),
    REPEATED: numbers(part.get('last_frame')),
  }
  for name, values in _items(part.get('teachers')):
    curves[f'teacher {name}'] = numbers(values)
  curves = {name: values for name, values in curves.items() if values}
  if not curves:
    return None
  return {'context': number(part.get('context')), 'curves': curves}


def vae(run: Run) -> dict[str, dict]:
  """Of each source's actions, how the VAE replays them.

  Returns:
    {source: {'unexplained': error / variance, 'kl': nats a latent dimension,
    'active': number of dimensions, 'latent': of how many, 'edges': [E + 1],
    'recorded', 'replayed': densities per dimension [[E]]}}; a number that is
    not there is None.
  """
  out = {}
  for name, told in _items(_part(run, 'vae')):
    if not isinstance(told, dict):
      continue
    error, variance = number(told.get('error')), number(told.get('variance'))
    known = error is not None and variance is not None and variance > 0
    out[name] = {
      'unexplained': error / variance if known else None,
      **{key: number(told.get(key)) for key in ('kl', 'active', 'latent')},
      **_histograms(told),
    }
  return out


def guidance(run: Run) -> dict | None:
  """How much the policy's actions depend on its guidance.

  Returns:
    {'share': change when guidance is shuffled, against that from state to
    state; 'dead': share of units that are always zero, or None}, or None.
  """
  part = _part(run, 'guidance')
  shuffled = number(part.get('shuffled'))
  across = number(part.get('across_states'))
  if shuffled is None or across is None or across <= 0:
    return None
  return {'share': shuffled / across, 'dead': number(part.get('dead_units'))}


def relation(run: Run) -> dict[str, dict]:
  """Of each source: {'weight', 'distance', 'explained'}, what is there."""
  out = {}
  weights = dict(_items(_part(run, 'similarity')))
  for name, told in _items(_part(run, 'relation')):
    told = told if isinstance(told, dict) else {}
    keys = 'distance', 'explained'
    out[name] = {
      'weight': number(weights.get(name)),
      **{key: number(told.get(key)) for key in keys},
    }
  return out


def pull(run: Run) -> dict | None:
  """Distillation's part in the student's gradient.

  Returns:
    {'distillation', 'others': norms, 'share': of the one against the other},
    or None.
  """
  part = _part(run, 'pull')
  own, others = number(part.get('distillation')), number(part.get('others'))
  if own is None or others is None or others <= 0:
    return None
  return {'distillation': own, 'others': others, 'share': own / others}


def updates(run: Run) -> float | None:
  """Updates of the student that was diagnosed."""
  return number((run.diagnosis or {}).get('updates'))


def missing(run: Run, name: str) -> str:
  """Why a part is not there, in words."""
  if run.diagnosis is None:
    return HOW
  reason = run.diagnosis.get(f'{name}_missing')
  return reason[:200] if isinstance(reason, str) else 'not in diagnosis.json'


def number(value) -> float | None:
  """A finite number, or None for whatever else it is."""
  good = isinstance(value, int | float) and not isinstance(value, bool)
  good = good and abs(value) < 1e15 and math.isfinite(value)
  return float(value) if good else None


def numbers(value) -> list[float]:
  """A list of finite numbers; an empty one where it is anything else."""
  if not isinstance(value, list) or len(value) > _MOST:
    return []
  out = [number(x) for x in value]
  return [] if None in out else out


def _histograms(told):
  """Edges and both tables, or all empty where they do not fit together."""
  edges = numbers(told.get('edges'))
  tables = [_table(told.get(key)) for key in ('recorded', 'replayed')]
  fits = len(edges) > 1 and edges == sorted(set(edges))
  fits = fits and len(tables[0]) == len(tables[1]) > 0
  fits = fits and {len(r) for t in tables for r in t} == {len(edges) - 1}
  recorded, replayed = tables if fits else ([], [])
  edges = edges if fits else []
  return {'edges': edges, 'recorded': recorded, 'replayed': replayed}


def _table(value):
  good = isinstance(value, list) and len(value) <= _MOST
  return [numbers(row) for row in value] if good else []


def _part(run, name):
  part = (run.diagnosis or {}).get(name)
  return part if isinstance(part, dict) else {}


def _items(value):
  """Of an object: (name, what it says); a few, and names that can be shown."""
  if not isinstance(value, dict):
    return []
  return [
    (''.join(c if c.isprintable() else '?' for c in name[:200]), told)
    for name, told in list(value.items())[:_MOST]
  ]
