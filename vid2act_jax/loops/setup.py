"""What the setups of both stages share."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from vid2act_jax import envs as environments
from vid2act_jax import sharding
from vid2act_jax.loops import device_replay, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.logger import Logger, NullLogger
from vid2act_jax.loops.metrics import MetricAverager
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.loops.schedule import intervals
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import LearnerState


@dataclasses.dataclass(frozen=True)
class RunContext:
  """Where a stage runs, logs, saves and stops.

  averager: averages the metrics of the updates since the last log.
  metadata: written into every checkpoint; what is needed to build the agent
    again.
  commit: makes the run's folder durable after a checkpoint.
  """

  devices: sharding.Devices
  logger: Logger | NullLogger
  averager: MetricAverager
  checkpoint: Checkpoint
  metadata: dict
  profiler: Profiler
  preemption: PreemptionHandler
  commit: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class StageBuilder:
  """Builds what both stages have.

  stage: 'pretrain' or 'finetune'.
  config: the run's.
  workdir: the run's folder.
  metadata: of the stage's checkpoints.
  """

  stage: str
  config: Any
  workdir: pathlib.Path
  execution: Execution
  devices: sharding.Devices
  metadata: dict

  def restore(
    self, checkpoint: Checkpoint, init: Callable[[jax.Array], LearnerState]
  ) -> tuple[LearnerState, dict]:
    """The state, fresh or of the checkpoint, and what else that has, or {}.

    Raises:
      UserError: the checkpoint is damaged or does not fit.
    """
    return runs.init_or_restore(
      checkpoint,
      init,
      self.config.seed,
      self.metadata,
      self.stage,
      self.devices,
    )

  def context(
    self,
    logger: Logger | NullLogger,
    averager: MetricAverager,
    checkpoint: Checkpoint,
    profiler: Profiler,
  ) -> RunContext:
    """The context of the stage's loop."""
    return RunContext(
      self.devices,
      logger,
      averager,
      checkpoint,
      self.metadata,
      profiler,
      self.execution.preemption,
      functools.partial(self.execution.storage.commit, self.workdir),
    )

  def open_on_device(
    self, kinds: dict, load: Callable, report: Callable[[str], None]
  ) -> device_replay.DeviceReplays | None:
    """The stage's replays in device memory, or None.

    Args:
      kinds: {name: [(replay, number of records)]}.
      load: (device batch, length=) -> batch.
      report: prints why they are not there.
    """
    capacity = device_replay.capacity_bytes(
      self.config.replay.device_gb,
      self.devices,
      self.execution.runs_per_device,
    )
    load = functools.partial(load, length=self.config[self.stage].length)
    return device_replay.open_replays(
      kinds, load, capacity, self.devices, report
    )

  def train_step(
    self,
    step: Callable,
    batch_type: type,
    key: jax.Array,
    batches,
    report: Callable[[str], None],
  ) -> TrainStep:
    """The compiled train step.

    Args:
      step: (state, batch, key, axis_name=None) -> state, metrics.
      batch_type: `Batch` or `FinetuneBatch`.
      key: root key of all updates.
      batches: those of the stage.
      report: announces compilations.
    """
    config = self.config
    compiled = self.execution.jit_step(
      config, self.metadata, step, batch_type, report, batches.load
    )
    return TrainStep(
      *compiled,
      key,
      config[self.stage].updates_per_call,
      intervals(config[self.stage]),
      config.skip_limit,
      self.workdir / 'not_finite' / self.stage,
      batches.arrays,
    )


def env_settings(config) -> environments.Settings:
  """Settings of the run's environments."""
  e = config.env
  return environments.Settings(
    e.size, e.action_repeat, e.time_limit, e.camera, e.quality
  )


def open_log(
  config,
  workdir: pathlib.Path,
  stage: str,
  resume_step: int | None,
  extra: dict,
) -> Logger | NullLogger:
  """Opens the log of a stage on the first process; the others log nothing.

  Args:
    config: the run's.
    workdir: the run's folder.
    stage: its name.
    resume_step: see `Logger`.
    extra: of the checkpoint, with the number of lines logged by then; or {}.
  """
  if jax.process_index():
    return NullLogger()
  return Logger(
    workdir,
    stage,
    resume_step,
    extra.get('lines'),
    config.logger.backends,
    runs.as_dict(config),
  )
