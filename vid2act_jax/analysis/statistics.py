"""Statistics of learning curves over seeds and tasks.

Definitions of Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of
the Statistical Precipice (arXiv 2108.13264), as in rliable. A curve is a
pandas Series of values by ascending step. `Strata` are lists of scores, one
array per task, seeds first: [S_m, ...]; the numbers of seeds S_m may differ.

SciPy's `bootstrap` refuses tasks with a single seed, and its `permutation_test`
permutes over all tasks, not within each.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95
ALPHA = 0.05  # Largest p-value at which a difference is called significant.
LAST = 3  # Evaluations averaged in a final score: one alone is noisy.
_MAX_BATCH = 1 << 23  # Numbers resampled at a time: 64 MB.

Strata = Sequence[np.ndarray]


def align(curves: Sequence[pd.Series], grid: np.ndarray) -> np.ndarray:
  """Interpolates curves at steps [G]: values [S, G], NaN outside a curve."""
  nan = {'left': np.nan, 'right': np.nan}
  return np.array([np.interp(grid, x.index, x, **nan) for x in curves])


def common_grid(curves: Sequence[pd.Series], points: int = 101) -> np.ndarray:
  """Returns equally spaced steps [G] at which all curves have a value.

  They run from the latest first to the earliest last step; the grid is empty
  if the curves have no step in common, or there are none.
  """
  low = max((curve.index[0] for curve in curves), default=1)
  high = min((curve.index[-1] for curve in curves), default=0)
  if high < low:
    return np.zeros(0)
  return np.linspace(low, high, points if high > low else 1)


def final_score(curve: pd.Series, horizon: float) -> float:
  """Returns the mean of the last 3 (or fewer) evaluations up to a step."""
  return float(curve[curve.index <= horizon].tail(LAST).mean())


def area(curve: pd.Series, low: float, high: float) -> float:
  """Returns the mean height of a curve between two steps within its range."""
  if high <= low:
    return float(np.interp(high, curve.index, curve))
  inner = curve.index[(curve.index > low) & (curve.index < high)]
  grid = np.array([low, *inner, high])
  heights = np.interp(grid, curve.index, curve)
  return float(np.trapezoid(heights, grid) / (high - low))


def iqm(scores: np.ndarray) -> np.ndarray:
  """Returns the interquartile mean over the first axis: [R, ...] -> [...].

  A quarter of the scores, rounded down, is cut at either end: up to three
  scores give their plain mean.
  """
  return stats.trim_mean(scores, 0.25, axis=0)


def iqm_interval(strata: Strata, seed: int = 0, resamples: int = RESAMPLES):
  """Returns the stratified bootstrap interval of the interquartile mean.

  Lower and upper 95% bounds [...], or None if no task has two seeds.
  """
  pooled_iqm = lambda *strata: iqm(np.concatenate(strata))
  return _bootstrap(pooled_iqm, strata, seed, resamples)


def improvement(ours: Strata, theirs: Strata):
  """Returns the probability that a run of ours is better than one of theirs.

  P(X > Y) + P(X = Y) / 2 over all pairs of runs of a task (Mann-Whitney),
  averaged over the tasks: per task [S_m, ...] and [Z_m, ...] -> [...].
  """
  pairs = zip(ours, theirs, strict=True)
  signs = (np.sign(x[:, None] - y[None]) for x, y in pairs)
  return np.mean([(sign.mean((0, 1)) + 1) / 2 for sign in signs], 0)


def improvement_interval(
  ours: Strata, theirs: Strata, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
  """Returns the stratified bootstrap interval of `improvement`.

  Seeds of both are resampled; None if no task has two seeds of either. If all
  of ours are above all of theirs, it is [1, 1] however few they are: read it
  together with `p_value`.
  """
  split = lambda *x: improvement(x[: len(ours)], x[len(ours) :])
  bounds = _bootstrap(split, [*ours, *theirs], seed, resamples)
  return bounds and tuple(map(float, bounds))


def p_value(
  ours: Strata, theirs: Strata, seed: int = 0, permutations: int = 10_000
) -> float:
  """Returns the p-value of a two-sided permutation test of `improvement`.

  Runs are exchanged within each task. Three against three runs of one task
  cannot give less than 1 in 10.
  """
  rng = np.random.default_rng(seed)
  permuted = []
  for x, y in zip(ours, theirs, strict=True):
    both = np.concatenate([x, y])
    order = rng.random((permutations, len(both))).argsort(1)
    permuted.append(np.split(both[order].T, [len(x)]))
  null = abs(improvement(*zip(*permuted, strict=True)) - 0.5)
  observed = abs(improvement(ours, theirs) - 0.5)
  # The observed assignment is one of the permutations.
  return float(((null >= observed - 1e-12).sum() + 1) / (permutations + 1))


def _bootstrap(statistic: Callable, strata, seed, resamples):
  """Percentile interval; seeds [S_m, ...] are resampled to [S_m, R, ...]."""
  if all(len(scores) < 2 for scores in strata):
    return None
  rng = np.random.default_rng(seed)
  batch = max(1, _MAX_BATCH // max(1, sum(scores.size for scores in strata)))
  values = []
  for start in range(0, resamples, batch):
    count = min(batch, resamples - start)
    draws = (x[rng.integers(len(x), size=(len(x), count))] for x in strata)
    values.append(statistic(*draws))
  tails = np.array([1 - CONFIDENCE, 1 + CONFIDENCE]) * 50
  return tuple(np.percentile(np.concatenate(values), tails, axis=0))
