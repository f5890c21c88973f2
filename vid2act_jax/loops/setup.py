"""Builds what the training loops use from a config, fresh or restored."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax import learner, sharding
from vid2act_jax.data import shards
from vid2act_jax.data.replay import Replay
from vid2act_jax.loops import (
  acting,
  device_replay,
  generator,
  runs,
  sources,
)
from vid2act_jax.loops.batches import FinetuneBatches, PretrainBatches
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.interaction import Interaction
from vid2act_jax.loops.logger import Logger, NullLogger
from vid2act_jax.loops.metrics import MetricAverager
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.profile import Profiler, open_profiler
from vid2act_jax.loops.schedule import (
  Counters,
  FinetuneSchedule,
  PretrainSchedule,
  finetune_schedule,
  intervals,
)
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch, FinetuneBatch, LearnerState

_RECORDS_PER_STEP = 1.1  # Shorter episodes than ten steps need more.


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


@dataclasses.dataclass(frozen=True)
class FinetuneSetup:
  """All that the online loop uses.

  state: fresh or restored. The first update donates it.
  open_loop: (state, target batch) -> open-loop videos, compiled.
  evaluator: None: no evaluations.
  """

  context: RunContext
  schedule: FinetuneSchedule
  state: LearnerState
  train_step: TrainStep
  open_loop: Callable
  batches: FinetuneBatches
  interaction: Interaction
  evaluator: acting.Evaluator | None


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
  c, variant = config.pretrain, runs.variant_of(config)
  metadata = sources.source_metadata(config, workdir)
  metadata['actions'] = variant.pretrain_actions
  devices = execution.open_devices(config)
  size, rows = pretrain_rows(config, devices, len(config.sources))
  replays = sources.load_replays(config, workdir)
  checkpoint = Checkpoint(
    workdir / runs.TEACHER, shared=execution.storage.shared
  )
  if checkpoint.latest() is None:
    # A teacher without a finetuning is for other runs, of any variant.
    alone = 'finetune' not in config.stages
    has_generator = variant.generator.pretrained or alone
  else:
    has_generator = sources.has_generator(checkpoint)
  if has_generator:
    metadata['generator'] = True
  pretrainer = learner.build_pretrainer(
    config.learner,
    tuple(metadata['source_action_dims']),
    variant=variant,
    generator=has_generator,
    source_rewards=sources.source_rewards(metadata),
  )
  state, extra = runs.init_or_restore(
    checkpoint, pretrainer.init, config.seed, metadata, 'pretrain', devices
  )
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
  with (
    open_log(
      config, workdir, 'pretrain', int(state.step) if extra else None, extra
    ) as logger,
    open_profiler(workdir, 'pretrain', execution.profile) as profiler,
  ):
    on_device = _open_on_device(
      config,
      execution,
      {'sources': [(replay, replay.num_frames) for replay in replays]},
      functools.partial(device_replay.load_pretrain, length=c.length),
      logger.message,
    )
    batches = PretrainBatches(replays, size, c.length, rows, devices, on_device)
    averager = MetricAverager(snapshot=extra.get('tally'))
    yield PretrainSetup(
      context=RunContext(
        devices,
        logger,
        averager,
        checkpoint,
        metadata,
        profiler,
        execution.preemption,
        functools.partial(execution.storage.commit, workdir),
      ),
      schedule=PretrainSchedule(c.steps, intervals(c)),
      state=state,
      train_step=_train_step(
        config,
        workdir,
        'pretrain',
        step_key,
        execution.jit_step(
          config,
          metadata,
          pretrainer.pretrain_step,
          Batch,
          logger.message,
          on_device and on_device.load,
        ),
        batches.arrays,
      ),
      open_loop=functools.partial(jax.jit(pretrainer.open_loop), key=video_key),
      batches=batches,
      fit_generator=fit if has_generator else None,
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


@contextlib.contextmanager
def setup_finetune(
  config,
  workdir: pathlib.Path,
  execution: Execution,
  replay_dir: pathlib.Path,
) -> Iterator[FinetuneSetup]:
  """Builds the objects of the online stage; closes them at the end.

  Args:
    config: the run's.
    workdir: the run's folder.
    execution: of the run.
    replay_dir: of the online episodes.

  Raises:
    UserError: a dataset, the teacher or the checkpoint is missing, damaged or
      does not fit.
  """
  with (
    open_profiler(workdir, 'finetune', execution.profile) as profiler,
    contextlib.ExitStack() as stack,
  ):
    with profiler.section('setting up'):
      setup = _build_finetune(
        config, workdir, profiler, execution, replay_dir, stack
      )
    yield setup


def _build_finetune(config, workdir, profiler, execution, replay_dir, stack):
  """Builds the objects; what must be closed is entered into the stack."""
  c, seed = config.finetune, config.seed
  schedule = finetune_schedule(config)
  devices = execution.open_devices(config)
  devices.rows(c.batch, 'config.finetune.batch')  # Fails before envs are made.
  metadata = sources.source_metadata(config, workdir)
  envs = stack.enter_context(_open_envs(config, config.env.num, 0))
  if devices.is_main_process:
    runs.write_interface(workdir, envs.interface)
  agent = learner.build_agent(
    config.learner,
    envs.action_dim,
    tuple(metadata['source_action_dims']),
    variant=runs.variant_of(config),
    num_updates=schedule.num_updates,
  )
  teacher, replays, target_column = sources.load_for_student(
    config, workdir, agent
  )
  rehearsal = sources.load_for_rehearsal(config, workdir, agent)
  metadata = {'task': config.task, 'action_dim': envs.action_dim, **metadata}
  checkpoint = Checkpoint(
    workdir / runs.STUDENT, shared=execution.storage.shared
  )

  def init(key):
    return agent.init(key, teacher)

  state, extra = runs.init_or_restore(
    checkpoint, init, seed, metadata, 'finetune', devices
  )
  if agent.teacher:
    sources.check_same_teacher(state, teacher, checkpoint)
  counters = Counters.restore(extra) if extra else Counters()
  # Replay and log are cut back to the checkpoint, so they come after it.
  options = sources.replay_options(
    config, workdir, envs.action_dim, target_column
  )
  shared = execution.storage.shared
  replay = _open_replay(config, replay_dir, devices, extra, options, shared)
  env_steps = schedule.env_steps_done(counters) if extra else None
  logger = stack.enter_context(
    open_log(config, workdir, 'finetune', env_steps, extra)
  )
  act_key, step_key, video_key = jax.random.split(jax.random.key(seed), 3)
  # Hosts share the key of the updates; each has another key to act with.
  act_key = jax.random.fold_in(act_key, devices.process_index)
  policy = acting.PolicyRunner(
    agent,
    envs.num,
    act_key,
    explore=True,
    compile_fn=functools.partial(execution.jit, config, metadata),
  )
  random_prefill = not agent.jump_starts_prefill
  interaction = Interaction(
    envs, policy, replay, counters, c.prefill, seed, profiler, random_prefill
  )
  interaction.restore(extra)  # Begins or resumes the episodes.
  averager = MetricAverager(metadata['sources'], extra.get('tally'))
  on_device = _open_on_device(
    config,
    execution,
    _records(replay, replays, rehearsal, schedule),
    functools.partial(device_replay.load_finetune, length=c.length),
    logger.message,
  )
  batches = FinetuneBatches(
    replay, replays, c.batch, c.length, devices, rehearsal, on_device
  )
  return FinetuneSetup(
    context=RunContext(
      devices,
      logger,
      averager,
      checkpoint,
      metadata,
      profiler,
      execution.preemption,
      functools.partial(execution.storage.commit, workdir),
    ),
    schedule=schedule,
    state=state,
    train_step=_train_step(
      config,
      workdir,
      'finetune',
      step_key,
      execution.jit_step(
        config,
        metadata,
        agent.finetune_step,
        FinetuneBatch,
        logger.message,
        on_device and on_device.load,
      ),
      batches.arrays,
    ),
    open_loop=functools.partial(jax.jit(agent.open_loop), key=video_key),
    batches=batches,
    interaction=interaction,
    evaluator=_build_evaluator(config, metadata, agent, execution, stack),
  )


def _build_evaluator(config, metadata, agent, execution, stack):
  """The evaluator and its environments, or None if there are no episodes."""
  episodes = config.evaluate.episodes
  if not episodes:
    return None
  each = -(-episodes // jax.process_count())  # Of this host.
  num = min(config.evaluate.envs, each)
  envs = stack.enter_context(_open_envs(config, num, 1))
  policy = acting.PolicyRunner(
    agent,
    num,
    jax.random.key(config.seed + 1),
    explore=False,
    compile_fn=functools.partial(execution.jit, config, metadata),
  )
  return acting.Evaluator(envs, episodes, policy, execution.preemption.check)


def env_settings(config) -> environments.Settings:
  """Settings of the run's environments."""
  e = config.env
  return environments.Settings(
    e.size, e.action_repeat, e.time_limit, e.camera, e.quality
  )


def _open_envs(config, num, stream):
  """Makes environments of the target task; every stream has its own seeds."""
  return environments.VectorEnv(
    config.task,
    env_settings(config),
    num,
    2 * config.seed + stream,
    config.env.parallel,
    num * jax.process_index(),
    environments.Limits(config.env.timeout, config.env.replacements),
  )


def _open_replay(config, replay_dir, devices, extra, options, shared):
  """Opens the online replay, with the episodes of the checkpoint.

  shared: whether all processes see the same folder.
  """
  processes, process = devices.process_count, devices.process_index
  written = [0] * processes
  if devices.is_main_process or not shared:
    before = extra.get('total_episodes', [])
    written = shards.reshard(replay_dir, processes, before)
  # The other processes wait here until process 0 has moved the files.
  written = sharding.all_gather(np.array(written))[0].tolist()
  return Replay(
    shards.folder_of(replay_dir, process, processes),
    config.replay.online_gb * 1e9,
    config.seed,
    options,
    owner=True,
    keep_episodes=written[process],
  )


def _open_on_device(config, execution, kinds, load, report):
  """The stage's replays in device memory, or None."""
  devices = execution.open_devices(config)
  capacity = device_replay.capacity_bytes(
    config.replay.device_gb, devices, execution.runs_per_device
  )
  return device_replay.open_replays(kinds, load, capacity, devices, report)


def _records(replay, sources_, rehearsal, schedule):
  """Replays of finetuning, with the number of records that each will hold."""
  steps = schedule.env_steps // schedule.action_repeat
  # Each episode has one record more than steps.
  kinds = {'target': [(replay, int(steps * _RECORDS_PER_STEP))]}
  if sources_:
    kinds['sources'] = [(source, source.num_frames) for source in sources_]
  if rehearsal:
    replays = rehearsal.replays
    kinds['rehearsal'] = [(source, source.num_frames) for source in replays]
  return kinds


def _train_step(config, workdir, stage, key, compiled, arrays_fn):
  """Returns the train step of a stage.

  compiled: see `Execution.jit_step`; arrays_fn: see `TrainStep`.
  """
  return TrainStep(
    *compiled,
    key,
    config[stage].updates_per_call,
    intervals(config[stage]),
    config.skip_limit,
    workdir / 'not_finite' / stage,
    arrays_fn,
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
