"""Source datasets and the teacher of a run: where they are, and loading."""

import dataclasses
import pathlib

import jax
import numpy as np

from vid2act_jax import learner, sharding
from vid2act_jax.data import dataset, quarantine, weights
from vid2act_jax.data.replay import DerivedColumn, ReplayOptions
from vid2act_jax.data.sources import load_sources
from vid2act_jax.learner import torch_import
from vid2act_jax.loops import embedding, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

_WITH = {True: 'with', False: 'without'}


def uses_sources(config) -> bool:
  """Whether this config uses source tasks."""
  return learner.parse(config.variant, config.sources).pretrained


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
  """Folder of the dataset of a source task; it may not exist yet."""
  root = config.source_dir or workdir / 'sources'
  return pathlib.Path(root).expanduser() / task


def source_metadata(config, workdir: pathlib.Path) -> dict:
  """Metadata of every checkpoint: the sources' names and action sizes.

  Raises:
    UserError: a dataset is missing, or has another action repeat.
  """
  dims = []
  for task in config.sources if uses_sources(config) else ():
    folder = source_folder(config, workdir, task)
    metadata = dataset.read_metadata(folder)
    dims.append(metadata['action_dim'])
    # None: not known for some imports.
    if metadata['action_repeat'] not in (None, config.env.action_repeat):
      raise UserError(
        f'{folder}: collected with action_repeat={metadata["action_repeat"]},'
        f' but config.env.action_repeat={config.env.action_repeat}; set it to'
        ' the same, or collect again into another folder (config.source_dir)'
      )
  names = list(config.sources) if dims else []
  return {'sources': names, 'source_action_dims': dims}


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
      print(text, flush=True)
  options = dataclasses.replace(
    replay_options(config, workdir), held_out=config.replay.held_out
  )
  capacity = config.replay.source_gb * 1e9
  replays, _ = load_sources(folders, capacity, config.seed, options, embeds)
  return replays


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
  if agent.uses_action_replay:
    cache_dir = scratch_folder(config, workdir) / 'embeddings'
    embeds = embedding.source_columns(agent, teacher, dtype, cache_dir)
    replays = load_replays(config, workdir, embeds)
  return teacher, replays, embedding.target_column(agent, teacher, dtype)


def load_teacher(config, workdir: pathlib.Path, agent):
  """Loads the frozen teacher's parameters.

  They are from this run, another run or a public checkpoint.

  Raises:
    UserError: it is missing, has other sizes, or was pretrained on other
      domains.
  """
  origin = config.teacher_from
  if origin.endswith(weights.SUFFIXES):
    return torch_import.load_teacher(weights.read(origin), agent)
  folder = pathlib.Path(origin).expanduser() if origin else workdir
  dims = agent.source_action_dims
  pretrainer = learner.build_pretrainer(
    config.learner, dims, variant=agent.variant
  )
  target = jax.eval_shape(pretrainer.init, jax.random.key(0))
  checkpoint = Checkpoint(folder / runs.TEACHER)
  if checkpoint.latest() is None:
    raise UserError(
      f'no teacher in {checkpoint.directory}: run the stage that trains it'
      " (--config.stages=\"('pretrain','finetune')\"), or name a run folder"
      ' or a public .npz with --config.teacher_from=...'
    )
  metadata = checkpoint.finished()
  # Older versions always pretrained with actions, and did not record it.
  if metadata and metadata.get('actions', True) != agent.variant.actions:
    raise UserError(
      f'the teacher in {folder} was pretrained'
      f' {_WITH[not agent.variant.actions]} actions, but'
      f' config.variant={config.variant} needs one pretrained'
      f' {_WITH[agent.variant.actions]} them; pretrain it in another folder'
    )
  state, metadata, step = checkpoint.restore(target)
  if not checkpoint.finished():
    raise UserError(
      f'the teacher in {checkpoint.directory} is not complete ({step} updates):'
      ' finish its stage first (--config.stages="(\'pretrain\',)")'
    )
  if metadata['sources'] != list(config.sources):
    raise UserError(
      f'the teacher in {folder} was pretrained on {metadata["sources"]}, but'
      f' config.sources is {list(config.sources)}: its labels mean other'
      ' domains; set config.sources to the same tasks in the same order'
    )
  return state.params['model']


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
