"""Loads configs as `experiments.run` does, and checks finished runs."""

import pathlib
import shlex

from absl import flags
from ml_collections import config_flags

from vid2act_jax.loops import flag_errors, sources, stages
from vid2act_jax.types import UserError


def load(arguments: list[str]):
  """Returns the locked config of `experiments.run` with these arguments.

  Args:
    arguments: --config=FILE, overrides, and other flags of the run.

  Raises:
    UserError: a missing file, an unknown key or a value of the wrong type.
  """
  values, argv = flags.FlagValues(), ['run', *arguments]
  flag = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  try:
    return flag_errors.load_config(
      lambda argv: values(argv, known_only=True), lambda: flag.value, argv
    )
  except UserError as error:
    raise UserError(f'{shlex.join(arguments)}: {error}') from error


def override(key: str, value) -> str:
  """Returns the argument that sets a config key."""
  text = value if isinstance(value, str) else repr(value)
  return f'--config.{key}={text}'


def is_finished(config, workdir: pathlib.Path) -> bool:
  """Whether a run has completed its last stage with the configured length.

  The results of earlier stages may have been removed.

  Raises:
    UserError: a metadata file is damaged.
  """
  stage = config.stages[-1] if config.stages else None
  if stage == 'finetune':
    return bool(stages.finetuned(config, workdir))
  if not sources.uses_sources(config):
    return True
  if stage == 'pretrain' and not config.teacher_from:
    return bool(stages.pretrained(config, workdir))
  if stage == 'collect':
    folders = [
      sources.source_folder(config, workdir, task) for task in config.sources
    ]
    return all(map(sources.finished_dataset, folders))
  return True
