"""Builds what the offline loop uses from a config, fresh or restored."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import jax

from vid2act_jax import learner, sharding
from vid2act_jax.learner.pretrain import Pretrainer
from vid2act_jax.loops import device_replay, generator, runs, sources
from vid2act_jax.loops.batches import PretrainBatches
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.metrics import MetricAverager
from vid2act_jax.loops.profile import open_profiler
from vid2act_jax.loops.schedule import PretrainSchedule, intervals
from vid2act_jax.loops.setup import RunContext, StageBuilder, open_log
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch, LearnerState


@dataclasses.dataclass(frozen=True)
class PretrainSetup:
  """All that the offline loop uses.

  state: fresh or restored. The first update donates it.
  open_loop: (state, batch) -> open-loop videos, compiled.
  fit_generator: teacher's parameters -> generator's parameters, metrics; None:
    the teacher has no generator.
  """

  context: RunContext
  schedule: PretrainSchedule
  state: LearnerState
  train_step: TrainStep
  open_loop: Callable
  batches: PretrainBatches
  fit_generator: Callable | None


@contextlib.contextmanager
def setup_pretrain(
  config, workdir: pathlib.Path, execution: Execution
) -> Iterator[PretrainSetup]:
  """Builds the objects of the offline stage; closes them at the end.

  Args:
    config: the run's.
    workdir: the run's folder.
    execution: of the run.

  Raises:
    UserError: a dataset or the checkpoint is damaged or does not fit.
  """
  c, devices = config.pretrain, execution.open_devices(config)
  size, rows = pretrain_rows(config, devices, len(config.sources))
  replays = sources.load_replays(config, workdir)
  checkpoint = Checkpoint(
    workdir / runs.TEACHER, shared=execution.storage.shared
  )
  metadata = _metadata(config, workdir, checkpoint)
  builder = StageBuilder(
    'pretrain', config, workdir, execution, devices, metadata
  )
  pretrainer = _build_pretrainer(config, metadata)
  state, extra = builder.restore(checkpoint, pretrainer.init)
  step_key, video_key = jax.random.split(jax.random.key(config.seed))
  fit = functools.partial(
    generator.fit,
    pretrainer,
    replays,
    size,
    c.length,
    config.learner.generator.frames,
    jax.random.fold_in(step_key, c.steps),
  )
  resume_step = int(state.step) if extra else None
  with (
    open_log(config, workdir, 'pretrain', resume_step, extra) as logger,
    open_profiler(workdir, 'pretrain', execution.profile) as profiler,
  ):
    on_device = builder.open_on_device(
      {'sources': [(replay, replay.num_frames) for replay in replays]},
      device_replay.load_pretrain,
      logger.message,
    )
    batches = PretrainBatches(replays, size, c.length, rows, devices, on_device)
    averager = MetricAverager(snapshot=extra.get('tally'))
    yield PretrainSetup(
      context=builder.context(logger, averager, checkpoint, profiler),
      schedule=PretrainSchedule(c.steps, intervals(c)),
      state=state,
      train_step=builder.train_step(
        pretrainer.pretrain_step, Batch, step_key, batches, logger.message
      ),
      open_loop=functools.partial(jax.jit(pretrainer.open_loop), key=video_key),
      batches=batches,
      fit_generator=fit if metadata.get('generator') else None,
    )


def _metadata(config, workdir, checkpoint) -> dict:
  """The metadata of a teacher's checkpoints."""
  variant = runs.variant_of(config)
  metadata = sources.source_metadata(config, workdir)
  metadata['actions'] = variant.pretrain_actions
  if checkpoint.latest() is None:
    # A teacher without a finetuning is for other runs, of any variant.
    alone = 'finetune' not in config.stages
    has_generator = variant.generator.pretrained or alone
  else:
    has_generator = sources.has_generator(checkpoint)
  if has_generator:
    metadata['generator'] = True
  return metadata


def _build_pretrainer(config, metadata) -> Pretrainer:
  return learner.build_pretrainer(
    config.learner,
    tuple(metadata['source_action_dims']),
    variant=runs.variant_of(config),
    generator=metadata.get('generator', False),
    source_rewards=sources.source_rewards(metadata),
  )


def pretrain_rows(
  config, devices: sharding.Devices, num_sources: int
) -> tuple[int, slice]:
  """Sequences of each source in a batch, and the rows of this process.

  Raises:
    UserError: they cannot be split over the devices.
  """
  size = -(-config.pretrain.batch // num_sources)
  return size, devices.rows(size, 'config.pretrain.batch', num_sources)
