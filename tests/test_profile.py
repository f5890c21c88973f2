"""Adding up where the time of a stage goes."""

import time

import pytest

from vid2act_jax.loops.profile import Profiler


def test_parts_within_parts(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  profiler = Profiler()

  def spend(seconds):
    now[0] += seconds

  for _ in range(3):
    with profiler.part('stepping'):
      spend(1)
      with profiler.part('acting'):
        spend(10)
      spend(1)
    spend(100)
  # The first time of what is compiled is told by itself.
  assert profiler.seconds() == {
    'stepping': 6,
    'compiling': 10,
    'acting': 20,
    'other': 300,
  }
  assert 'other           300.00 s   89.3%' in profiler.table()


def test_a_part_that_fails_is_counted():
  profiler = Profiler()
  with pytest.raises(ValueError), profiler.part('storing'):
    raise ValueError
  assert set(profiler.seconds()) == {'storing', 'other'}


def test_a_stage_too_short_for_its_trace(tmp_path):
  profiler = Profiler(tmp_path)
  for _ in range(6):
    profiler.updated(())
  profiler.close()
  assert list(tmp_path.rglob('*.xplane.pb'))
