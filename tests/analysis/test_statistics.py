"""Means, intervals and comparisons of runs, against what can be computed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vid2act_jax.analysis import statistics


def _array(*values):
  return np.array(values, np.float64)


def _curve(steps, values):
  return pd.Series(_array(*values), _array(*steps))


def test_alignment_interpolates_and_never_goes_beyond():
  runs = [
    _curve((10, 20, 40), (1, 2, 6)),
    _curve((0, 30), (0, 3)),
  ]
  aligned = statistics.align(runs, _array(0, 10, 15, 30, 40, 50))
  np.testing.assert_allclose(
      aligned,
      [[np.nan, 1, 1.5, 4, 6, np.nan], [0, 1, 1.5, 3, np.nan, np.nan]],
  )  # fmt: skip
  np.testing.assert_allclose(statistics.common_grid(runs, 3), [10, 20, 30])


def test_runs_without_a_common_step_have_no_grid():
  runs = [_curve((1, 2), (0, 0)), _curve((5, 6), (0, 0))]
  assert not len(statistics.common_grid(runs))
  runs = [_curve((1, 2), (0, 0)), _curve((2, 6), (0, 0))]
  assert statistics.common_grid(runs).tolist() == [2]


def test_final_score_is_of_the_last_evaluations_up_to_the_horizon():
  curve = _curve((1, 2, 3, 4, 5), (10, 20, 30, 40, 1000))
  assert statistics.final_score(curve, 4) == 30
  assert statistics.final_score(curve, 1) == 10


def test_area_is_the_mean_height():
  curve = _curve((0, 10, 20), (0, 10, 10))
  assert statistics.area(curve, 0, 20) == pytest.approx(7.5)
  assert statistics.area(curve, 5, 15) == pytest.approx(8.75)
  assert statistics.area(curve, 5, 5) == 5


def test_interquartile_mean_by_hand():
  assert statistics.iqm(_array(8, 0, 1, 2, 3, 4, 5, 900)) == 3.5
  assert statistics.iqm(_array(0, 1, 5)) == 2  # Of three, none is cut.
  assert statistics.iqm(_array(-100, 1, 3, 100)) == 2
  two = np.stack([_array(8, 0, 1, 2, 3, 4, 5, 900), np.ones(8)], 1)
  assert statistics.iqm(two).tolist() == [3.5, 1]


@pytest.mark.parametrize('count', range(1, 14))
def test_interquartile_mean_as_scipy(count):
  scores = np.random.default_rng(count).normal(size=(count, 5))
  np.testing.assert_allclose(
    statistics.iqm(scores), stats.trim_mean(scores, 0.25, axis=0)
  )


def test_interval_of_two_values_by_hand():
  # The mean of two draws is 0, 1/2 or 1, in 1, 2 and 1 of four cases.
  low, high = statistics.iqm_interval([_array(0, 1)])
  assert (low, high) == (0, 1)


def test_interval_resamples_within_tasks():
  # Between tasks nothing is exchanged: equal seeds give no spread at all.
  strata = [_array(1, 1, 1), _array(5, 5, 5), _array(9, 9, 9)]
  low, high = statistics.iqm_interval(strata)
  assert low == high == statistics.iqm(np.concatenate(strata))


def test_interval_of_curves_is_that_of_each_point():
  rng = np.random.default_rng(0)
  strata = [rng.normal(size=(4, 7)), rng.normal(size=(5, 7))]
  low, high = statistics.iqm_interval(strata, seed=3)
  one = statistics.iqm_interval([s[:, 2] for s in strata], seed=3)
  np.testing.assert_allclose((low[2], high[2]), one)
  assert low.shape == (7,) and (low < high).all()


def test_interval_by_parts_is_as_wide(monkeypatch):
  strata = [np.random.default_rng(0).normal(size=(30, 3))]
  whole = statistics.iqm_interval(strata)
  monkeypatch.setattr(statistics, '_MAX_BATCH', 1000)
  np.testing.assert_allclose(statistics.iqm_interval(strata), whole, atol=0.05)


def test_one_seed_has_no_interval():
  assert statistics.iqm_interval([_array(3)]) is None
  assert statistics.iqm_interval([_array(3), _array(4)]) is None
  assert statistics.iqm_interval([_array(3), _array(4, 5)]) is not None
  assert statistics.improvement_interval([_array(3)], [_array(1)]) is None


@pytest.mark.parametrize(
  'tasks, seeds, least, most', [(5, 10, 0.88, 0.98), (1, 3, 0.65, 0.88)]
)
def test_coverage_of_the_interval(tasks, seeds, least, most):
  """Near 95% with many seeds; with three of one task about 3 in 4."""
  rng = np.random.default_rng(0)
  means = np.linspace(0, 0.2, tasks)
  held = 0
  for trial in range(400):
    strata = [rng.normal(mean, 1, seeds) for mean in means]
    low, high = statistics.iqm_interval(strata, trial, 400)
    held += low <= means.mean() <= high
  assert least <= held / 400 <= most


def test_improvement_by_hand():
  ours, theirs = [_array(1, 2), _array(0, 0)], [_array(0, 2), _array(0, 5)]
  # First task: 1>0, 1<2, 2>0, 2=2: 2.5 of 4; second: two ties of 4: 1 of 4.
  assert statistics.improvement(ours, theirs) == pytest.approx((2.5 + 1) / 8)
  assert statistics.improvement(theirs, ours) == pytest.approx(1 - 3.5 / 8)


def test_improvement_interval_has_both_kinds_resampled():
  ours, theirs = [_array(0, 10, 20, 30)], [_array(5)]
  low, high = statistics.improvement_interval(ours, theirs)
  assert low < 0.75 < high
  swapped = statistics.improvement_interval(theirs, ours)
  assert swapped[0] < 0.25 < swapped[1]


def test_three_seeds_cannot_be_significant():
  ours, theirs = [_array(7, 8, 9)], [_array(1, 2, 3)]
  assert statistics.improvement_interval(ours, theirs) == (1, 1)
  assert statistics.p_value(ours, theirs) == pytest.approx(0.1, abs=0.02)
  # On two tasks they can: 2 of 400 deals.
  assert statistics.p_value(ours * 2, theirs * 2) == pytest.approx(
    0.005, abs=0.003
  )
  assert statistics.p_value(ours, ours) == 1


def test_p_value_is_rarely_small_without_a_difference():
  rng = np.random.default_rng(1)
  small = 0
  for trial in range(200):
    ours, theirs = ([rng.normal(size=5) for _ in range(2)] for _ in range(2))
    small += statistics.p_value(ours, theirs, trial, 400) <= 0.05
  assert small <= 20


def test_intervals_are_those_of_scipy():
  rng = np.random.default_rng(0)
  strata = [rng.normal(size=(20, 3)), rng.normal(1, 2, size=(30, 3))]
  found = statistics.iqm_interval(strata, resamples=10_000)
  expected = stats.bootstrap(
    strata,
    lambda *samples, axis: stats.trim_mean(
      np.concatenate(samples, axis), 0.25, axis=axis
    ),
    n_resamples=10_000,
    method='percentile',
    rng=rng,
  )
  np.testing.assert_allclose(found, expected.confidence_interval, atol=0.03)


def test_p_value_of_one_task_is_that_of_scipy():
  rng = np.random.default_rng(0)
  ours, theirs = rng.normal(1, 1, 5), rng.normal(0, 1, 6)
  expected = stats.permutation_test(
    (ours, theirs),
    lambda x, y: abs(statistics.improvement([x], [y]) - 0.5),
    alternative='greater',
  )
  found = statistics.p_value([ours], [theirs])
  assert found == pytest.approx(expected.pvalue, abs=0.02)
