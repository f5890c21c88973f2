"""The offline stage: training the mixture teacher on the source datasets."""

import contextlib
import dataclasses

import jax
import numpy as np

from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.loops import telling
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When what happens; units as in experiments/base.py."""

  steps: int
  batch: int
  length: int
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

  Returns:
    The final LearnerState.
  """
  s, start = schedule, int(state.step)
  step_key, video_key = jax.random.split(jax.random.key(s.seed))
  update = jax.jit(pretrainer.pretrain_step, donate_argnums=0)
  open_loop = jax.jit(pretrainer.open_loop)
  each = -(-s.batch // len(sources))
  tally = telling.Tally()

  def batches():
    for index in range(start, s.steps):
      yield Batch(**sample_sources(sources, index, each, s.length))

  with contextlib.closing(prefetch(batches)) as stream:
    for step in range(start + 1, s.steps + 1):
      with profiler.part('sampling'):
        batch = next(stream)
      with profiler.part('updating'):
        state, metrics = update(state, batch, step_key)
        profiler.updated((state, metrics))
      tally.add(metrics)
      with profiler.part('telling'):
        if step % s.log_every == 0:
          logger.scalars(step, tally.take())
        if s.video_every and step % s.video_every == 0:
          video = open_loop(state, batch, video_key)
          telling.open_loop(logger, step, np.asarray(video))
        logger.progress(step, s.steps, 'updates')
      if step % s.save_every == 0 or step == s.steps:
        with profiler.part('saving'):
          checkpoint.save(step, state, notes)
  return state
