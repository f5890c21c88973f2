"""The offline stage: training the mixture teacher on the source datasets."""

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
  """When what happens; units as in experiments/base.py."""

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
  notes: dict,
  profiler: Profiler,
  updates: TrainStep,
  rows: slice,
  interrupt: PreemptionHandler,
  tally: dict | None = None,
):
  """Trains to the end of the schedule.

  Args:
    pretrainer: a `Pretrainer`.
    state: its LearnerState, fresh or restored.
    sources: N `Replay`s.
    logger: of this stage.
    checkpoint: of this stage.
    schedule: when what happens.
    notes: what to write into every checkpoint beside the state.
    profiler: where the time goes.
    updates: of the pretrainer's step.
    rows: this host's of every source's part of a batch.
    interrupt: the wish to stop.
    tally: what the checkpoint knows of metrics not told yet.

  Returns:
    The final LearnerState.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  s, step = schedule, int(state.step)
  step_key, video_key = jax.random.split(jax.random.key(s.seed))
  open_loop = jax.jit(pretrainer.open_loop)
  each = -(-s.batch // len(sources))
  tally = metrics_lib.MetricAverager(snapshot=tally)

  def calls():
    done = step
    while done < s.steps:
      count = updates.plan(done, s.steps)
      batches = [
        Batch(**sample_sources(sources, index, each, s.length, rows))
        for index in range(done, done + count)
      ]
      yield count, updates.put(batches)
      done += count

  def save():
    with profiler.part('saving'):
      updates.look()
      extra = {**notes, 'tally': tally.snapshot(), 'lines': logger.lines}
      checkpoint.save(step, state, extra)

  # Batches come to the devices in the thread that draws them.
  with contextlib.closing(prefetch(calls, put=lambda call: call)) as stream:
    while step < s.steps:
      try:
        interrupt.check(together=True)
      except Preempted:
        save()
        raise
      with profiler.part('sampling'):
        count, batch = next(stream)
      with profiler.part('updating'):
        state, metrics = updates(state, batch, step_key, step, count)
        profiler.updated((state, metrics))
      step += count
      tally.add(metrics)
      with profiler.part('telling'):
        if step % s.log_every == 0:
          logger.scalars(step, tally.take())
        if s.video_every and step % s.video_every == 0:
          shown = metrics_lib.last_batch(batch, count)
          video = open_loop(sharding.local(state), shown, video_key)
          metrics_lib.log_open_loop(logger, step, np.asarray(video))
        logger.progress(step, s.steps, 'updates')
      if step % s.save_every == 0 or step == s.steps:
        save()
  return state
