"""The stages of a run, each from a config and a folder.

A complete stage is skipped, a partial one is resumed.
"""

import contextlib
import json
import os
import pathlib
import sys

import jax

from vid2act_jax import envs as environments
from vid2act_jax import learner, sharding
from vid2act_jax.data import dataset, files, shards
from vid2act_jax.loops import build, collect, pretrain, runs, setup
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.types import UserError

NO_PREEMPTION = PreemptionHandler()  # Not entered: no signals, no stops.
PARTS = 'parts.json'  # Seconds of a stage by section, in its profile.


def run_collect(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  preemption: PreemptionHandler = NO_PREEMPTION,
):
  """Collects the source datasets that are missing.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: as in `run_finetune`, for agents that are trained to collect.
    preemption: checked where the stage can save and stop.

  Raises:
    Preempted: the run was asked to stop; finished episodes are kept.
  """
  if not setup.uses_sources(config):
    _report('collect: nothing to do without transfer')
    return
  for task in config.sources:
    folder = setup.source_folder(config, workdir, task)
    if (folder / dataset.FILE).exists():
      metadata = dataset.read_metadata(folder, partial=True)
      if metadata['complete']:
        _report(f'collect: {task} exists, {metadata["episodes"]} episodes')
        continue
    if jax.process_count() > 1:
      raise UserError(
        f'{folder}: missing or not complete, and only a single process can'
        ' collect; run one process first with --config.stages="(\'collect\',)"'
      )
    policy = setup.collect_policy(config, task)
    if policy == 'agent':
      with files.lock(folder):
        _collect_by_agent(config, task, folder, profile, preemption)
      continue
    # Several datasets share one log: this removes nothing from it.
    with build.open_log(workdir, 'collect', sys.maxsize) as logger:
      _collect_by_policy(config, task, folder, policy, logger, preemption)


def _collect_by_policy(config, task, folder, policy, logger, preemption):
  """Collects episodes with fixed behaviour policies."""
  c, settings = config.collect, setup.env_settings(config)
  plan = collect.Plan(task, settings, policy, c.episodes, c.noise, config.seed)

  def on_episode(done, episode):
    values = {f'{task}/{k}': float(v) for k, v in episode.summary.items()}
    logger.scalars(episode.index + 1, values)
    logger.progress(
      done,
      c.episodes,
      'episodes',
      task=task,
      last=episode.behaviour,
      last_return=episode.summary['return'],
    )

  key = f'{task}/return'
  metrics = read_metrics(logger.workdir, 'collect')
  logged = {row['step'] - 1 for row in metrics if key in row}
  collect.collect(
    plan,
    folder,
    c.workers or os.cpu_count(),
    on_episode,
    logged,
    preemption.check,
  )
  logger.message(f'{task}: {collect.describe(plan, folder)}')


def _collect_by_agent(config, task, folder, profile, preemption):
  """Trains an agent from scratch and keeps its whole replay."""
  agent_config = config.copy_and_resolve_references()
  with agent_config.unlocked():
    agent_config.task, agent_config.sources = task, ()
    agent_config.variant = 'dreamerv2'
    agent_config.finetune.env_steps = config.collect.agent_env_steps
    agent_config.replay.keep_all = True
  _report(f'collect: {task}, by an agent that learns it')
  workdir = folder / 'agent'
  runs.init_workdir(workdir, agent_config)
  provenance = {'method': 'agent', 'seed': agent_config.seed}
  run_finetune(agent_config, workdir, profile, preemption, folder, provenance)


def run_pretrain(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  preemption: PreemptionHandler = NO_PREEMPTION,
):
  """Trains the teacher on the source datasets.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: write a trace of some updates, and the seconds by section.
    preemption: checked where the stage can save and stop.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  if not setup.uses_sources(config):
    _report('pretrain: nothing to do without transfer')
    return
  if config.teacher_from:
    _report(f'pretrain: nothing to do, the teacher is {config.teacher_from}')
    return
  checkpoint = Checkpoint(workdir / runs.TEACHER)
  steps = config.pretrain.steps
  done = checkpoint.finished()
  if done and done['step'] >= steps:
    _report(f'pretrain: done, {done["step"]} updates')
    return
  variant = setup.variant(config)
  metadata = setup.source_metadata(config, workdir)
  metadata['actions'] = variant.actions
  devices = sharding.Devices(config.mesh.data)
  each = -(-config.pretrain.batch // len(config.sources))
  rows = devices.rows(each, 'config.pretrain.batch', len(config.sources))
  replays = setup.load_sources(config, workdir)
  dims = tuple(metadata['source_action_dims'])
  pretrainer = learner.build_pretrainer(config.learner, dims, variant=variant)
  state, restored = runs.init_or_restore(
    checkpoint, pretrainer.init, config.seed, metadata, 'pretrain', devices
  )
  schedule = pretrain.Schedule(seed=config.seed, **config.pretrain)
  with (
    build.open_log(
      workdir,
      'pretrain',
      restored and int(state.step),
      (restored or {}).get('lines'),
    ) as logger,
    _profiling(workdir, 'pretrain', profile) as profiler,
  ):
    pretrain.pretrain(
      pretrainer,
      state,
      replays,
      logger,
      checkpoint,
      schedule,
      metadata,
      profiler,
      build.train_step(
        config, workdir, pretrainer.pretrain_step, devices, 'pretrain'
      ),
      rows,
      preemption,
      (restored or {}).get('tally'),
    )
  checkpoint.finish(steps, metadata)


def run_finetune(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  preemption: PreemptionHandler = NO_PREEMPTION,
  replay_dir: pathlib.Path | None = None,
  provenance: dict | None = None,
):
  """Learns the target task online.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: write a trace of some updates, and the seconds by section.
    preemption: checked where the stage can save and stop.
    replay_dir: of the online episodes; None: replay/ in the run's folder.
    provenance: of these episodes, for their metadata.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  checkpoint = Checkpoint(workdir / runs.STUDENT)
  done = checkpoint.finished()
  needs_training = not done or done['env_steps'] < config.finetune.env_steps
  if not needs_training:
    _report(f'finetune: done, {done["env_steps"]} env steps of {config.task}')
  else:
    with contextlib.ExitStack() as stack:
      profiler = stack.enter_context(_profiling(workdir, 'finetune', profile))
      with profiler.section('setting up'):
        loop = build.finetuner(
          config, workdir, replay_dir, checkpoint, profiler, preemption, stack
        )
      loop.run()
      done = {'env_steps': loop.env_steps}
    checkpoint.finish(loop.counters.updates, done)
    if jax.process_index() == 0:
      shards.clean(replay_dir or workdir / 'replay', jax.process_count())
  # Also if it is missing: the run may have been stopped before this line.
  root = replay_dir or workdir / 'replay'
  folder = shards.folder_of(root, jax.process_index(), jax.process_count())
  if needs_training or not (folder / dataset.FILE).exists():
    provenance = provenance or {'method': 'online replay', 'seed': config.seed}
    env = environments.make(config.task, setup.env_settings(config), 0)
    provenance = {**provenance, 'env_steps': done['env_steps']}
    dataset.write_metadata(
      folder, config.task, provenance, env.description, True
    )
    env.close()


@contextlib.contextmanager
def _profiling(workdir, stage, profile):
  """The stage's profiler; reports its results at the end."""
  folder = workdir / 'profile' / stage
  profile = profile and jax.process_index() == 0
  profiler = Profiler(folder if profile else None)
  try:
    yield profiler
  finally:
    profiler.close()
  if profile:
    text = json.dumps(profiler.seconds())
    (files.make_folder(folder) / PARTS).write_text(text + '\n')
    _report(f'{stage}: where the time went\n{profiler.table()}')
    _report(f'{stage}: this table and a trace of some updates are in {folder}')


def _report(text):
  if jax.process_index() == 0:
    print(text, flush=True)
