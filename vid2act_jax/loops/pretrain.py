"""The offline stage: trains the mixture teacher on the source datasets."""

import contextlib

import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.loops import metrics as metrics_lib
from vid2act_jax.loops.preemption import Preempted
from vid2act_jax.loops.pretrain_setup import PretrainSetup
from vid2act_jax.loops.progress import Estimator
from vid2act_jax.loops.schedule import is_due
from vid2act_jax.loops.seed_state import materialize
from vid2act_jax.types import LearnerState

# Of the profiler, for the remaining time.
_UPDATE_SECTIONS = 'sampling', 'updating', 'logging', 'saving'


class TeacherTraining:
  """The offline training loop: learns, logs and saves."""

  def __init__(self, setup: PretrainSetup):
    """Takes the built objects, with a fresh or a restored state."""
    self._setup, self._context = setup, setup.context
    self._logger, self._profiler = setup.context.logger, setup.context.profiler
    self._state, self._step = setup.state, int(setup.state.step)
    self._unlogged: int | None = None  # The update of metrics to be logged.
    self._estimator = Estimator(
      self._profiler, {'updates': _UPDATE_SECTIONS}, {'updates': self._step}
    )

  def run(self) -> LearnerState:
    """Trains to the end of the schedule; returns the final state.

    Raises:
      Preempted: the run was asked to stop; a checkpoint has been written.
    """
    total = self._setup.schedule.steps
    if self._step >= total:  # Stopped between its last checkpoint and its end.
      return self._state
    # The thread that samples the batches also puts them on the devices.
    stream = prefetch(self._batches, put=lambda call: call)
    with contextlib.closing(stream):
      while self._step < total:
        try:
          self._context.preemption.check(all_hosts=True)
        except Preempted:
          self._save()
          raise
        self._learn(stream)
        if is_due(self._step, self._setup.schedule.intervals.save):
          if self._step < total:
            self._save()
    self._log_metrics()
    self._state = materialize(self._state)
    if self._setup.fit_generator:
      self._fit_generator(self._setup.fit_generator)
    self._save()
    return self._state

  def _batches(self):
    """The number of updates of each call, and its batch."""
    done, total = self._step, self._setup.schedule.steps
    while done < total:
      count = self._setup.train_step.num_steps(done, total)
      yield count, self._setup.batches.get(done, count)
      done += count

  def _learn(self, stream):
    intervals = self._setup.schedule.intervals
    with self._profiler.section('sampling'):
      count, batch = next(stream)
    with self._profiler.section('updating'):
      self._state, metrics = self._setup.train_step(
        self._state, batch, self._step, count
      )
      self._profiler.updated((self._state, metrics))
    with self._profiler.section('logging'):
      self._log_metrics()  # While the device works.
    self._step += count
    self._context.averager.add(metrics)
    with self._profiler.section('logging'):
      if is_due(self._step, intervals.log):
        self._unlogged = self._step
      if is_due(self._step, intervals.video):
        arrays = self._setup.batches.arrays(batch)
        self._log_open_loop(metrics_lib.last_batch(arrays, count))
      self._show_progress()

  def _log_metrics(self):
    """Logs the last interval, if it has ended."""
    if self._unlogged is not None:
      self._logger.scalars(self._unlogged, self._context.averager.result())
      self._unlogged = None

  def _log_open_loop(self, batch):
    self._log_metrics()
    state = sharding.local(materialize(self._state))
    video = np.asarray(self._setup.open_loop(state, batch))
    metrics_lib.log_open_loop(self._logger, self._step, video)

  def _show_progress(self):
    total = self._setup.schedule.steps
    estimate = self._estimator({'updates': self._step}, {'updates': total})
    self._logger.progress(self._step, total, 'updates', estimate)

  def _fit_generator(self, fit):
    """Trains the generator on the states of the finished teacher."""
    self._logger.message("training the generator of the sources' actions")
    params = self._state.params
    with self._profiler.section('updating'):
      own, metrics = fit(sharding.local(params['model']))
    own = sharding.device_put_like(own, params['model'])
    self._state = self._state.replace(params={**params, 'generator': own})
    values = {k: float(v) for k, v in metrics.items()}
    self._logger.scalars(self._step, values)

  def _save(self):
    """Writes a checkpoint that a run can resume from exactly."""
    self._log_metrics()
    with self._profiler.section('saving'):
      self._setup.train_step.check_finite()
      extra = {
        **self._context.metadata,
        'tally': self._context.averager.snapshot(),
        'lines': self._logger.lines,
      }
      state = materialize(self._state)
      self._context.checkpoint.save(self._step, state, extra)
      self._context.commit()
