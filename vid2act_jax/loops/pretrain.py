"""The offline stage: trains the mixture teacher on the source datasets."""

import contextlib
import dataclasses

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.loops import metrics as metrics_lib
from vid2act_jax.loops.preemption import Preempted, PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Length, batches and periods; units as in config.py."""

  steps: int
  batch: int
  length: int
  updates_per_call: int
  log_every: int
  video_every: int
  save_every: int
  seed: int


def pretrain(
  pretrainer,
  state,
  sources,
  logger,
  checkpoint,
  schedule: Schedule,
  metadata: dict,
  profiler: Profiler,
  train_step: TrainStep,
  rows: slice,
  preemption: PreemptionHandler,
  tally: dict | None = None,
):
  """Trains to the end of the schedule.

  Args:
    pretrainer: a `Pretrainer`.
    state: its LearnerState, fresh or restored.
    sources: N `Replay`s.
    logger: of this stage.
    checkpoint: of this stage.
    schedule: length, batches and periods.
    metadata: written into every checkpoint in addition to the state.
    profiler: of this stage.
    train_step: the compiled step of the pretrainer.
    rows: this host's rows of each source's part of a batch.
    preemption: checked before every call.
    tally: from the checkpoint, the metrics that are not logged yet.

  Returns:
    The final LearnerState.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  s, step = schedule, int(state.step)
  step_key, video_key = jax.random.split(jax.random.key(s.seed))
  open_loop = jax.jit(pretrainer.open_loop)
  each = -(-s.batch // len(sources))
  averager = metrics_lib.MetricAverager(snapshot=tally)

  def calls():
    done = step
    while done < s.steps:
      count = train_step.num_steps(done, s.steps)
      batches = [
        Batch(**sample_sources(sources, index, each, s.length, rows))
        for index in range(done, done + count)
      ]
      yield count, train_step.device_put(batches)
      done += count

  def save():
    with profiler.section('saving'):
      train_step.check_finite()
      extra = {
        **metadata,
        'tally': averager.snapshot(),
        'lines': logger.lines,
      }
      checkpoint.save(step, state, extra)

  # The thread that samples the batches also puts them on the devices.
  with contextlib.closing(prefetch(calls, put=lambda call: call)) as stream:
    while step < s.steps:
      try:
        preemption.check(all_hosts=True)
      except Preempted:
        save()
        raise
      with profiler.section('sampling'):
        count, batch = next(stream)
      with profiler.section('updating'):
        state, metrics = train_step(state, batch, step_key, step, count)
        profiler.updated((state, metrics))
      step += count
      averager.add(metrics)
      with profiler.section('logging'):
        if step % s.log_every == 0:
          logger.scalars(step, averager.result())
        if s.video_every and step % s.video_every == 0:
          last_batch = metrics_lib.last_batch(batch, count)
          video = open_loop(sharding.local(state), last_batch, video_key)
          metrics_lib.log_open_loop(logger, step, np.asarray(video))
        logger.progress(step, s.steps, 'updates')
      if step % s.save_every == 0 or step == s.steps:
        save()
  return state
