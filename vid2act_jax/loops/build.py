"""Builds the objects that the training loops use, from a config."""

import dataclasses

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax import learner, sharding
from vid2act_jax.data import shards
from vid2act_jax.data.replay import Replay, ReplayOptions
from vid2act_jax.loops import acting, embedding, finetune, runs, setup
from vid2act_jax.loops.logger import Logger, NullLogger
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch, FinetuneBatch, UserError


def finetuner(
  config, workdir, replay_dir, checkpoint, profiler, preemption, stack
):
  """Builds the online loop, fresh or restored from the checkpoint."""
  devices = sharding.Devices(config.mesh.data)
  devices.rows(config.finetune.batch, 'config.finetune.batch')
  sources = setup.source_metadata(config, workdir)
  envs = _open_envs(config, config.env.num, 0, stack)
  eval_envs = _open_envs(config, config.evaluate.envs, 1, stack)
  agent = learner.build_agent(
    config.learner,
    envs.action_dim,
    tuple(sources['source_action_dims']),
    variant=setup.variant(config),
  )
  teacher, replays = None, []
  if agent.pretrained:
    teacher = setup.load_teacher(config, workdir, agent)
  if agent.replays:
    cache_dir = setup.scratch_folder(config, workdir) / 'embeddings'
    embeds = embedding.source_columns(
      agent, teacher, config.replay.embeddings, cache_dir
    )
    replays = setup.load_sources(config, workdir, embeds)
  metadata = {'task': config.task, 'action_dim': envs.action_dim, **sources}

  def init(key):
    return agent.init(key, teacher)

  state, restored = runs.init_or_restore(
    checkpoint, init, config.seed, metadata, 'finetune', devices
  )
  if agent.teacher:
    _check_same_teacher(state, teacher, checkpoint)
  counters = finetune.Counters()
  if restored:
    fields = dataclasses.asdict(counters)
    counters = finetune.Counters(**{k: restored[k] for k in fields})
  root = replay_dir or workdir / 'replay'
  written = _reshard(root, devices, restored)
  replay = Replay(
    shards.folder_of(root, devices.process_index, devices.process_count),
    config.replay.online_gb * 1e9,
    config.seed,
    ReplayOptions(
      action_dim=envs.action_dim,
      size=config.env.size,
      scratch=setup.scratch_folder(config, workdir),
      cross_episodes=config.replay.cross_episodes,
      keep_all=config.replay.keep_all,
      embed=embedding.target_column(agent, teacher, config.replay.embeddings),
    ),
    owner=True,
    keep_episodes=written[devices.process_index],
  )
  schedule = finetune.Schedule(
    **config.finetune,
    eval_every=config.evaluate.every,
    action_repeat=config.env.action_repeat,
    seed=config.seed,
  )
  env_steps = counters.agent_steps * schedule.action_repeat
  eval_key = jax.random.key(config.seed + 1)
  return finetune.Finetuner(
    agent=agent,
    state=state,
    envs=envs,
    evaluator=acting.Evaluator(
      agent, eval_envs, config.evaluate.episodes, eval_key, preemption.check
    ),
    replay=replay,
    sources=replays,
    logger=stack.enter_context(
      open_log(
        workdir,
        'finetune',
        env_steps if restored else None,
        (restored or {}).get('lines'),
      )
    ),
    checkpoint=checkpoint,
    schedule=schedule,
    counters=counters,
    metadata=metadata,
    profiler=profiler,
    train_step=train_step(
      config, workdir, agent.finetune_step, devices, 'finetune'
    ),
    devices=devices,
    preemption=preemption,
    restored=restored,
  )


def _check_same_teacher(state, teacher, checkpoint):
  """Raises a UserError if the teacher is not the one in the state.

  The cached embeddings come from `teacher`; shapes alone would not show it.
  """
  for part, params in sharding.local(state.teacher).items():
    same = jax.tree.map(np.array_equal, params, teacher[part])
    if not jax.tree.all(same):
      raise UserError(
        f'the teacher differs from the one that {checkpoint.directory} was'
        ' trained with; set config.teacher_from to that one, or choose another'
        ' folder with --workdir=...'
      )


def _reshard(root, devices, restored):
  """Splits the online episodes over the processes; the number of each one."""
  before = restored['total_episodes'] if restored else []
  written = [0] * devices.process_count
  if devices.is_main_process:
    written = shards.reshard(root, devices.process_count, before)
  # The other processes wait here until process 0 has moved the files.
  return sharding.all_gather(np.array(written))[0].tolist()


def _open_envs(config, num, stream, stack):
  """Environments of the target task; every stream has its own seeds."""
  return stack.enter_context(
    environments.VectorEnv(
      config.task,
      setup.env_settings(config),
      num,
      2 * config.seed + stream,
      config.env.parallel,
      num * jax.process_index(),
      environments.Limits(config.env.timeout, config.env.replacements),
    )
  )


def train_step(config, workdir, step, devices, stage):
  """The compiled train step of a stage."""
  settings = config[stage]
  return TrainStep(
    step,
    devices,
    sharding.specs(Batch if stage == 'pretrain' else FinetuneBatch),
    settings.updates_per_call,
    (settings.log_every, settings.video_every, settings.save_every),
    config.skip_limit,
    workdir / 'not_finite' / stage,
  )


def open_log(workdir, stage, resume_step, resume_lines=None):
  """A logger on the first process; the others log nothing."""
  if jax.process_index():
    return NullLogger()
  return Logger(workdir, stage, resume_step, resume_lines)
