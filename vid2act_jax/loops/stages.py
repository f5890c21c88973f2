"""The stages of a run, each from a config and a folder.

A stage whose result is there is skipped, one that is half done is resumed.
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
from vid2act_jax.loops import (
  build,
  collect,
  pretrain,
  runs,
  setup,
)
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.types import UserError

NO_PREEMPTION = PreemptionHandler()  # Listens to nobody.
PARTS = 'parts.json'  # Seconds of the parts of a stage, in its profile.


def run_collect(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  interrupt: PreemptionHandler = NO_PREEMPTION,
):
  """Builds the source datasets that are not there.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: as of the other stages, for agents that learn here.
    interrupt: the wish to stop.

  Raises:
    Preempted: the run was asked to stop; episodes that had ended are kept.
  """
  if not setup.uses_sources(config):
    _say('collect: nothing to do without transfer')
    return
  for task in config.sources:
    folder = setup.source_folder(config, workdir, task)
    if (folder / dataset.FILE).exists():
      about = dataset.read_metadata(folder, partial=True)
      if about['complete']:
        _say(f'collect: {task} is there, {about["episodes"]} episodes')
        continue
    if jax.process_count() > 1:
      raise UserError(
        f'{folder}: several processes train from datasets that are there; let'
        ' one collect first: --config.stages="(\'collect\',)"'
      )
    policy = setup.collect_policy(config, task)
    if policy == 'agent':
      with files.lock(folder):
        _collect_by_agent(config, task, folder, profile, interrupt)
      continue
    # Several datasets, one log: nothing told before is taken back.
    with build.open_log(workdir, 'collect', sys.maxsize) as logger:
      _collect_by_policy(config, task, folder, policy, logger, interrupt)


def _collect_by_policy(config, task, folder, policy, logger, interrupt):
  """Plays episodes with a behaviour that does not learn."""
  c, settings = config.collect, setup.env_settings(config)
  plan = collect.Plan(task, settings, policy, c.episodes, c.noise, config.seed)

  def tell(done, played):
    values = {f'{task}/{k}': float(v) for k, v in played.summary.items()}
    logger.scalars(played.index + 1, values)
    logger.progress(
      done,
      c.episodes,
      'episodes',
      task=task,
      last=played.behaviour,
      last_return=played.summary['return'],
    )

  key = f'{task}/return'
  told = read_metrics(logger.workdir, 'collect')
  told = {row['step'] - 1 for row in told if key in row}
  collect.collect(
    plan, folder, c.workers or os.cpu_count(), tell, told, interrupt.check
  )
  logger.message(f'{task}: {collect.describe(plan, folder)}')


def _collect_by_agent(config, task, folder, profile, interrupt):
  """Keeps the whole replay of an agent that learns the task from scratch."""
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.task, own.sources = task, ()
    own.variant = 'dreamerv2'
    own.finetune.env_steps = config.collect.agent_env_steps
    own.replay.keep_all = True
  _say(f'collect: {task}, by an agent that learns it')
  workdir = folder / 'agent'
  runs.init_workdir(workdir, own)
  how = {'method': 'agent', 'seed': own.seed}
  run_finetune(own, workdir, profile, interrupt, folder, how)


def run_pretrain(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  interrupt: PreemptionHandler = NO_PREEMPTION,
):
  """Trains the teacher on the source datasets.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: write a trace of some updates, and tell where the time went.
    interrupt: the wish to stop.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  if not setup.uses_sources(config):
    _say('pretrain: nothing to do without transfer')
    return
  if config.teacher_from:
    _say(f'pretrain: nothing to do, the teacher is {config.teacher_from}')
    return
  checkpoint = Checkpoint(workdir / runs.TEACHER)
  steps = config.pretrain.steps
  done = checkpoint.finished()
  if done and done['step'] >= steps:
    _say(f'pretrain: done, {done["step"]} updates')
    return
  variant = setup.variant(config)
  notes = setup.source_metadata(config, workdir)
  notes['actions'] = variant.actions
  devices = sharding.Devices(config.mesh.data)
  each = -(-config.pretrain.batch // len(config.sources))
  rows = devices.rows(each, 'config.pretrain.batch', len(config.sources))
  replays = setup.load_sources(config, workdir)
  dims = tuple(notes['source_action_dims'])
  pretrainer = learner.build_pretrainer(config.learner, dims, variant=variant)
  state, resumed = runs.init_or_restore(
    checkpoint, pretrainer.init, config.seed, notes, 'pretrain', devices
  )
  schedule = pretrain.Schedule(seed=config.seed, **config.pretrain)
  with (
    build.open_log(
      workdir,
      'pretrain',
      resumed and int(state.step),
      (resumed or {}).get('lines'),
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
      notes,
      profiler,
      build.updates(
        config, workdir, pretrainer.pretrain_step, devices, 'pretrain'
      ),
      rows,
      interrupt,
      (resumed or {}).get('tally'),
    )
  checkpoint.finish(steps, notes)


def run_finetune(
  config,
  workdir: pathlib.Path,
  profile: bool = False,
  interrupt: PreemptionHandler = NO_PREEMPTION,
  replay_dir: pathlib.Path | None = None,
  how: dict | None = None,
):
  """Learns the target task online.

  Args:
    config: the run's.
    workdir: the run's folder.
    profile: write a trace of some updates, and tell where the time went.
    interrupt: the wish to stop.
    replay_dir: of the online episodes; None: replay/ in the run's folder.
    how: what their metadata says of how they came about.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  checkpoint = Checkpoint(workdir / runs.STUDENT)
  done = checkpoint.finished()
  trains = not done or done['env_steps'] < config.finetune.env_steps
  if not trains:
    _say(f'finetune: done, {done["env_steps"]} env steps of {config.task}')
  else:
    with contextlib.ExitStack() as stack:
      profiler = stack.enter_context(_profiling(workdir, 'finetune', profile))
      with profiler.part('setting up'):
        loop = build.finetuner(
          config, workdir, replay_dir, checkpoint, profiler, interrupt, stack
        )
      loop.run()
      done = {'env_steps': loop.env_steps}
    checkpoint.finish(loop.counters.updates, done)
    if jax.process_index() == 0:
      shards.clean(replay_dir or workdir / 'replay', jax.process_count())
  # Also when it is missing: an interruption before here costs nothing.
  root = replay_dir or workdir / 'replay'
  folder = shards.folder_of(root, jax.process_index(), jax.process_count())
  if trains or not (folder / dataset.FILE).exists():
    how = how or {'method': 'online replay', 'seed': config.seed}
    env = environments.make(config.task, setup.env_settings(config), 0)
    how = {**how, 'env_steps': done['env_steps']}
    dataset.write_metadata(folder, config.task, how, env.description, True)
    env.close()


@contextlib.contextmanager
def _profiling(workdir, stage, profile):
  """The stage's profiler; at the end, tells what it found."""
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
    _say(f'{stage}: where the time went\n{profiler.table()}')
    _say(f'{stage}: the same, and a trace of some updates: {folder}')


def _say(text):
  if jax.process_index() == 0:
    print(text, flush=True)
