"""Checks of a whole run before its first stage: all problems in one list.

Values and names first, then what the stages will find: environments, datasets,
the teacher, folders and devices. Nothing is written, and of datasets only
metadata and file names are read.
"""

import dataclasses
import functools
import os
import pathlib

from vid2act_jax import learner
from vid2act_jax.data import dataset, store
from vid2act_jax.data import sources as source_data
from vid2act_jax.loops import (
  batches,
  collect,
  config_checks,
  env_probe,
  policies,
  pretrain_setup,
  remedies,
  runs,
  schedule,
  seeds,
  setup,
  sources,
  stages,
)
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.types import Problems, UserError


def check_run(config, workdir: pathlib.Path, execution: Execution) -> None:
  """Checks everything that can be known before a run starts.

  Args:
    config: the run's; with several seeds, all of them are checked.
    workdir: the run's folder, or that of the seeds' folders; may be missing.
    execution: of the run.

  Raises:
    UserError: with all problems.
  """
  problems = Problems()
  with problems.collect():
    several = runs_of(config, workdir)
    if config.seeds:
      with problems.collect():
        groups = seeds.check(config, workdir, execution)
        execution = dataclasses.replace(execution, devices=groups[0][0])
    for own_config, folder in several:
      _RunCheck(own_config, folder, execution, problems).check()
  problems.raise_all()


def runs_of(config, workdir: pathlib.Path) -> list:
  """The config and the folder of each run: of each seed, or of the only one.

  Raises:
    UserError: the seeds are not valid.
  """
  if named := seeds.parse(config):
    return [
      (seeds.config_of(config, seed), seeds.folder_of(workdir, seed))
      for seed in named
    ]
  return [(config, workdir)]


@dataclasses.dataclass(frozen=True)
class Work:
  """What a run has to do: stages that are not done, and what they read.

  collects, pretrains, finetunes: whether the stage will run.
  sources: whether the stages that will run read the source datasets.
  """

  collects: bool
  pretrains: bool
  finetunes: bool
  sources: bool


def work_of(config, workdir: pathlib.Path) -> Work:
  """Finds what is left to do.

  Raises:
    UserError: the variant is not valid, or a file cannot be read.
  """
  variant = runs.variant_of(config)
  pretrains = (
    'pretrain' in config.stages
    and variant.pretrained
    and not config.teacher_from
    and not all(map(_is_pretrained, *_teacher_runs(config, workdir, variant)))
  )
  finetunes = 'finetune' in config.stages and not stages.finetuned(
    config, workdir
  )
  collects = 'collect' in config.stages and variant.uses_sources
  reads = variant.uses_sources and (pretrains or finetunes)
  return Work(collects, pretrains, finetunes, reads)


def _teacher_runs(config, workdir, variant):
  """Configs and folders of the runs that train the teachers."""
  if variant.teachers != 'separate':
    return [config], [workdir]
  folders = [sources.teacher_folder(workdir, task) for task in config.sources]
  single = functools.partial(stages.single_teacher_config, config, workdir)
  return list(map(single, config.sources)), folders


def _is_pretrained(config, folder):
  return bool(stages.pretrained(config, folder))


class _RunCheck:
  """The checks of one run."""

  def __init__(self, config, workdir, execution, problems):
    self._config, self._workdir = config, workdir
    self._execution, self._problems = execution, problems

  def check(self):
    """Adds the run's problems to the list."""
    config, workdir, problems = self._config, self._workdir, self._problems
    before = len(problems)
    with problems.collect():
      config_checks.check_config(config, workdir)
    valid = len(problems) == before
    with problems.collect():
      _check_writable(workdir, '--workdir')
      runs.check_workdir(workdir, config)
    with problems.collect():
      scratch = sources.scratch_folder(config, workdir)
      if scratch != workdir:
        _check_writable(scratch, '--config.replay.scratch')
    try:
      work = work_of(config, workdir)
      settings = setup.env_settings(config)
    except UserError as error:
      problems.add(*map(str, error.args))
      return
    self._check_devices(work)
    target = None
    if work.finetunes and config.task:
      with problems.collect():
        target = self._probe(config, workdir, settings)
    dims = self._check_sources(work)
    if work.finetunes and target:
      self._check_target_replay(target)
    if work.finetunes and not work.pretrains:
      with problems.collect():
        # Without valid sizes no agent can be built.
        self._check_teacher(target if valid else None, dims)

  def _check_devices(self, work):
    config = self._config
    with self._problems.collect():
      devices = self._execution.open_devices(config)
      if work.pretrains:
        num = max(len(config.sources), 1)
        if runs.variant_of(config).teachers == 'separate':
          num = 1
        with self._problems.collect():
          pretrain_setup.pretrain_rows(config, devices, num)
      if work.finetunes:
        with self._problems.collect():
          devices.rows(config.finetune.batch, 'config.finetune.batch')
        size = sources.rehearsal_size(config, runs.variant_of(config))
        devices.rows(size, batches.REHEARSAL_ROWS)

  def _probe(self, config, workdir, settings):
    """Probes the task in which an agent learns in a folder."""
    length, prefill = config.finetune.length, config.finetune.prefill
    task, variant = config.task, runs.variant_of(config)
    if (
      config.replay.cross_episodes
      or variant.jump_starts_prefill
      # It already learns from its own episodes.
      or Checkpoint(workdir / runs.STUDENT).exists()
    ):
      return env_probe.probe(task, settings)
    found = env_probe.probe(task, settings, length, prefill)
    if found.longest < length and found.steps >= prefill:
      # Longer ones than the median may not occur again.
      hint = remedies.short_episodes(
        config, self._workdir, 'finetune', found.median, prefill
      )
      self._problems.add(
        f'task {task!r}: the longest of its random episodes has'
        f' {found.longest} frames, too short for sequences of'
        f' config.finetune.length={length}; {hint}'
      )
    return found

  def _check_target_replay(self, target):
    """An episode of the time limit must fit the online replay."""
    config = self._config
    columns = store.frame_columns(config.env.size, target.action_dim)
    frames = config.env.time_limit // config.env.action_repeat + 1
    needed = frames * store.record_bytes(columns) / 1e9
    begun = Checkpoint(self._workdir / runs.STUDENT).exists()
    if config.replay.online_gb < needed and not begun:
      self._problems.add(
        f'config.replay.online_gb={config.replay.online_gb}: an episode of'
        f' config.env.time_limit={config.env.time_limit} has up to {frames}'
        f' frames; set --config.replay.online_gb={needed + 5e-5:.4f} or more'
      )

  def _check_sources(self, work):
    """Checks every source; returns their action sizes, None if not known."""
    dims = []
    if not (work.collects or work.sources):
      return dims
    for task in filter(None, self._config.sources):
      dim = None
      with self._problems.collect():
        dim = self._check_source(work, task)
      dims.append(dim)
    return dims

  def _check_source(self, work, task):
    config, workdir = self._config, self._workdir
    folder = sources.source_folder(config, workdir, task)
    metadata = sources.finished_dataset(folder)
    if metadata:
      if work.sources:
        self._check_dataset(work, folder, metadata)
      return metadata['action_dim']
    if not work.collects or _is_foreign(folder):
      dataset.read_metadata(folder)  # Says what is missing.
    stages.check_single_process(folder)
    if config.source_dir:  # Otherwise it is in the run's folder.
      _check_writable(folder, '--config.source_dir')
    policy = policies.resolve(config.collect.policy, task)
    if policy == 'agent':
      own_config = stages.agent_config(config, task)
      own_folder, settings = (
        stages.agent_folder(folder),
        setup.env_settings(config),
      )
      runs.check_workdir(own_folder, own_config)
      return self._probe(own_config, own_folder, settings).action_dim
    self._check_held_out()
    plan = stages.collect_plan(config, task, policy)
    description = collect.check_plan(plan)
    collect.check_folder(plan, folder)
    return description['action_dim']

  def _check_held_out(self):
    share = self._config.replay.held_out
    if share and self._config.collect.episodes < 2:
      self._problems.add(
        f'config.replay.held_out={share} holds out at least one episode, and'
        ' config.collect.episodes=1; set --config.collect.episodes=2 or more,'
        ' or --config.replay.held_out=0.'
      )

  def _check_dataset(self, work, folder, metadata):
    """Checks a complete dataset that stages will read."""
    config, workdir = self._config, self._workdir
    with self._problems.collect():
      sources.check_action_repeat(config, folder, metadata)
    variant = runs.variant_of(config)
    samples = variant.trains_generator or variant.rehearsal.share > 0
    reads = {
      'pretrain': work.pretrains,
      'finetune': work.finetunes and samples,
    }
    options = sources.source_options(config, workdir)
    capacity = config.replay.source_gb * 1e9
    for stage in [stage for stage, is_read in reads.items() if is_read]:
      with (
        self._problems.collect(),
        remedies.for_stage(config, workdir, stage),
      ):
        source_data.check_source(
          folder, capacity, config.seed, options, [config[stage].length]
        )

  def _check_teacher(self, target, dims):
    config = self._config
    variant = runs.variant_of(config)
    if not variant.pretrained:
      return
    agent = None
    if target and dims and None not in dims:
      agent = learner.build_agent(
        config.learner,
        target.action_dim,
        tuple(dims),
        variant=variant,
        num_updates=schedule.finetune_schedule(config).num_updates,
      )
    sources.check_teacher(config, self._workdir, variant, agent)


def _is_foreign(folder):
  """Whether an unfinished dataset is of another program, as an import."""
  if not (folder / dataset.FILE).exists():
    return False
  collected = dataset.read_metadata(folder, partial=True)['collected']
  return collected.get('method') != 'collect'


def _check_writable(folder, key):
  """Checks that a folder can be made and written, without doing so.

  Args:
    folder: may be missing.
    key: the flag that names it.

  Raises:
    UserError: it cannot.
  """
  folder = folder.absolute()
  parent = next(p for p in (folder, *folder.parents) if p.exists())
  if not parent.is_dir():
    raise UserError(
      f'{folder}: {parent} is a file, not a folder; choose another folder'
      f' ({key}=...)'
    )
  if not os.access(parent, os.W_OK | os.X_OK):
    raise UserError(
      f'{folder}: {parent} is not writable; fix its permissions, or choose'
      f' another folder ({key}=...)'
    )
