"""Runs an experiment: collect, pretrain, finetune.

  python -m experiments.run --config=experiments/dmc_quadruped.py

Every key of the config can be overridden, as in
--config.task=dmc_quadruped_run. Run again in the same folder, it goes on.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vid2act_jax.analysis.summary import write_summary
from vid2act_jax.data import files
from vid2act_jax.loops import inputs, runs, stages
from vid2act_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment file.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', "The run's folder; by default runs/<name>-<seed>."
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Write a JAX trace, and tell where the time went.'
)
_STAGES = {
  'collect': stages.run_collect,
  'pretrain': stages.run_pretrain,
  'finetune': stages.run_finetune,
}


def run(config, workdir: pathlib.Path, profile: bool = False):
  """Runs the config's stages in order, and draws the summary.

  Args:
    config: a locked ConfigDict.
    workdir: the run's folder.
    profile: whether to tell where the time goes.

  Raises:
    UserError: something the user can mend.
  """
  unknown = [stage for stage in config.stages if stage not in _STAGES]
  if unknown:
    known = ', '.join(_STAGES)
    raise UserError(f'config.stages has {unknown}; stages are {known}')
  inputs.check(config, workdir)
  with files.lock(workdir):
    runs.claim(workdir, config)
    runs.record_start(workdir, sys.argv[1:])
    print(f'run folder: {workdir}', flush=True)
    for stage in config.stages:
      _STAGES[stage](config, workdir, profile)
    title = f'{config.task}, {config.learner.variant}, seed {config.seed}'
    print(f'summary: {write_summary(workdir, title)}', flush=True)


def main(_):
  """Entry point of absl."""
  logging.set_verbosity(logging.WARNING)  # JAX tells of absent accelerators.
  try:
    config = _CONFIG.value
    workdir = _WORKDIR.value or _default_workdir(config)
    run(config, pathlib.Path(workdir).expanduser(), _PROFILE.value)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


def _default_workdir(config):
  try:
    return f'runs/{config.name}-{config.seed}'
  except OSError as error:  # Of a file that is missing, told at first use.
    raise UserError(' '.join(str(error).split())) from error


def _parse(argv):
  """Flags, with the user's mistakes in one line instead of a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, AttributeError | KeyError):
      text = f'the config has no key {text}'
    hint = 'keys and their meaning: experiments/base.py'
    print(f'error: {text} ({hint})', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=_parse)
