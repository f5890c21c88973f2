"""Source datasets and the teacher of a run: where they are, and loading."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from vid2act_jax import learner, sharding
from vid2act_jax.data import bucket, dataset, quarantine, weights
from vid2act_jax.data.replay import DerivedColumn, ReplayOptions
from vid2act_jax.data.sources import load_sources
from vid2act_jax.learner import teachers, torch_import
from vid2act_jax.loops import embedding, progress, run_copies, runs
from vid2act_jax.loops.batches import Rehearsal
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import Problems, UserError

_WITH = {True: 'with', False: 'without'}
_WITH_PRETRAIN = "('pretrain','finetune')"


def uses_sources(config) -> bool:
  """Whether this config uses source tasks."""
  return runs.variant_of(config).uses_sources


def scratch_folder(config, workdir: pathlib.Path) -> pathlib.Path:
  """Folder that holds frames on disk for sampling."""
  return pathlib.Path(config.replay.scratch or workdir).expanduser()


def replay_options(
  config,
  workdir: pathlib.Path,
  action_dim: int | None = None,
  embed: DerivedColumn | None = None,
) -> ReplayOptions:
  """Options of the run's replays; see `ReplayOptions`."""
  return ReplayOptions(
    action_dim=action_dim,
    size=config.env.size,
    scratch=scratch_folder(config, workdir),
    cross_episodes=config.replay.cross_episodes,
    keep_all=config.replay.keep_all,
    embed=embed,
  )


def source_folder(config, workdir: pathlib.Path, task: str) -> pathlib.Path:
  """Folder of the dataset of a source task; it may not exist yet.

  Raises:
    UserError: it is in a bucket, and cannot be read or is not complete.
  """
  if bucket.is_url(config.source_dir):
    url = f'{config.source_dir.rstrip("/")}/{task}'
    return run_copies.open_dataset(url, config.replay.scratch)
  root = config.source_dir or workdir / runs.SOURCES
  return pathlib.Path(root).expanduser() / task


def finished_dataset(folder: pathlib.Path) -> dict | None:
  """Metadata of a dataset; None if it is missing or not complete.

  Raises:
    UserError: its metadata is damaged.
  """
  if not (folder / dataset.FILE).exists():
    return None
  metadata = dataset.read_metadata(folder, partial=True)
  return metadata if metadata['complete'] else None


def source_metadata(config, workdir: pathlib.Path) -> dict:
  """Metadata of every checkpoint: the sources' names and action sizes.

  With `source_rewards`, whether each has rewards, if some have none.

  Raises:
    UserError: a dataset is missing, or has another action repeat.
  """
  dims, rewards = [], []
  for task in config.sources if uses_sources(config) else ():
    folder = source_folder(config, workdir, task)
    metadata = dataset.read_metadata(folder)
    dims.append(metadata['action_dim'])
    rewards.append(dataset.has_rewards(metadata))
    check_action_repeat(config, folder, metadata)
  names = list(config.sources) if dims else []
  out = {'sources': names, 'source_action_dims': dims}
  return out if all(rewards) else {**out, runs.SOURCE_REWARDS: rewards}


def check_action_repeat(config, folder: pathlib.Path, metadata: dict) -> None:
  """Raises a UserError if a dataset has another action repeat."""
  found = metadata['action_repeat']
  if found not in (None, config.env.action_repeat):  # None: not known.
    raise UserError(
      f'{folder}: collected with action_repeat={found}, but'
      f' config.env.action_repeat={config.env.action_repeat}; set'
      f' --config.env.action_repeat={found}, or collect again into another'
      ' folder (config.source_dir)'
    )


def source_rewards(metadata: Mapping) -> tuple[bool, ...] | None:
  """Whether each source has rewards, of a checkpoint; None: all have."""
  rewards = metadata.get(runs.SOURCE_REWARDS)
  return None if rewards is None else tuple(rewards)


def load_replays(config, workdir: pathlib.Path, embeds=None):
  """Opens the source datasets, in the order of the labels.

  Args:
    config: the run's.
    workdir: the run's folder.
    embeds: the embedding column of each `Replay`.

  Returns:
    N `Replay`s.

  Raises:
    UserError: a dataset is missing or damaged.
  """
  folders = [source_folder(config, workdir, t) for t in config.sources]
  for folder in folders:
    if reasons := quarantine.read_reasons(folder):
      text = f'{folder}: {len(reasons)} episodes in quarantine are not used'
      progress.report(text)
  options = source_options(config, workdir)
  capacity = config.replay.source_gb * 1e9
  replays, _ = load_sources(folders, capacity, config.seed, options, embeds)
  return replays


def source_options(config, workdir: pathlib.Path) -> ReplayOptions:
  """Options of the replays of the sources."""
  return dataclasses.replace(
    replay_options(config, workdir), held_out=config.replay.held_out
  )


def load_for_student(config, workdir: pathlib.Path, agent):
  """Loads what the student learns from, if its variant uses it.

  Returns:
    The teacher's parameters or None, the sources' N `Replay`s or [], and the
    embedding column of the online replay or None.

  Raises:
    UserError: the teacher or a dataset is missing, damaged or does not fit.
  """
  teacher, replays, dtype = None, [], config.replay.embeddings
  if agent.pretrained:
    teacher = load_teacher(config, workdir, agent)
  if agent.trains_generator:
    cache_dir = scratch_folder(config, workdir) / 'embeddings'
    embeds = embedding.source_columns(agent, teacher, dtype, cache_dir)
    replays = load_replays(config, workdir, embeds)
  return teacher, replays, embedding.target_column(agent, teacher, dtype)


def load_for_rehearsal(
  config, workdir: pathlib.Path, agent
) -> Rehearsal | None:
  """Opens the sources with their images, if the variant rehearses them.

  Raises:
    UserError: a dataset is missing or damaged, or as in `rehearsal_size`.
  """
  size = rehearsal_size(config, agent.variant)
  return Rehearsal(load_replays(config, workdir), size) if size else None


def rehearsal_size(config, variant: learner.Variant) -> int:
  """Number of source sequences in the batch of the student's world model.

  Raises:
    UserError: it is not 0, and leaves none of the sources or of the target.
  """
  share, batch = variant.rehearsal.share, config.finetune.batch
  size = round(share * batch)
  if share and not 0 < size < batch:
    hint = '--config.learner.transfer.rehearsal=0.5'
    if batch < 2:
      hint = '--config.finetune.batch=2 or more'
    raise UserError(
      f'config.learner.transfer.rehearsal={share} of'
      f' config.finetune.batch={batch} sequences is {size}, which leaves none'
      f' of the target or of the sources; set {hint}'
    )
  return size


def has_generator(checkpoint: Checkpoint) -> bool:
  """Whether a pretrained teacher has a generator."""
  metadata = checkpoint.finished() or checkpoint.restore_raw()[1]
  return metadata.get('generator', False)


def load_teacher(config, workdir: pathlib.Path, agent):
  """Loads the frozen teacher's parameters.

  They are from this run, another run or a public checkpoint, or from several
  runs. With a pretrained generator, they include it.

  Raises:
    UserError: it is missing, has other sizes, or was pretrained on other
      domains.
  """
  if is_public(config.teacher_from):
    read = weights.read(_public_file(config))
    return torch_import.load_teacher(read, agent)
  params, agents = [], _single_agents(agent)
  for place, own in zip(
    teacher_places(config, workdir, agent.variant), agents, strict=True
  ):
    checkpoint, metadata = find_teacher(config, agent.variant, place)
    pretrainer = _pretrainer(config, own, metadata)
    target = jax.eval_shape(pretrainer.init, jax.random.key(0))
    state, _, _ = checkpoint.restore(target)
    params.append(pretrainer.teacher_params(state))
  if agent.variant.teachers != 'separate':
    return params[0]
  models = [own.pretrained for own in agents]
  width = agent.pretrained.action_dim
  return teachers.stack_separate(models, params, width)


def check_teacher(config, workdir: pathlib.Path, variant, agent=None) -> None:
  """Checks what `load_teacher` needs, without reading checkpoints' arrays.

  Args:
    config: the run's.
    workdir: the run's folder.
    variant: of the config.
    agent: as in `load_teacher`; None: the sizes are not checked.

  Raises:
    UserError: as in `load_teacher`, with all problems.
  """
  if is_public(config.teacher_from):
    read = weights.read(_public_file(config))
    if agent:
      torch_import.load_teacher(read, agent)
    return
  problems = Problems()
  places = teacher_places(config, workdir, variant)
  agents = _single_agents(agent) if agent else [None] * len(places)
  for place, own in zip(places, agents, strict=True):
    with problems.collect():
      checkpoint, metadata = find_teacher(config, variant, place)
      if own:
        pretrainer = _pretrainer(config, own, metadata)
        checkpoint.check(jax.eval_shape(pretrainer.init, jax.random.key(0)))
  problems.raise_all()


class TeacherPlace(NamedTuple):
  """Where a teacher is; separate teachers have one place for each source."""

  folder: pathlib.Path  # of the run that trains it
  names: tuple[str, ...]  # of its sources


def teacher_places(
  config, workdir: pathlib.Path, variant: learner.Variant
) -> list[TeacherPlace]:
  """Where the teachers of a run are, or will be.

  Raises:
    UserError: as in `teacher_folders`.
  """
  separate = variant.teachers == 'separate'
  names = [(task,) for task in config.sources]
  if not separate:
    names = [tuple(config.sources)]
  if config.teacher_from:
    folders = teacher_folders(config, variant)
  elif separate:
    folders = [teacher_folder(workdir, task) for task in config.sources]
  else:
    folders = [workdir]
  return [TeacherPlace(*place) for place in zip(folders, names, strict=True)]


def _single_agents(agent):
  """The agent, or one for each of its separate teachers."""
  if agent.variant.teachers != 'separate':
    return [agent]
  agents = []
  for dim in agent.source_action_dims:
    action_dim = dim if agent.variant.pretrain_actions else 0
    own = dataclasses.replace(
      agent.pretrained, num_domains=1, action_dim=action_dim
    )
    agents.append(
      dataclasses.replace(agent, pretrained=own, source_action_dims=(dim,))
    )
  return agents


def teacher_folders(config, variant: learner.Variant) -> list[pathlib.Path]:
  """The run folders, or the public checkpoint, of `config.teacher_from`.

  Raises:
    UserError: they are not as many as the teachers.
  """
  if variant.teachers != 'separate':
    folder = pathlib.Path(config.teacher_from).expanduser()
    if ',' in config.teacher_from and not folder.exists():
      raise UserError(
        f'config.teacher_from={config.teacher_from} names several run folders,'
        f' but config.learner.transfer.teachers={variant.teachers}; name one,'
        ' or set --config.learner.transfer.teachers=separate'
      )
    return [_teacher_copy(config, config.teacher_from)]
  names = [name.strip() for name in config.teacher_from.split(',')]
  if len(names) != len(config.sources):
    raise UserError(
      f'config.teacher_from names {len(names)} run folders, but'
      f' config.sources has {len(config.sources)} tasks; with'
      ' config.learner.transfer.teachers=separate name one for each source,'
      ' RUN,RUN,..., in the same order'
    )
  return [_teacher_copy(config, name) for name in names]


def _teacher_copy(config, name: str) -> pathlib.Path:
  """A run folder or a public checkpoint, or the copy of one in a bucket."""
  if not bucket.is_url(name):
    return pathlib.Path(name).expanduser()
  copy = run_copies.open_file if is_public(name) else run_copies.open_teacher
  return copy(name, config.replay.scratch)


def _public_file(config) -> pathlib.Path:
  return _teacher_copy(config, config.teacher_from)


def is_public(teacher_from: str) -> bool:
  """Whether this teacher is a file of the public code's parameters."""
  return teacher_from.endswith(weights.SUFFIXES)


def teacher_folder(workdir: pathlib.Path, task: str) -> pathlib.Path:
  """Folder of the separate teacher of a source task.

  Without commas, which separate the folders in `config.teacher_from`.
  """
  return workdir / runs.TEACHERS / task.replace(',', '+')


def _pretrainer(config, agent, metadata):
  """The pretrainer of a teacher with this metadata, for an agent."""
  return learner.build_pretrainer(
    config.learner,
    agent.source_action_dims,
    variant=agent.variant,
    generator=metadata.get('generator', False),
    source_rewards=source_rewards(metadata),
  )


def find_teacher(
  config, variant: learner.Variant, place: TeacherPlace
) -> tuple[Checkpoint, dict]:
  """Finds a teacher that a variant can use.

  Returns:
    Its checkpoint, and the metadata that the pretraining ended with.

  Raises:
    UserError: it is missing, not complete, or does not go with the config.
  """
  folder = place.folder
  checkpoint = Checkpoint(folder / runs.TEACHER)
  again = f'run the stage that trains it (--config.stages="{_WITH_PRETRAIN}")'
  if config.teacher_from:
    again = 'run its command again, which resumes'
  elsewhere = 'pretrain one in another folder (--workdir=...)'
  if config.teacher_from:
    elsewhere = 'pretrain one, without config.teacher_from'
  if not checkpoint.exists():
    name = 'name a run folder or a public .npz with --config.teacher_from=...'
    hint = f'{again}, or {name}'
    if config.teacher_from:
      hint = f'{name}, or leave it out to train one'
    raise UserError(f'no teacher in {checkpoint.directory}: {hint}')
  metadata = checkpoint.finished()
  if not metadata:
    raise UserError(
      f'the teacher in {checkpoint.directory} is not complete'
      f' ({checkpoint.latest()} updates): {again}'
    )
  if 'sources' not in metadata:  # Of an older version.
    metadata = checkpoint.restore_raw()[1]
  # Older versions always pretrained with actions, and did not record it.
  actions = variant.pretrain_actions
  if metadata.get('actions', True) != actions:
    raise UserError(
      f'the teacher in {folder} was pretrained {_WITH[not actions]} actions,'
      f' but config.variant={config.variant} needs one pretrained'
      f' {_WITH[actions]} them; {elsewhere}'
    )
  if metadata['sources'] != list(place.names):
    raise UserError(
      f'the teacher in {folder} was pretrained on {metadata["sources"]}, but'
      f' config.sources is {list(place.names)}: its labels mean other domains;'
      ' set config.sources to the same tasks in the same order, or'
      f' {elsewhere}'
    )
  generator = metadata.get('generator', False)
  if variant.generator.pretrained and not generator:
    until = variant.generator.until
    # A fresh generator must be trained.
    train = '' if until else ' --config.learner.transfer.generator_until=1.0'
    raise UserError(
      f'the teacher in {folder} has no generator, since it was pretrained for'
      f' a variant without one, or by an older version; {elsewhere}, or set'
      f' --config.learner.transfer.generator_start=fresh{train}'
    )
  return checkpoint, metadata


def check_same_teacher(state, teacher, checkpoint) -> None:
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
