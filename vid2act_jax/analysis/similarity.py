"""What a run's similarity weights do, and whether they find what is known.

Where the sources hold the target's own task, the same task twice, or noise,
it is known beforehand what weights with a meaning should look like.
"""

import itertools
import math

import numpy as np

from vid2act_jax.analysis.reading import Run

NOISE = 'probe_noise'
AGREES = 'as expected'
_ENTROPIES = 'train/similarity_entropy', 'similarity_entropy'
# Of the told points, at the end: one alone is of a few updates.
_END_SHARE = 0.1
# Two of the same data should be weighted alike; the network sees nothing that
# tells them apart but the teacher's label.
_DUPLICATES_DIFFER = 0.2  # of their sum
_BARELY = 0.01  # Weights nearer to each other than that are alike.
# These are given or never learned: no evidence of anything.
GIVEN = ('uniform', 'frozen_weights', 'single')


def weights(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """(steps [T], {source: weights [T]}), in the order of the sources.

  Only the steps at which all of the sources have one.
  """
  told = {
    key.removeprefix('similarity/')
    for row in run.metrics
    if row['stage'] == 'finetune'
    for key in row
    if key.startswith('similarity/')
  }
  order = [name for name in run.sources if name in told]
  order += sorted(told - set(order))
  by_source = {name: _by_step(run, f'similarity/{name}') for name in order}
  if not by_source:
    return np.zeros(0), {}
  common = sorted(set.intersection(*map(set, by_source.values())))
  return np.array(common), {
    name: np.array([values[step] for step in common])
    for name, values in by_source.items()
  }


def _by_step(run, key):
  steps, values = run.series(key)
  return dict(zip(steps.tolist(), values.tolist(), strict=True))


def entropy(run: Run) -> tuple[np.ndarray, np.ndarray, bool]:
  """Of the weights, in nats: (steps [T], values [T], whether it was told).

  Where it was not, it is that of the mean weights, which is never lower.
  """
  for key in _ENTROPIES:
    steps, values = run.series(key)
    if len(steps):
      return steps, values, True
  steps, by_source = weights(run)
  if not by_source:
    return steps, np.zeros(0), False
  shares = np.clip(np.stack(list(by_source.values())), 1e-12, 1)
  return steps, -(shares * np.log(shares)).sum(0), False


def at_the_end(run: Run) -> dict[str, float]:
  """{source: mean weight over the last tenth of what was told}."""
  steps, by_source = weights(run)
  count = max(1, math.ceil(len(steps) * _END_SHARE))
  return {
    name: float(values[-count:].mean())
    for name, values in by_source.items()
    if len(values)
  }


def is_given(run: Run) -> bool:
  """Whether the variant sets the weights, so that they tell nothing."""
  return (run.variant or '').split(':')[0] in GIVEN


def meaning(task: str) -> str:
  """A task's name without modifiers that change nothing.

  'a@copy=1,mass=1.0,gravity=2' is 'a@gravity=2'.
  """
  base, _, modifiers = task.partition('@')
  kept = []
  for modifier in filter(None, modifiers.split(',')):
    key, _, value = modifier.partition('=')
    factor = key in ('gravity', 'gain', 'mass')
    if key != 'copy' and not (factor and _is_one(value)):
      kept.append(modifier)
  return '@'.join([base, ','.join(sorted(kept))] if kept else [base])


def _is_one(text):
  try:
    return float(text) == 1
  except ValueError:
    return False


def relevance(run: Run) -> list[dict[str, str]]:
  """What is known beforehand, what was seen, and whether they agree.

  Args:
    run: with sources; without weights, or with given ones, there is nothing.

  Returns:
    Rows of what, expected, seen and verdict, in words.
  """
  end = at_the_end(run)
  if len(end) < 2 or is_given(run):
    return []
  alike: dict[str, list[str]] = {}
  for name in end:
    alike.setdefault(meaning(name), []).append(name)
  rows = []
  if own := alike.get(meaning(run.task or '')):
    rows.append(_same_task(own, end))
  for names in alike.values():
    for first, second in itertools.combinations(names, 2):
      rows.append(_duplicates(first, second, end))
  if noise := alike.get(NOISE):
    rows.append(_noise(noise, end))
  return [row for row in rows if row]


def _same_task(own, end):
  # Not sums: a softmax gives a source its weight against each other one
  # whether or not there is a second of its kind.
  what = 'same task as the target', 'its weight is the largest', 'next'
  return _beside(own, end, max, *what)


def _noise(noise, end):
  what = 'pure noise', 'its weight is the lowest', 'lowest other'
  return _beside(noise, end, min, *what)


def _beside(own, end, extreme, what, expected, other):
  """The heaviest of some sources beside the extreme one of the others."""
  others = [name for name in end if name not in own]
  if not others:
    return None
  name, beside = max(own, key=end.get), extreme(others, key=end.get)
  return _row(
    what,
    expected,
    f'{name} {end[name]:.3f}, {other} {beside} {end[beside]:.3f}',
    extreme((name, beside), key=end.get) == name,
    abs(end[name] - end[beside]) < _BARELY,
  )


def _duplicates(first, second, end):
  a, b = end[first], end[second]
  share = abs(a - b) / max(a + b, 1e-12)
  return _row(
    'the same data twice',
    f'weights differ by less than {_DUPLICATES_DIFFER:.0%} of their sum',
    f'{first} {a:.3f}, {second} {b:.3f}: {share:.0%}',
    share < _DUPLICATES_DIFFER,
    False,
  )


def _row(what, expected, seen, agrees, barely):
  if barely:
    verdict = f'too close to tell (less than {_BARELY} apart)'
  else:
    verdict = AGREES if agrees else 'NOT as expected'
  return {'what': what, 'expected': expected, 'seen': seen, 'verdict': verdict}
