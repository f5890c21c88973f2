"""Configs as `experiments.run` would have them, and whether they are done."""

import pathlib
import shlex

from absl import flags
from ml_collections import config_flags

from vid2act_jax.data import dataset
from vid2act_jax.loops import flag_errors, runs, setup
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError


def load(arguments: list[str]):
  """The locked config that `experiments.run` has with these arguments.

  Args:
    arguments: --config=FILE, overrides, and what else is for the run to know.

  Raises:
    UserError: there is no such file or key, or a value is of another type.
  """
  values, argv = flags.FlagValues(), ['run', *arguments]
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  try:
    values(argv, known_only=True)
    return holder.value
  except flag_errors.FLAG_ERRORS as error:
    text = flag_errors.format_flag_error(error, arguments)
    raise UserError(f'{shlex.join(arguments)}: {text}') from error


def override(key: str, value) -> str:
  """The argument that sets a config's key to a value."""
  told = value if isinstance(value, str) else repr(value)
  return f'--config.{key}={told}'


def is_finished(config, workdir: pathlib.Path) -> bool:
  """Whether a run has done the last of its stages, as long as is wished.

  What came before it may have been removed since.

  Raises:
    UserError: what tells so is damaged.
  """
  stage = config.stages[-1] if config.stages else None
  if stage == 'finetune':
    done = Checkpoint(workdir / runs.STUDENT).finished()
    return bool(done) and done['env_steps'] >= config.finetune.env_steps
  if not setup.uses_sources(config):
    return True
  if stage == 'pretrain' and not config.teacher_from:
    done = Checkpoint(workdir / runs.TEACHER).finished()
    return bool(done) and done['step'] >= config.pretrain.steps
  if stage == 'collect':
    folders = [
      setup.source_folder(config, workdir, task) for task in config.sources
    ]
    return all(map(_is_complete, folders))
  return True


def _is_complete(folder):
  there = (folder / dataset.FILE).exists()
  return there and dataset.read_metadata(folder, partial=True)['complete']
