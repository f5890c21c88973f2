"""Builds what the online loop uses from a config, fresh or restored."""

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
from vid2act_jax.loops import acting, device_replay, runs, sources
from vid2act_jax.loops.batches import FinetuneBatches
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.interaction import Interaction
from vid2act_jax.loops.metrics import MetricAverager
from vid2act_jax.loops.profile import open_profiler
from vid2act_jax.loops.schedule import (
  Counters,
  FinetuneSchedule,
  finetune_schedule,
)
from vid2act_jax.loops.setup import (
  RunContext,
  StageBuilder,
  env_settings,
  open_log,
)
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import FinetuneBatch, LearnerState

_RECORDS_PER_STEP = 1.1  # Shorter episodes than ten steps need more.


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
      setup = _build(config, workdir, execution, replay_dir, profiler, stack)
    yield setup


def _build(config, workdir, execution, replay_dir, profiler, stack):
  """Builds the objects; what must be closed is entered into the stack."""
  devices = execution.open_devices(config)
  # Fails before environments are made.
  devices.rows(config.finetune.batch, 'config.finetune.batch')
  schedule = finetune_schedule(config)
  metadata = sources.source_metadata(config, workdir)
  envs = stack.enter_context(_open_envs(config, config.env.num, 0))
  if devices.is_main_process:
    runs.write_interface(workdir, envs.interface)
  metadata = {'task': config.task, 'action_dim': envs.action_dim, **metadata}
  builder = StageBuilder(
    'finetune', config, workdir, execution, devices, metadata
  )
  agent = _build_agent(config, metadata, schedule)
  teacher, replays, target_column = sources.load_for_student(
    config, workdir, agent
  )
  rehearsal = sources.load_for_rehearsal(config, workdir, agent)
  checkpoint = Checkpoint(
    workdir / runs.STUDENT, shared=execution.storage.shared
  )

  def init(key):
    return agent.init(key, teacher)

  state, extra = builder.restore(checkpoint, init)
  if agent.teacher:
    sources.check_same_teacher(state, teacher, checkpoint)
  counters = Counters.restore(extra) if extra else Counters()
  # Replay and log are cut back to the checkpoint, so they come after it.
  replay = _open_replay(builder, replay_dir, extra, target_column)
  env_steps = schedule.env_steps_done(counters) if extra else None
  logger = stack.enter_context(
    open_log(config, workdir, 'finetune', env_steps, extra)
  )
  act_key, step_key, video_key = jax.random.split(
    jax.random.key(config.seed), 3
  )
  interaction = _build_interaction(
    builder, agent, envs, replay, counters, act_key, profiler
  )
  interaction.restore(extra)  # Begins or resumes the episodes.
  on_device = builder.open_on_device(
    _records(replay, replays, rehearsal, schedule),
    device_replay.load_finetune,
    logger.message,
  )
  batches = FinetuneBatches(
    replay,
    replays,
    config.finetune.batch,
    config.finetune.length,
    devices,
    rehearsal,
    on_device,
  )
  averager = MetricAverager(metadata['sources'], extra.get('tally'))
  return FinetuneSetup(
    context=builder.context(logger, averager, checkpoint, profiler),
    schedule=schedule,
    state=state,
    train_step=builder.train_step(
      agent.finetune_step, FinetuneBatch, step_key, batches, logger.message
    ),
    open_loop=functools.partial(jax.jit(agent.open_loop), key=video_key),
    batches=batches,
    interaction=interaction,
    evaluator=_build_evaluator(builder, agent, stack),
  )


def _build_agent(config, metadata, schedule):
  return learner.build_agent(
    config.learner,
    metadata['action_dim'],
    tuple(metadata['source_action_dims']),
    variant=runs.variant_of(config),
    num_updates=schedule.num_updates,
  )


def _build_interaction(builder, agent, envs, replay, counters, key, profiler):
  """The interaction with the training environments, not yet begun."""
  config = builder.config
  # Hosts share the key of the updates; each has another key to act with.
  key = jax.random.fold_in(key, builder.devices.process_index)
  policy = _build_policy(builder, agent, envs.num, key, explore=True)
  random_prefill = not agent.jump_starts_prefill
  return Interaction(
    envs,
    policy,
    replay,
    counters,
    config.finetune.prefill,
    config.seed,
    profiler,
    random_prefill,
  )


def _build_policy(builder, agent, num, key, explore):
  compile_fn = functools.partial(
    builder.execution.jit, builder.config, builder.metadata
  )
  return acting.PolicyRunner(agent, num, key, explore, compile_fn)


def _build_evaluator(builder, agent, stack):
  """The evaluator and its environments, or None if there are no episodes."""
  config = builder.config
  episodes = config.evaluate.episodes
  if not episodes:
    return None
  each = -(-episodes // jax.process_count())  # Of this host.
  num = min(config.evaluate.envs, each)
  envs = stack.enter_context(_open_envs(config, num, 1))
  key = jax.random.key(config.seed + 1)
  policy = _build_policy(builder, agent, num, key, explore=False)
  check = builder.execution.preemption.check
  return acting.Evaluator(envs, episodes, policy, check)


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


def _open_replay(builder, replay_dir, extra, target_column):
  """Opens the online replay, with the episodes of the checkpoint."""
  config, devices = builder.config, builder.devices
  options = sources.replay_options(
    config, builder.workdir, builder.metadata['action_dim'], target_column
  )
  processes, process = devices.process_count, devices.process_index
  written = [0] * processes
  # If the processes do not see the same folder, each has files of its own.
  if devices.is_main_process or not builder.execution.storage.shared:
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
