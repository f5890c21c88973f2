"""Tests of the benchmark of the online loop, with a made-up clock."""

import types

import pytest

from benchmarks import loop
from experiments import dmc_quadruped
from vid2act_jax.loops.preemption import Preempted


def test_compiling_and_evaluating_count_in_no_rate(monkeypatch):
  now, sections = [0.0], {'compiling': 0.0, 'evaluating': 0.0, 'updating': 0.0}
  monkeypatch.setattr(loop.time, 'perf_counter', lambda: now[0])
  window = loop.Window(10.0)
  window.check()  # No loop yet.
  counters = types.SimpleNamespace(evaluated=-1)
  profiler = types.SimpleNamespace(seconds=lambda: dict(sections))
  window.loop = types.SimpleNamespace(
    counters=counters, env_steps=100, profiler=profiler
  )
  window.check()  # Before the first evaluation.
  counters.evaluated = 100
  window.check()
  now[0] += 40
  sections['compiling'] += 35
  window.check()  # Five seconds.
  now[0] += 6
  sections.update(evaluating=1.0, updating=7.0)
  window.loop.env_steps = 300
  with pytest.raises(Preempted):
    window.check()
  assert window.figures == {
    'env_steps_per_s': 20.0, 'seconds': 11.0, 'updating_s': 7.0
  }  # fmt: skip


def test_the_sources_of_the_benchmark_are_small():
  config = loop.small_sources(dmc_quadruped.get_config().lock())
  assert config.task == 'dmc_quadruped_run'
  assert config.pretrain.steps == 1 and config.collect.policy == 'random'
  whole = dmc_quadruped.get_config().finetune.env_steps
  assert config.finetune.env_steps == whole
