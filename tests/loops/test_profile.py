"""The profiler of a stage."""

import threading
import time

import jax
import pytest

from vid2act_jax.loops.profile import Profiler


def test_nested_sections(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  profiler = Profiler()

  def spend(seconds):
    now[0] += seconds

  for _ in range(3):
    with profiler.section('stepping'):
      spend(1)
      with profiler.section('acting'):
        spend(10)
      spend(1)
    spend(100)
  profiler.close()
  assert profiler.seconds() == {'stepping': 6, 'acting': 30, 'other': 300}
  assert 'other           300.00 s   89.3%' in profiler.table()


def test_compiling_is_a_separate_section(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  profiler = Profiler()
  other = Profiler()
  other.close()  # Does not listen any more.

  def record_compilation(kind, seconds, since):
    now[0] = since + seconds
    jax.monitoring.record_event_duration_secs(
      f'/jax/core/compile/{kind}_duration', seconds
    )

  with profiler.section('acting'):
    record_compilation('jaxpr_trace', 2, 3)  # 3 to 5, in the third.
    record_compilation('jaxpr_trace', 1, 6)  # 6 to 7, in the third.
    record_compilation('jaxpr_trace', 8, 1)  # 1 to 9
    record_compilation('backend_compile', 20, 10)  # 10 to 30
    thread = threading.Thread(
      target=record_compilation, args=('backend_compile', 5, 30)
    )
    thread.start()  # 30 to 35, in parallel to the acting.
    thread.join()
    now[0] = 36.0
  with profiler.section('storing'):
    now[0] = 40.0
  profiler.close()
  expected = {'compiling': 28, 'acting': 8, 'storing': 4, 'other': 0}
  assert profiler.seconds() == expected
  assert other.seconds() == {'other': 40}


def test_compiling_is_counted():
  profiler = Profiler()
  with profiler.section('updating'):
    jax.jit(lambda x: x + 1)(1.0)
  profiler.close()
  assert profiler.seconds()['compiling'] > 0


def test_section_that_raises_is_counted():
  profiler = Profiler()
  with pytest.raises(ValueError), profiler.section('storing'):
    raise ValueError
  profiler.close()
  assert set(profiler.seconds()) == {'storing', 'other'}


def test_trace_of_a_stage_that_ends_early(tmp_path):
  profiler = Profiler(tmp_path)
  for _ in range(6):
    profiler.updated(())
  profiler.close()
  assert list(tmp_path.rglob('*.xplane.pb'))
