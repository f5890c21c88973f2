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

# Of the profiler, for the remaining time.
_UPDATE_SECTIONS = 'sampling', 'updating', 'logging', 'saving'


def pretrain(setup: PretrainSetup):
  """Trains to the end of the schedule.

  Args:
    setup: the built objects, with a fresh or a restored state.

  Returns:
    The final LearnerState.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  context, train_step = setup.context, setup.train_step
  logger, averager = context.logger, context.averager
  profiler = context.profiler
  total, intervals = setup.schedule.steps, setup.schedule.intervals
  state, step = setup.state, int(setup.state.step)
  sections = {'updates': _UPDATE_SECTIONS}
  estimator = Estimator(profiler, sections, {'updates': step})
  if step >= total:  # It was stopped between its last checkpoint and its end.
    return state

  def calls():
    done = step
    while done < total:
      count = train_step.num_steps(done, total)
      yield count, setup.batches.get(done, count)
      done += count

  unlogged = None  # The update of metrics that are still to be logged.

  def log_metrics():
    nonlocal unlogged
    if unlogged is not None:
      logger.scalars(unlogged, averager.result())
      unlogged = None

  def save():
    log_metrics()
    with profiler.section('saving'):
      train_step.check_finite()
      extra = {
        **context.metadata,
        'tally': averager.snapshot(),
        'lines': logger.lines,
      }
      context.checkpoint.save(step, materialize(state), extra)
      context.commit()

  # The thread that samples the batches also puts them on the devices.
  with contextlib.closing(prefetch(calls, put=lambda call: call)) as stream:
    while step < total:
      try:
        context.preemption.check(all_hosts=True)
      except Preempted:
        save()
        raise
      with profiler.section('sampling'):
        count, batch = next(stream)
      with profiler.section('updating'):
        state, metrics = train_step(state, batch, step, count)
        profiler.updated((state, metrics))
      with profiler.section('logging'):
        log_metrics()  # While the device works.
      step += count
      averager.add(metrics)
      with profiler.section('logging'):
        if is_due(step, intervals.log):
          unlogged = step
        if is_due(step, intervals.video):
          log_metrics()
          arrays = setup.batches.arrays(batch)
          last_batch = metrics_lib.last_batch(arrays, count)
          own = sharding.local(materialize(state))
          video = setup.open_loop(own, last_batch)
          metrics_lib.log_open_loop(logger, step, np.asarray(video))
        estimate = estimator({'updates': step}, {'updates': total})
        logger.progress(step, total, 'updates', estimate)
      if is_due(step, intervals.save) and step < total:
        save()
  log_metrics()
  state = materialize(state)
  if setup.fit_generator:
    logger.message("training the generator of the sources' actions")
    with profiler.section('updating'):
      params, metrics = setup.fit_generator(
        sharding.local(state.params['model'])
      )
    params = sharding.device_put_like(params, state.params['model'])
    state = state.replace(params={**state.params, 'generator': params})
    logger.scalars(total, {k: float(v) for k, v in metrics.items()})
  save()
  return state
