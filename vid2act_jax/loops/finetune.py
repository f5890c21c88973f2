"""The online stage: acts in the target task and learns from it.

The policy's call for a step is queued behind the update whose parameters it
needs, and the next update behind that call, before the host waits for the
actions: the device goes on without the host. Metrics are fetched once the next
update is queued. Results do not depend on this order.
"""

import dataclasses
import time

import numpy as np

from vid2act_jax import sharding
from vid2act_jax.loops import metrics as metrics_lib
from vid2act_jax.loops.finetune_setup import FinetuneSetup
from vid2act_jax.loops.preemption import Preempted
from vid2act_jax.loops.progress import Estimate, Estimator
from vid2act_jax.loops.schedule import is_due
from vid2act_jax.loops.seed_state import an_array, materialize

# Sections of the profiler by kind of work, for the remaining time.
_SECTIONS = {
  'updates': ('sampling', 'updating', 'predicting', 'logging', 'saving'),
  'steps': ('stepping', 'acting', 'storing'),
  'evaluations': ('evaluating',),
}


class Finetuner:
  """The online training loop: learns, evaluates, acts, logs and saves."""

  def __init__(self, setup: FinetuneSetup):
    """Takes the built objects, fresh or restored from a checkpoint."""
    self._setup, self._context = setup, setup.context
    self._logger, self._profiler = setup.context.logger, setup.context.profiler
    self._schedule, self._interaction = setup.schedule, setup.interaction
    self.state, self.counters = setup.state, setup.interaction.counters
    self._local_state = None  # This host's copy of the state, to act with.
    self._recent: dict[str, float] = {}  # Returns, for the progress line.
    self._num_evaluations = 0  # By this start.
    # Env steps of metrics still to be logged.
    self._unlogged: int | None = None
    self._estimator = Estimator(self._profiler, _SECTIONS, self._work_done())

  @property
  def profiler(self):
    """The profiler of the stage."""
    return self._profiler

  @property
  def env_steps(self) -> int:
    """Env steps in the training environments so far."""
    return self._schedule.env_steps_done(self.counters)

  def run(self):
    """Trains to the end of the schedule; returns the final state.

    Raises:
      Preempted: the run was asked to stop; a checkpoint has been written.
    """
    try:
      self._train()
    except Preempted:
      self._save()
      raise
    self._save()
    return self.state

  def _train(self):
    counters, schedule = self.counters, self._schedule
    preemption = self._context.preemption
    # Updates and evaluations come before acting: a resumed run may owe some.
    while True:
      while counters.updates < schedule.updates_due(counters):
        self._learn()
        self._show_progress()
        preemption.check(all_hosts=True)
      self._interaction.send_actions()
      if schedule.evaluation_due(counters):
        self._evaluate()
      self._show_progress()
      if self.env_steps >= schedule.env_steps:
        break
      preemption.check(all_hosts=True)
      self._act()

  def _show_progress(self):
    self._logger.progress(
      self.env_steps,
      self._schedule.env_steps,
      'env steps',
      self._estimate(),
      updates=self.counters.updates,
      **self._recent,
    )

  def _estimate(self) -> Estimate:
    schedule, counters = self._schedule, self.counters
    # Until the first one their time is not known; it is small.
    evaluations = self._num_evaluations
    if evaluations:
      evaluations += schedule.evaluations_left(counters)
    total = {
      'updates': schedule.num_updates,
      'steps': schedule.env_steps // schedule.action_repeat,
      'evaluations': evaluations,
    }
    return self._estimator(self._work_done(), total)

  def _work_done(self) -> dict[str, int]:
    return {
      'updates': self.counters.updates,
      'steps': self.counters.agent_steps,
      'evaluations': self._num_evaluations,
    }

  def _act(self):
    state = self.policy_state()
    # Ready: the device waits for the environments, so that they come first.
    send = sharding.is_ready(an_array(state))
    episodes = self._interaction.step(state, send)
    self._log_worker_failures()
    if episodes:
      self._log_metrics()
    for episode in episodes:
      self._recent['last_return'] = episode['return']
      values = {f'episode/{k}': float(v) for k, v in episode.items()}
      self._logger.scalars(self.env_steps, values)
    for key, value in self._interaction.end_prefill_if_due().items():
      self._logger.scalars(self.env_steps, {f'random/{key}': value})

  def _learn(self):
    counters, intervals = self.counters, self._schedule.intervals
    count = self._num_updates()
    with self._profiler.section('sampling'):
      batch = self._setup.batches.get(counters.updates, count)
    with self._profiler.section('updating'):
      self.state, metrics = self._setup.train_step(
        self.state, batch, counters.updates, count
      )
    self._interaction.send_actions()
    self._log_metrics()
    with self._profiler.section('updating'):
      self._profiler.updated((self.state, metrics))
    self._local_state = None
    counters.updates += count
    # Samples the next batch while the device is busy.
    with self._profiler.section('sampling'):
      self._setup.batches.get(counters.updates, self._num_updates())
    self._context.averager.add(metrics)
    if is_due(counters.updates, intervals.log):
      self._unlogged = self.env_steps
    if is_due(counters.updates, intervals.video):
      arrays = self._setup.batches.arrays(batch)
      self._log_open_loop(metrics_lib.last_batch(arrays, count))
    if is_due(counters.updates, intervals.save):
      self._save()

  def _log_metrics(self):
    """Logs the last interval, if it has ended. Before all other lines."""
    if self._unlogged is None:
      return
    env_steps, self._unlogged = self._unlogged, None
    with self._profiler.section('logging'):
      values = self._context.averager.result() | metrics_lib.memory_usage()
      self._logger.scalars(env_steps, values)

  def _num_updates(self) -> int:
    """Number of updates of the next call, due now or later: at least 1."""
    done = self.counters.updates
    due = max(self._schedule.updates_due(self.counters), done + 1)
    return self._setup.train_step.num_steps(done, due)

  def _evaluate(self):
    self._log_metrics()
    start = time.perf_counter()
    with self._profiler.section('evaluating'):
      values, video = self._setup.evaluator(self.policy_state(), self.env_steps)
    values['seconds'] = time.perf_counter() - start
    self._num_evaluations += 1
    self.counters.evaluated = self.env_steps
    self._recent['eval_return'] = values['return']
    with self._profiler.section('logging'):
      metrics_lib.log_evaluation(self._logger, self.env_steps, values, video)

  def _log_open_loop(self, batch):
    self._log_metrics()
    with self._profiler.section('predicting'):
      video = np.asarray(
        self._setup.open_loop(materialize(self.policy_state()), batch.target)
      )
    metrics_lib.log_open_loop(self._logger, self.env_steps, video)

  def _log_worker_failures(self):
    faults_of = self._interaction, self._setup.evaluator
    for faults in (source.faults for source in faults_of if source):
      for text in faults:
        self._log_metrics()
        self.counters.replaced += 1
        self._logger.message(text)
        values = {'faults/workers_replaced': self.counters.replaced}
        self._logger.scalars(self.env_steps, values)
      faults.clear()

  def policy_state(self):
    """The state on one device of this host, to act and to evaluate with."""
    if self._context.devices.num == 1:
      return self.state
    if self._local_state is None:
      self._local_state = sharding.local(materialize(self.state))
    return self._local_state

  def _save(self):
    """Writes a checkpoint that a run can resume from exactly."""
    self._log_metrics()
    with self._profiler.section('saving'):
      self._setup.train_step.check_finite()
      extra = {
        **dataclasses.asdict(self.counters),
        **self._context.metadata,
        'tally': self._context.averager.snapshot(),
        'lines': self._logger.lines,
        **self._interaction.snapshot(),
      }
      state = materialize(self.state)
      self._context.checkpoint.save(self.counters.updates, state, extra)
      self._context.commit()
      self._interaction.replay.delete_evicted()
