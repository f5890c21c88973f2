"""Adding up where the time of a stage goes."""

import threading
import time

import jax
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
  profiler.close()
  assert profiler.seconds() == {'stepping': 6, 'acting': 30, 'other': 300}
  assert 'other           300.00 s   89.3%' in profiler.table()


def test_compiling_is_a_part_of_its_own(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  profiler = Profiler()
  other = Profiler()
  other.close()  # Hears of nothing any more.

  def compiled(kind, seconds, since):
    now[0] = since + seconds
    jax.monitoring.record_event_duration_secs(
      f'/jax/core/compile/{kind}_duration', seconds
    )

  with profiler.part('acting'):
    compiled('jaxpr_trace', 2, 3)  # 3 to 5, within the next.
    compiled('jaxpr_trace', 1, 6)  # 6 to 7, too.
    compiled('jaxpr_trace', 8, 1)  # 1 to 9
    compiled('backend_compile', 20, 10)  # 10 to 30
    elsewhere = threading.Thread(
      target=compiled, args=('backend_compile', 5, 30)
    )
    elsewhere.start()  # 30 to 35, beside the acting.
    elsewhere.join()
    now[0] = 36.0
  with profiler.part('storing'):
    now[0] = 40.0
  profiler.close()
  told = {'compiling': 28, 'acting': 8, 'storing': 4, 'other': 0}
  assert profiler.seconds() == told
  assert other.seconds() == {'other': 40}


def test_compiling_is_heard_of():
  profiler = Profiler()
  with profiler.part('updating'):
    jax.jit(lambda x: x + 1)(1.0)
  profiler.close()
  assert profiler.seconds()['compiling'] > 0


def test_a_part_that_fails_is_counted():
  profiler = Profiler()
  with pytest.raises(ValueError), profiler.part('storing'):
    raise ValueError
  profiler.close()
  assert set(profiler.seconds()) == {'storing', 'other'}


def test_a_stage_too_short_for_its_trace(tmp_path):
  profiler = Profiler(tmp_path)
  for _ in range(6):
    profiler.updated(())
  profiler.close()
  assert list(tmp_path.rglob('*.xplane.pb'))
