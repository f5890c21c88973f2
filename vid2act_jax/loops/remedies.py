"""What a user can do about an error, in the situation in which it occurs."""

import contextlib
import pathlib
from collections.abc import Iterator

from vid2act_jax.data.replay import TooShort
from vid2act_jax.learner import open_loop
from vid2act_jax.loops import runs, sources
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.train_step import NotFinite
from vid2act_jax.types import UserError


@contextlib.contextmanager
def for_stage(config, workdir: pathlib.Path, stage: str) -> Iterator[None]:
  """Says which keys help against errors of the block.

  Against episodes that are too short, and updates that are not finite.

  Args:
    config: the run's.
    workdir: the run's folder.
    stage: 'pretrain' or 'finetune'.
  """
  try:
    yield
  except TooShort as error:
    hint = short_episodes(config, workdir, stage, error.longest, error.total)
    raise UserError(f'{error}; {hint}') from error
  except NotFinite as error:
    raise UserError(f'{error}; {_not_finite(config, workdir)}') from error


def _not_finite(config, workdir):
  """Flags that help against updates that are not finite."""
  rate = config.learner.optim.model_lr / 3
  flags = {'learner.optim.model_lr': f'{rate:.1g}'}
  if config.learner.dtype != 'float32':
    flags['learner.dtype'] = 'float32'
  texts = [f'--config.{key}={value}' for key, value in flags.items()]
  text = f'check its rewards and actions, or lower rates: {" or ".join(texts)}'
  may_change = runs.key_filter(workdir)
  if all(map(may_change, flags)):
    return text
  return f'{text}, {new_folder(config, workdir)}'


def short_episodes(
  config, workdir: pathlib.Path, stage: str, longest: int, total: int
) -> str:
  """Flags that help against episodes shorter than a stage's sequences.

  Args:
    config: the run's.
    workdir: the run's folder.
    stage: 'pretrain' or 'finetune'.
    longest: frames of the longest chunk that could be sampled.
    total: frames of all episodes.
  """
  key = f'{stage}.length'
  flags = {}
  if longest > open_loop.CONTEXT:
    flags[key] = f'--config.{key}={longest}'
  if not config.replay.cross_episodes and total >= config[stage].length:
    flags['replay.cross_episodes'] = '--config.replay.cross_episodes=True'
  if not flags:
    return 'use a dataset or a task with longer episodes, or with more of them'
  may_change = runs.key_filter(workdir)
  here = [flag for key, flag in flags.items() if may_change(key)]
  if here:
    return f'set {" or ".join(here)}'
  return f'set {" or ".join(flags.values())}, {new_folder(config, workdir)}'


def new_folder(config, workdir: pathlib.Path) -> str:
  """How to go on with other keys: in a new folder, with the data of this one.

  Args:
    config: the run's.
    workdir: the run's folder.
  """
  flags = ['--workdir=...']
  variant = runs.variant_of(config)
  if variant.uses_sources and not config.source_dir:
    flags.append(f'--config.source_dir={workdir / runs.SOURCES}')
  if variant.pretrained and not config.teacher_from:
    folders = [workdir]
    if variant.teachers == 'separate':
      folders = [sources.teacher_folder(workdir, x) for x in config.sources]
    if all(Checkpoint(x / runs.TEACHER).finished() for x in folders):
      flags.append(f'--config.teacher_from={",".join(map(str, folders))}')
  return f'in a new folder: {" ".join(flags)}'
