"""The online loop: env steps a second, its parts, and the time of a whole run.

  python -m benchmarks.loop
  python -m benchmarks.loop --seconds 60 --config.seeds=4

Runs the finetuning of dmc_quadruped.py on quadruped run (or --config) for some
seconds after the first evaluation, in a temporary folder, and projects the time
of the whole schedule, evaluations included. Few random episodes are the
sources, and the teacher is hardly trained: neither changes the speed. Parts are
where the loop waits: on an accelerator, the time of an update counts where its
result is needed.
"""

import argparse
import math
import pathlib
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from benchmarks import measure
from experiments.grid import configs
from vid2act_jax.loops import finetune_setup, runs, seeds, stages
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.finetune import Finetuner
from vid2act_jax.loops.preemption import Preempted, PreemptionHandler
from vid2act_jax.loops.schedule import Counters, finetune_schedule
from vid2act_jax.types import UserError

_EXPERIMENT = '--config=experiments/dmc_quadruped.py'
_TASK = 'dmc_quadruped_run'  # Of the default experiment.
_SOURCE_EPISODES = 3


class Seconds(NamedTuple):
  """Seconds of the parts of a loop.

  update: of an update.
  policy: of a call of the policy, also for several environments.
  step: of an agent step of one environment, with its frame.
  """

  update: float
  policy: float
  step: float


def expected_share(config, seconds: Seconds) -> float:
  """The evaluations' share of the time of a finetuning, from its config.

  Environments step while the device updates: in worker processes, which have
  a core each, all at once; in one process, one after another.
  """
  schedule = finetune_schedule(config)
  num, repeat = config.env.num, config.env.action_repeat
  parallel = config.env.parallel
  stepping = lambda envs: seconds.step * (1 if parallel else envs)
  acting = schedule.env_steps / repeat / num * seconds.policy
  parts = (
    schedule.num_updates * seconds.update,
    schedule.env_steps / repeat / num * stepping(num),
  )
  training = acting + max(parts)
  envs = min(config.evaluate.envs, config.evaluate.episodes)
  rounds = math.ceil(config.evaluate.episodes / envs)
  steps = rounds * config.env.time_limit / repeat
  steps *= schedule.evaluations_left(Counters())
  evaluating = steps * (seconds.policy + stepping(envs))
  return evaluating / (evaluating + training)


class Window(PreemptionHandler):
  """Stops a loop some time after its first evaluation.

  Attributes:
    loop: set before the loop runs.
    figures: of the time in between; {} before its end.
  """

  def __init__(self, seconds: float):
    super().__init__()
    self.loop: Finetuner | None = None
    self.figures: dict[str, float] = {}
    self._seconds, self._start = seconds, None

  def check(self, all_hosts=False):
    """See `PreemptionHandler.check`; called in every step of the loop."""
    if self.loop is None or self.loop.counters.evaluated < 0:
      return
    sections = self.loop.profiler.seconds()
    # Compiling does not count.
    seconds = time.perf_counter() - sections.get('compiling', 0.0)
    now = seconds, self.loop.env_steps, sections
    if self._start is None:
      self._start = now
    if now[0] - self._start[0] < self._seconds:
      return
    seconds, steps = (now[i] - self._start[i] for i in (0, 1))
    parts = {
      f'{name}_s': value - self._start[2].get(name, 0.0)
      for name, value in sections.items()
      if name != 'compiling'
    }
    evaluating = parts.pop('evaluating_s', 0.0)
    rate = steps / (seconds - evaluating)
    self.figures = {'env_steps_per_s': rate, 'seconds': seconds, **parts}
    raise Preempted('measured')


def measure_seed(config, folder: pathlib.Path, execution: Execution, seconds):
  """Runs one seed, and returns its figures."""
  runs.init_workdir(folder, config)
  stages.run_collect(config, folder, execution)
  stages.run_pretrain(config, folder, execution)
  window, schedule = Window(seconds), finetune_schedule(config)
  execution = Execution(False, window, execution.calls, execution.devices)
  setup = finetune_setup.setup_finetune
  with setup(config, folder, execution, folder / 'r') as built:
    loop = window.loop = Finetuner(built)
    try:
      loop.run()
    except Preempted:
      window.loop = None  # The rest is not stopped.
    started = time.perf_counter()
    if built.evaluator:
      built.evaluator(loop.policy_state(), 1)
    evaluation = time.perf_counter() - started
  figures = window.figures
  if not figures:
    raise UserError(
      f'config.finetune.env_steps={schedule.env_steps}: the run ended before'
      f' {seconds} s had passed after its first evaluation; measure a longer'
      ' one, or for fewer --seconds'
    )
  evaluations = evaluation * schedule.evaluations_left(Counters())
  total = schedule.env_steps / figures['env_steps_per_s'] + evaluations
  return {
    **figures,
    'evaluation_s': evaluation,
    'evaluation_share': evaluations / total,
    'projected_minutes': total / 60,
  }


def small_sources(config):
  """The config with few random episodes and few updates of the teacher."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.collect.update(policy='random', episodes=_SOURCE_EPISODES)
    config.pretrain.update(steps=1, video_every=0)
    config.finetune.video_every = 0
    if config.name == 'dmc_quadruped':
      config.task = _TASK
  return config


def main():
  """Measures all seeds, and reports the slowest."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seconds', type=float, default=60)
  args, overrides = parser.parse_known_args()
  if not any(x.startswith('--config=') for x in overrides):
    overrides = [_EXPERIMENT, *overrides]
  config = small_sources(configs.load(overrides))
  results, lock = {}, threading.Lock()
  if not (config.evaluate.every and config.evaluate.episodes):
    sys.exit('error: config.evaluate: the measurement needs evaluations')

  def run_one(config, folder, execution):
    figures = measure_seed(config, folder, execution, args.seconds)
    with lock:
      results[config.seed] = figures

  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    if seeds.parse(config):
      seeds.run(config, workdir, Execution(), run_one)
    else:
      run_one(config, workdir, Execution())
  slowest = max(results.values(), key=lambda x: x['projected_minutes'])
  figures = {'task': config.task, 'seeds': len(results), **slowest}
  measure.report({**figures, **measure.machine()})


if __name__ == '__main__':
  main()
