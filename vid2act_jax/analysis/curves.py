"""Learning curves of several seeds and tasks, and how sure they are.

Written from the definitions of Agarwal et al. 2021, Deep Reinforcement
Learning at the Edge of the Statistical Precipice (arXiv 2108.13264).
Scores are lists of arrays, one for each task (stratum), with the seeds in the
first axis: [S_m, ...]. The numbers of seeds S_m may differ.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
LAST = 3  # Evaluations that make a final score: one alone is noisy.
_CHUNK = 1 << 23  # Numbers resampled at a time: 64 MB.

Strata = Sequence[np.ndarray]


def align(
  curves: Sequence[tuple[np.ndarray, np.ndarray]], grid: np.ndarray
) -> np.ndarray:
  """Interpolates curves at common steps; never before or beyond a curve's own.

  Args:
    curves: (steps [T], values [T]) of each run, by step.
    grid: steps [G].

  Returns:
    Values [S, G]; NaN where a run was not evaluated yet, or no more.
  """
  rows = [
    np.interp(grid, steps, values, left=np.nan, right=np.nan)
    for steps, values in curves
  ]
  return np.array(rows).reshape(len(curves), len(grid))


def common_grid(
  curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 101
) -> np.ndarray:
  """Equally spaced steps [G] at which all runs have a value.

  From the latest first to the earliest last evaluation; none if no step is
  common to all.
  """
  low = max(steps[0] for steps, _ in curves)
  high = min(steps[-1] for steps, _ in curves)
  if high < low:
    return np.zeros(0)
  return np.linspace(low, high, points if high > low else 1)


def final_score(steps: np.ndarray, values: np.ndarray, horizon: float) -> float:
  """Mean of the last 3 evaluations up to a step; of fewer where there are.

  Args:
    steps: [T], ascending, the first not beyond the horizon.
    values: [T].
    horizon: the step.
  """
  return float(values[steps <= horizon][-LAST:].mean())


def area(steps: np.ndarray, values: np.ndarray, low: float, high: float):
  """Mean height of a curve between two steps: who learns sooner has more.

  Args:
    steps: [T], ascending, from `low` or before to `high` or after.
    values: [T].
    low, high: in steps.
  """
  if high <= low:
    return float(np.interp(high, steps, values))
  inner = steps[(steps > low) & (steps < high)]
  grid = np.concatenate([[low], inner, [high]])
  return float(
    np.trapezoid(np.interp(grid, steps, values), grid) / (high - low)
  )


def iqm(scores: np.ndarray) -> np.ndarray:
  """Interquartile mean over the first axis: [R, ...] -> [...].

  A quarter of the scores, rounded down, is left out at either end: of up to
  three none, so that it is their mean.
  """
  cut = len(scores) // 4
  return np.sort(scores, 0)[cut : len(scores) - cut].mean(0)


def iqm_interval(
  strata: Strata, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray] | None:
  """Stratified bootstrap interval of the interquartile mean.

  Seeds are drawn with replacement within each task; 95% of the resampled means
  lie within.

  Args:
    strata: per task [S_m, ...].
    seed: of the draws.
    resamples: how many.

  Returns:
    Lower and upper bounds [...], or None where no task has two seeds.
  """
  return _interval([strata], lambda s: iqm(np.concatenate(s)), seed, resamples)


def improvement(ours: Strata, theirs: Strata) -> float:
  """Probability that a run of ours is better than one of theirs.

  P(X > Y) + P(X = Y) / 2 over all pairs of runs of a task (Mann-Whitney),
  averaged over the tasks.

  Args:
    ours: per task [S_m].
    theirs: per task [Z_m], the same tasks.
  """
  return float(_improvement(_columns(ours), _columns(theirs))[0])


def improvement_interval(
  ours: Strata, theirs: Strata, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
  """Stratified bootstrap interval of `improvement`, seeds of both resampled.

  None where no task has two seeds of either. All of ours above all of theirs
  gives [1, 1] however few they are: look at `chance` as well.
  """
  found = _interval(
    [ours, theirs],
    lambda a, b: _improvement(_columns(a, 2), _columns(b, 2)),
    seed,
    resamples,
  )
  return found and (float(found[0]), float(found[1]))


def chance(
  ours: Strata, theirs: Strata, seed: int = 0, permutations: int = 10_000
) -> float:
  """How often chance alone parts two kinds of runs as much as was seen.

  A two-sided permutation test of `improvement`: runs are dealt anew to the two
  kinds within each task. Three against three runs of one task cannot give less
  than 1 in 10, however they come out.

  Args:
    ours: per task [S_m].
    theirs: per task [Z_m].
    seed: of the permutations.
    permutations: how many.
  """
  rng = np.random.default_rng(seed)
  seen = abs(improvement(ours, theirs) - 0.5)
  dealt_ours, dealt_theirs = [], []
  for x, y in zip(ours, theirs, strict=True):
    both = np.concatenate([x, y])
    order = rng.random((permutations, len(both))).argsort(1)
    dealt_ours.append(both[order[:, : len(x)]].T)
    dealt_theirs.append(both[order[:, len(x) :]].T)
  dealt = abs(_improvement(dealt_ours, dealt_theirs) - 0.5)
  # The one that was seen is a deal, too.
  return float(((dealt >= seen - 1e-12).sum() + 1) / (permutations + 1))


def _columns(strata, ndim=1):
  return [s if s.ndim == 2 or ndim == 2 else s[:, None] for s in strata]


def _improvement(ours, theirs):
  """Per task [S, R] and [Z, R] -> [R]."""
  each = []
  for x, y in zip(ours, theirs, strict=True):
    sign = np.sign(x[:, None] - y[None])
    each.append((sign.mean((0, 1)) + 1) / 2)
  return np.mean(each, 0)


def _interval(groups: list[Strata], statistic: Callable, seed, resamples):
  """Percentiles of a statistic over resampled seeds, [R] draws at a time.

  Args:
    groups: of strata, per task [S_m, ...].
    statistic: groups with seeds first and draws second, [S_m, R, ...] ->
      [R, ...].
    seed: of the draws.
    resamples: R over all.
  """
  if all(len(s) < 2 for strata in groups for s in strata):
    return None
  rng = np.random.default_rng(seed)
  numbers = sum(s.size for strata in groups for s in strata)
  each = max(1, min(resamples, _CHUNK // max(1, numbers)))
  drawn = []
  for start in range(0, resamples, each):
    count = min(each, resamples - start)
    drawn.append(
      statistic(
        *(
          [s[rng.integers(len(s), size=(len(s), count))] for s in strata]
          for strata in groups
        )
      )
    )
  tail = (1 - CONFIDENCE) / 2 * 100
  low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail], axis=0)
  return low, high
