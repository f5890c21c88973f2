"""Tests of the benchmark of the online loop, with a made-up clock."""

import types

import pytest

from benchmarks import loop
from experiments import (
  base,
  debug,
  dmc_hopper,
  dmc_quadruped,
  gym_cartpole,
  learning_check,
  metaworld,
)
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


FULL_SIZE = base, dmc_quadruped, dmc_hopper, metaworld


@pytest.mark.parametrize('experiment', FULL_SIZE)
@pytest.mark.parametrize('step', [0.001, 0.01, 1.0])
def test_full_size_evaluations_take_a_tenth(experiment, step):
  """With the H100's 12.6 ms an update, however slowly frames are rendered."""
  seconds = loop.Seconds(0.0126, 0.001, step)
  assert loop.expected_share(experiment.get_config(), seconds) <= 0.1


@pytest.mark.parametrize(
  'experiment, seconds',
  [
    (learning_check, loop.Seconds(0.065, 0.0035, 0.0012)),
    (gym_cartpole, loop.Seconds(0.045, 0.001, 0.0024)),
  ],
)
def test_evaluations_on_two_cores_take_a_tenth(experiment, seconds):
  assert loop.expected_share(experiment.get_config(), seconds) <= 0.1


def test_the_expected_share():
  config = (
    debug.get_config()
  )  # 100 env steps, 40 of them random, 4 + 12 updates
  config.env.num, config.evaluate.envs = 1, 2
  # Evaluations at 40, 80 and 100 env steps, of two episodes of 20 steps.
  evaluating = 3 * 20 * (0.5 + 2 * 0.25)
  training = 100 * 0.5 + max(16 * 3.0, 100 * 0.25)
  found = loop.expected_share(config, loop.Seconds(3.0, 0.5, 0.25))
  assert found == pytest.approx(evaluating / (evaluating + training))
  config.env.parallel = True  # Both environments step at once.
  evaluating = 3 * 20 * (0.5 + 0.25)
  found = loop.expected_share(config, loop.Seconds(3.0, 0.5, 0.25))
  assert found == pytest.approx(evaluating / (evaluating + training))
