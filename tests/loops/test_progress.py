"""Tests of the progress line: rates and remaining times."""

import pytest

from vid2act_jax.loops import progress

SECTIONS = {'updates': ('updating', 'saving'), 'steps': ('acting',)}


class FakeProfiler:
  """A profiler with given seconds."""

  def __init__(self):
    self.totals = {}

  def seconds(self):
    return self.totals


class TestEstimator:
  def test_each_kind_of_work_has_its_own_pace(self):
    profiler = FakeProfiler()
    none = {'updates': 0, 'steps': 0}
    estimate = progress.Estimator(profiler, SECTIONS, none)
    total = {'updates': 100, 'steps': 1000}
    # 2 s an update, 0.1 s a step; the minute of compiling does not count.
    profiler.totals = {
      'updating': 15.0, 'saving': 5.0, 'acting': 50.0, 'compiling': 60.0
    }  # fmt: skip
    assert estimate({'updates': 10, 'steps': 500}, total) == (
      60.0,
      pytest.approx(90 * 2 + 500 * 0.1),
    )

  def test_nothing_is_known_before_the_first_update(self):
    profiler = FakeProfiler()
    none = {'updates': 0, 'steps': 0}
    estimate = progress.Estimator(profiler, SECTIONS, none)
    total = {'updates': 100, 'steps': 1000}
    profiler.totals = {'acting': 50.0}
    assert estimate({'updates': 0, 'steps': 500}, total).remaining is None

  def test_work_of_an_earlier_start_has_no_time_here(self):
    profiler = FakeProfiler()
    estimate = progress.Estimator(
      profiler, {'updates': ('updating',)}, {'updates': 90}
    )
    profiler.totals = {'updating': 6.0}
    assert estimate({'updates': 92}, {'updates': 100}).remaining == 24.0

  def test_work_that_is_done_takes_no_time(self):
    profiler = FakeProfiler()
    total = {'updates': 5, 'steps': 10}
    estimate = progress.Estimator(profiler, SECTIONS, total)
    assert estimate(total, total).remaining == 0


@pytest.fixture
def clock(monkeypatch):
  """Seconds that the progress line sees; a list of one value."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_compiling_counts_in_no_rate_and_no_remaining_time(clock, capsys):
  line = progress.ProgressLine('finetune')
  line.show(0, 1000, 'env steps', {}, progress.Estimate(0.0, None))
  clock[0] = 50.0  # 40 of them compiling.
  line.show(100, 1000, 'env steps', {}, progress.Estimate(40.0, 75.0))
  first, second = capsys.readouterr().out.splitlines()
  assert first == 'finetune  0/1,000 env steps  0%'
  assert second == 'finetune  100/1,000 env steps  10%  10.0/s  1m15s left'


def test_without_an_estimate_all_steps_take_the_same_time(clock, capsys):
  line = progress.ProgressLine('collect')
  line.show(0, 30, 'episodes', {})
  clock[0] = 20.0
  line.show(10, 30, 'episodes', {'last_return': 12.346})
  last = capsys.readouterr().out.splitlines()[-1]
  assert last == (
    'collect  10/30 episodes  33%  2.0 s each  40s left  last return 12.35'
  )


def test_a_compilation_is_announced_with_its_time(clock):
  said = []
  with progress.announce_compilation(said.append, 'the update'):
    assert said == ['compiling the update; it is cached for the next start']
    clock[0] += 41
  assert said[1:] == ['compiled the update in 41s']
