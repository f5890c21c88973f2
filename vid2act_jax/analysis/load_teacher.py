"""Loads the teacher of a run, or of a public checkpoint, to judge it."""

import dataclasses
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from vid2act_jax import learner
from vid2act_jax.analysis import diagnose
from vid2act_jax.data import bucket, dataset
from vid2act_jax.data import weights as weight_files
from vid2act_jax.loops import run_copies, runs, sources
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import Params, UserError


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher, and where the data that it was trained on may be.

  name: of the run or file; owner: its `Pretrainer`; updates: of its training,
  None if not known; config: of the run that trained it, or of --config.
  """

  name: str
  owner: learner.Pretrainer
  params: Params
  updates: int | None
  config: Any
  folders: dict[str, pathlib.Path]  # Of the sources' datasets.


def load(
  path: pathlib.Path,
  data: Sequence[pathlib.Path] = (),
  config: pathlib.Path | None = None,
) -> Teacher:
  """Loads a teacher.

  Args:
    path: the folder of a run, which may have it from another one, or the file
      of a public checkpoint.
    data: datasets that may be of a file's sources.
    config: of a file: an experiment's .py or the folder of a run, for the sizes
      and the sources.

  Raises:
    UserError: there is no teacher, it is not complete, or does not fit.
  """
  if path.is_dir():
    settings, workdir = _run_of_teacher(path)
  elif path.is_file() and sources.is_public(path.name):
    settings, workdir = _read_config(path, config), config
    # Whatever the variant of an experiment, the file is of the whole method.
    settings.update(teacher_from=str(path), variant='vid2act')
  else:
    raise UserError(
      f'{path}: neither the folder of a run nor a file of a public checkpoint'
      f' ({", ".join(weight_files.SUFFIXES)})'
    )
  if not sources.uses_sources(settings):
    raise UserError(
      f'{path}: its variant {settings.variant} uses no sources, so it has no'
      ' teacher; name a run that pretrains one'
    )
  folder = lambda task: sources.source_folder(settings, workdir, task)
  folders = {task: folder(task) for task in settings.sources}
  checkpoint = Checkpoint(workdir / runs.TEACHER)
  is_file, updates = bool(settings.teacher_from), None
  if not is_file and checkpoint.latest() is not None:
    _, metadata, updates = checkpoint.restore_raw()
    dims = metadata['source_action_dims']
  else:  # Of a missing teacher: `load_teacher` says how to get one.
    dims = _dims(folders, data) if is_file else [1] * len(folders)
  variant = runs.variant_of(settings)
  if variant.teachers == 'separate':
    raise UserError(
      f'{path}: its teachers are separate; name the run folder of one of them,'
      f' such as {sources.teacher_folder(workdir, settings.sources[0])}'
    )
  # All that a teacher depends on.
  variant = learner.Variant(pretrain_actions=variant.pretrain_actions)
  dims = tuple(dims)
  agent = learner.build_agent(
    settings.learner, max(dims), dims, variant=variant
  )
  params = sources.load_teacher(settings, workdir, agent)
  owner = learner.build_pretrainer(settings.learner, dims, variant=variant)
  return Teacher(str(path), owner, params, updates, settings, folders)


def _run_of_teacher(path):
  """Returns config and folder of the run that trained a run's teacher."""
  config = diagnose.open_config(path)
  origin = config.teacher_from
  if not origin or sources.is_public(origin):
    return config, path
  is_url = bucket.is_url(origin)
  if is_url:
    path = run_copies.open_teacher(origin, config.replay.scratch)
  else:
    path = pathlib.Path(origin).expanduser()
  config = diagnose.open_config(path)
  config.teacher_from = ''  # As in training, which does not follow it twice.
  if is_url and not config.source_dir:  # They are no part of the copy.
    config.source_dir = f'{origin}/{runs.SOURCES}'
  return config, path


def _read_config(path, config):
  if config is None:
    raise UserError(
      f'{path}: a file does not hold the sizes of its networks, nor its source'
      ' tasks; add --config=EXPERIMENT.py or --config=RUN_FOLDER'
    )
  if config.is_dir():
    return diagnose.open_config(config)
  try:
    made = runpy.run_path(str(config))['get_config']()
    return ConfigDict(made.to_dict())
  except (OSError, SyntaxError, KeyError, ImportError) as error:
    raise UserError(
      f'--config={config}: neither the folder of a run nor an experiment with'
      f' get_config() ({type(error).__name__}: {error})'
    ) from error


def _dims(folders, data):
  """Action sizes of the sources, from their datasets."""
  found = dict(folders)
  for folder in data:
    found |= {name: folder for name in task_names(folder) if name in folders}
  return [dataset.read_metadata(found[x])['action_dim'] for x in folders]


def task_names(folder: pathlib.Path) -> tuple[str, str]:
  """Returns a dataset's names: that of its folder, and its task's."""
  task = dataset.read_metadata(folder)['task']
  return folder.resolve().name, task
