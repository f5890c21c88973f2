"""The stages of a run, each from a config and a folder.

A complete stage is skipped, a partial one is resumed.
"""

import os
import pathlib
import sys
import threading

import jax

from vid2act_jax.data import dataset, files, shards
from vid2act_jax.learner.variants import FIELDS
from vid2act_jax.loops import (
  collect,
  env_probe,
  finetune,
  finetune_setup,
  policies,
  pretrain,
  pretrain_setup,
  progress,
  remedies,
  runs,
  setup,
  sources,
)
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.types import UserError

# Seeds in one process collect one after another: each uses all cores.
_COLLECTING = threading.Lock()
ALONE = Execution()  # Without profile, and without a handler of signals.


def run_collect(config, workdir: pathlib.Path, execution: Execution = ALONE):
  """Collects the source datasets that are missing.

  Args:
    config: the run's.
    workdir: the run's folder.
    execution: of the run.

  Raises:
    Preempted: the run was asked to stop; finished episodes are kept.
  """
  if not sources.uses_sources(config):
    _report('collect: nothing to do without transfer')
    return
  for task in config.sources:
    folder = sources.source_folder(config, workdir, task)
    if metadata := sources.finished_dataset(folder):
      _report(f'collect: {task} exists, {metadata["episodes"]} episodes')
      continue
    check_single_process(folder)
    policy = policies.resolve(config.collect.policy, task)
    if policy == 'agent':
      with files.lock(folder):
        _collect_by_agent(config, task, folder, execution)
      continue
    # Several datasets share one log: this removes nothing from it.
    with (
      _COLLECTING,
      setup.open_log(config, workdir, 'collect', sys.maxsize, {}) as logger,
    ):
      _collect_by_policy(config, task, folder, policy, logger, execution)


def check_single_process(folder: pathlib.Path) -> None:
  """Raises a UserError if several processes would collect a dataset."""
  if jax.process_count() > 1:
    raise UserError(
      f'{folder}: missing or not complete, and only a single process can'
      ' collect; run one process first with --config.stages="(\'collect\',)"'
    )


def collect_plan(config, task: str, policy: str) -> collect.Plan:
  """What a run collects of a task with a behaviour policy."""
  c, settings = config.collect, setup.env_settings(config)
  return collect.Plan(task, settings, policy, c.episodes, c.noise, config.seed)


def _collect_by_policy(config, task, folder, policy, logger, execution):
  """Collects episodes with fixed behaviour policies."""
  c, plan = config.collect, collect_plan(config, task, policy)

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
    execution.preemption.check,
  )
  logger.message(f'{task}: {collect.describe(plan, folder)}')


def agent_config(config, task: str):
  """The config of the agent that collects a task's dataset."""
  out = config.copy_and_resolve_references()
  with out.unlocked():
    out.task, out.sources, out.variant = task, (), 'dreamerv2'
    _unset_fields(out)
    out.finetune.env_steps = config.collect.agent_env_steps
    out.replay.keep_all = True
    out.evaluate.episodes = 0  # Nobody reads them.
  return out


def agent_folder(folder: pathlib.Path) -> pathlib.Path:
  """Run folder of the agent that collects a dataset."""
  return folder / 'agent'


def _collect_by_agent(config, task, folder, execution):
  """Trains an agent from scratch and keeps its whole replay."""
  own_config, workdir = agent_config(config, task), agent_folder(folder)
  _report(f'collect: {task}, by an agent that learns it')
  runs.init_workdir(workdir, own_config)
  provenance = {'method': 'agent', 'seed': config.seed}
  run_finetune(own_config, workdir, execution, folder, provenance)


def run_pretrain(config, workdir: pathlib.Path, execution: Execution = ALONE):
  """Trains the teacher on the source datasets.

  Args:
    config: the run's.
    workdir: the run's folder.
    execution: of the run.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  if not sources.uses_sources(config):
    _report('pretrain: nothing to do without transfer')
    return
  if config.teacher_from:
    _report(f'pretrain: nothing to do, the teacher is {config.teacher_from}')
    return
  variant = runs.variant_of(config)
  if not variant.pretrained:
    _report('pretrain: nothing to do, no pretrained model is used')
    return
  if variant.teachers == 'separate':
    for task in config.sources:
      folder = sources.teacher_folder(workdir, task)
      single = single_teacher_config(config, workdir, task)
      _report(f'pretrain: the teacher of {task}')
      runs.init_workdir(folder, single)
      run_pretrain(single, folder, execution)
    return
  if done := pretrained(config, workdir):
    _report(f'pretrain: done, {done["step"]} updates')
    return
  with (
    remedies.for_stage(config, workdir, 'pretrain'),
    pretrain_setup.setup_pretrain(config, workdir, execution) as built,
  ):
    _report_rewards(built.context.metadata)
    pretrain.TeacherTraining(built).run()
  built.context.checkpoint.finish(config.pretrain.steps, built.context.metadata)


def pretrained(config, workdir: pathlib.Path) -> dict | None:
  """What a folder's pretraining ended with; None if it is not long enough.

  Raises:
    UserError: it cannot be read.
  """
  done = Checkpoint(workdir / runs.TEACHER).finished()
  return done if done and done['step'] >= config.pretrain.steps else None


def finetuned(config, workdir: pathlib.Path) -> dict | None:
  """What a folder's finetuning ended with; None if it is not long enough.

  Raises:
    UserError: it cannot be read.
  """
  done = Checkpoint(workdir / runs.STUDENT).finished()
  enough = done and done['env_steps'] >= config.finetune.env_steps
  return done if enough else None


def single_teacher_config(config, workdir: pathlib.Path, task: str):
  """The config of the teacher of one source, of the run in this folder."""
  variant = runs.variant_of(config)
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.source_dir = config.source_dir or str(workdir / 'sources')
    single.sources, single.variant = (task,), 'vid2act'
    _unset_fields(single)
    single.learner.transfer.pretrain_actions = variant.pretrain_actions
    single.stages = ('pretrain',)
  return single


def _unset_fields(config):
  """Leaves the fields of the variant to the preset."""
  config.learner.transfer.update(dict.fromkeys(FIELDS))


def run_finetune(
  config,
  workdir: pathlib.Path,
  execution: Execution = ALONE,
  replay_dir: pathlib.Path | None = None,
  provenance: dict | None = None,
):
  """Learns the target task online.

  Args:
    config: the run's.
    workdir: the run's folder.
    execution: of the run.
    replay_dir: of the online episodes; None: replay/ in the run's folder.
    provenance: of these episodes, for their metadata.

  Raises:
    Preempted: the run was asked to stop; a checkpoint has been written.
  """
  root = replay_dir or workdir / 'replay'
  done = finetuned(config, workdir)
  needs_training = not done
  if done:
    _report(f'finetune: done, {done["env_steps"]} env steps of {config.task}')
  else:
    with (
      remedies.for_stage(config, workdir, 'finetune'),
      finetune_setup.setup_finetune(config, workdir, execution, root) as built,
    ):
      loop = finetune.Finetuner(built)
      loop.run()
    done = {'env_steps': loop.env_steps}
    built.context.checkpoint.finish(loop.counters.updates, done)
    if jax.process_index() == 0:
      shards.clean(root, jax.process_count())
  # Also if it is missing: the run may have been stopped before this line.
  folder = shards.folder_of(root, jax.process_index(), jax.process_count())
  if needs_training or not (folder / dataset.FILE).exists():
    provenance = provenance or {'method': 'online replay', 'seed': config.seed}
    probed = env_probe.probe(config.task, setup.env_settings(config))
    provenance = {**provenance, 'env_steps': done['env_steps']}
    dataset.write_metadata(
      folder, config.task, provenance, probed.description, True
    )


STAGES = {
  'collect': run_collect,
  'pretrain': run_pretrain,
  'finetune': run_finetune,
}


def _report_rewards(metadata):
  """Reports the sources without rewards, if any."""
  rewards = sources.source_rewards(metadata)
  if rewards is None:
    return
  named = zip(metadata['sources'], rewards, strict=True)
  missing = ', '.join(name for name, has in named if not has)
  _report(
    f'pretrain: no rewards in {missing}; the reward head'
    + (' is not trained on them' if any(rewards) else ' is not trained')
  )


def _report(text):
  if jax.process_index() == 0:
    progress.report(text)
