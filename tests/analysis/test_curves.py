"""Means, intervals and comparisons of runs, against what can be computed."""

import numpy as np
import pytest

from vid2act_jax.analysis import curves


def _array(*values):
  return np.array(values, np.float64)


def test_alignment_interpolates_and_never_goes_beyond():
  runs = [
    (_array(10, 20, 40), _array(1, 2, 6)),
    (_array(0, 30), _array(0, 3)),
  ]
  aligned = curves.align(runs, _array(0, 10, 15, 30, 40, 50))
  np.testing.assert_allclose(
      aligned,
      [[np.nan, 1, 1.5, 4, 6, np.nan], [0, 1, 1.5, 3, np.nan, np.nan]],
  )  # fmt: skip
  np.testing.assert_allclose(curves.common_grid(runs, 3), [10, 20, 30])


def test_runs_without_a_common_step_have_no_grid():
  runs = [(_array(1, 2), _array(0, 0)), (_array(5, 6), _array(0, 0))]
  assert not len(curves.common_grid(runs))
  runs = [(_array(1, 2), _array(0, 0)), (_array(2, 6), _array(0, 0))]
  assert curves.common_grid(runs).tolist() == [2]


def test_final_score_is_of_the_last_evaluations_up_to_the_horizon():
  steps, values = _array(1, 2, 3, 4, 5), _array(10, 20, 30, 40, 1000)
  assert curves.final_score(steps, values, 4) == 30
  assert curves.final_score(steps, values, 1) == 10


def test_area_is_the_mean_height():
  steps, values = _array(0, 10, 20), _array(0, 10, 10)
  assert curves.area(steps, values, 0, 20) == pytest.approx(7.5)
  assert curves.area(steps, values, 5, 15) == pytest.approx(8.75)
  assert curves.area(steps, values, 5, 5) == 5


def test_interquartile_mean_by_hand():
  assert curves.iqm(_array(8, 0, 1, 2, 3, 4, 5, 900)) == 3.5
  assert curves.iqm(_array(0, 1, 5)) == 2  # Of three, none is cut.
  assert curves.iqm(_array(-100, 1, 3, 100)) == 2
  two = np.stack([_array(8, 0, 1, 2, 3, 4, 5, 900), np.ones(8)], 1)
  assert curves.iqm(two).tolist() == [3.5, 1]


@pytest.mark.parametrize('count', range(1, 14))
def test_interquartile_mean_as_scipy(count):
  stats = pytest.importorskip('scipy.stats')
  scores = np.random.default_rng(count).normal(size=(count, 5))
  np.testing.assert_allclose(
    curves.iqm(scores), stats.trim_mean(scores, 0.25, axis=0)
  )


def test_interval_of_two_values_by_hand():
  # The mean of two draws is 0, 1/2 or 1, in 1, 2 and 1 of four cases.
  low, high = curves.iqm_interval([_array(0, 1)])
  assert (low, high) == (0, 1)


def test_interval_resamples_within_tasks():
  # Between tasks nothing is exchanged: equal seeds give no spread at all.
  strata = [_array(1, 1, 1), _array(5, 5, 5), _array(9, 9, 9)]
  low, high = curves.iqm_interval(strata)
  assert low == high == curves.iqm(np.concatenate(strata))


def test_interval_of_curves_is_that_of_each_point():
  rng = np.random.default_rng(0)
  strata = [rng.normal(size=(4, 7)), rng.normal(size=(5, 7))]
  low, high = curves.iqm_interval(strata, seed=3)
  one = curves.iqm_interval([s[:, 2] for s in strata], seed=3)
  np.testing.assert_allclose((low[2], high[2]), one)
  assert low.shape == (7,) and (low < high).all()


def test_interval_by_parts_is_as_wide(monkeypatch):
  strata = [np.random.default_rng(0).normal(size=(30, 3))]
  whole = curves.iqm_interval(strata)
  monkeypatch.setattr(curves, '_CHUNK', 1000)
  np.testing.assert_allclose(curves.iqm_interval(strata), whole, atol=0.05)


def test_one_seed_has_no_interval():
  assert curves.iqm_interval([_array(3)]) is None
  assert curves.iqm_interval([_array(3), _array(4)]) is None
  assert curves.iqm_interval([_array(3), _array(4, 5)]) is not None
  assert curves.improvement_interval([_array(3)], [_array(1)]) is None


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
    low, high = curves.iqm_interval(strata, trial, 400)
    held += low <= means.mean() <= high
  assert least <= held / 400 <= most


def test_improvement_by_hand():
  ours, theirs = [_array(1, 2), _array(0, 0)], [_array(0, 2), _array(0, 5)]
  # First task: 1>0, 1<2, 2>0, 2=2: 2.5 of 4; second: two ties of 4: 1 of 4.
  assert curves.improvement(ours, theirs) == pytest.approx((2.5 + 1) / 8)
  assert curves.improvement(theirs, ours) == pytest.approx(1 - 3.5 / 8)


def test_improvement_interval_has_both_kinds_resampled():
  ours, theirs = [_array(0, 10, 20, 30)], [_array(5)]
  low, high = curves.improvement_interval(ours, theirs)
  assert low < 0.75 < high
  swapped = curves.improvement_interval(theirs, ours)
  assert swapped[0] < 0.25 < swapped[1]


def test_three_seeds_cannot_exclude_chance():
  ours, theirs = [_array(7, 8, 9)], [_array(1, 2, 3)]
  assert curves.improvement_interval(ours, theirs) == (1, 1)
  assert curves.chance(ours, theirs) == pytest.approx(0.1, abs=0.02)
  # On two tasks they can: 2 of 400 deals.
  assert curves.chance(ours * 2, theirs * 2) == pytest.approx(0.005, abs=0.003)
  assert curves.chance(ours, ours) == 1


def test_chance_is_rarely_small_where_there_is_nothing():
  rng = np.random.default_rng(1)
  small = 0
  for trial in range(200):
    ours, theirs = ([rng.normal(size=5) for _ in range(2)] for _ in range(2))
    small += curves.chance(ours, theirs, trial, 400) <= 0.05
  assert small <= 20
