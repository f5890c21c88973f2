"""From a config and a folder to the objects that the loops are given."""

import dataclasses

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax import learner, sharding
from vid2act_jax.data import shards
from vid2act_jax.data.replay import Replay
from vid2act_jax.loops import acting, embedding, finetune, runs, setup
from vid2act_jax.loops.logger import Logger, NullLogger
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch, FinetuneBatch, UserError


def finetuner(
  config, workdir, replay_dir, checkpoint, profiler, interrupt, stack
):
  """Everything the online loop uses, fresh or as the checkpoint left it."""
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
    kept = setup.scratch_folder(config, workdir) / 'embeddings'
    embeds = embedding.source_columns(
      agent, teacher, config.replay.embeddings, kept
    )
    replays = setup.load_sources(config, workdir, embeds)
  notes = {'task': config.task, 'action_dim': envs.action_dim, **sources}

  def init(key):
    return agent.init(key, teacher)

  state, resumed = runs.init_or_restore(
    checkpoint, init, config.seed, notes, 'finetune', devices
  )
  if agent.teacher:
    _same_teacher(state, teacher, checkpoint)
  counters = finetune.Counters()
  if resumed:
    fields = dataclasses.asdict(counters)
    counters = finetune.Counters(**{k: resumed[k] for k in fields})
  root = replay_dir or workdir / 'replay'
  written = _reshard(root, devices, resumed)
  replay = Replay(
    shards.folder_of(root, devices.process, devices.processes),
    config.replay.online_gb * 1e9,
    config.seed,
    envs.action_dim,
    config.env.size,
    owner=True,
    keep_episodes=written[devices.process],
    scratch=setup.scratch_folder(config, workdir),
    cross_episodes=config.replay.cross_episodes,
    keep_all=config.replay.keep_all,
    embed=embedding.target_column(agent, teacher, config.replay.embeddings),
  )
  schedule = finetune.Schedule(
    **config.finetune,
    eval_every=config.evaluate.every,
    action_repeat=config.env.action_repeat,
    seed=config.seed,
  )
  told = counters.agent_steps * schedule.action_repeat if resumed else None
  eval_key = jax.random.key(config.seed + 1)
  return finetune.Finetuner(
    agent=agent,
    state=state,
    envs=envs,
    evaluator=acting.Evaluator(
      agent, eval_envs, config.evaluate.episodes, eval_key, interrupt.check
    ),
    replay=replay,
    sources=replays,
    logger=stack.enter_context(
      open_log(workdir, 'finetune', told, (resumed or {}).get('lines'))
    ),
    checkpoint=checkpoint,
    schedule=schedule,
    counters=counters,
    notes=notes,
    profiler=profiler,
    updates=updates(config, workdir, agent.finetune_step, devices, 'finetune'),
    devices=devices,
    interrupt=interrupt,
    resumed=resumed,
  )


def _same_teacher(state, teacher, checkpoint):
  """Embeddings of another one would fit the state's teacher in shape alone."""
  for part, params in sharding.local(state.teacher).items():
    same = jax.tree.map(np.array_equal, params, teacher[part])
    if not jax.tree.all(same):
      raise UserError(
        f'the teacher is another one than when {checkpoint.directory} was'
        ' begun; give that one (config.teacher_from), or choose another folder'
        ' by --workdir=...'
      )


def _reshard(root, devices, resumed):
  """Every process's part of the online episodes is in its folder then."""
  before = resumed['total_episodes'] if resumed else []
  written = [0] * devices.processes
  if devices.is_first:
    written = shards.reshard(root, devices.processes, before)
  # As process 0 has found and made them; the others wait for it here.
  return sharding.gather(np.array(written))[0].tolist()


def _open_envs(config, num, stream, stack):
  """The target task's environments; streams have seeds of their own."""
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


def updates(config, workdir, step, devices, stage):
  """The stage's compiled updates."""
  part = config[stage]
  return TrainStep(
    step,
    devices,
    sharding.specs(Batch if stage == 'pretrain' else FinetuneBatch),
    part.updates_per_call,
    (part.log_every, part.video_every, part.save_every),
    config.skip_limit,
    workdir / 'not_finite' / stage,
  )


def open_log(workdir, stage, resume_step, resume_lines=None):
  """The first process tells for all."""
  if jax.process_index():
    return NullLogger()
  return Logger(workdir, stage, resume_step, resume_lines)
