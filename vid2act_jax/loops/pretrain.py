"""The offline stage: training the mixture teacher on the source datasets."""

import contextlib
import dataclasses

import jax
import numpy as np

from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.loops import telling
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
    for step, batch in enumerate(stream, start + 1):
      state, metrics = update(state, batch, step_key)
      tally.add(metrics)
      if step % s.log_every == 0:
        logger.scalars(step, tally.take())
      if s.video_every and step % s.video_every == 0:
        video = open_loop(state, batch, video_key)
        telling.open_loop(logger, step, np.asarray(video))
      if step % s.save_every == 0 and step < s.steps:
        checkpoint.save(step, state, notes)
      logger.progress(step, s.steps, 'updates')
  if start < s.steps:
    checkpoint.save(s.steps, state, notes)
  return state
