"""Runs an experiment: collect, pretrain, finetune.

  python -m experiments.run --config=experiments/dmc_quadruped.py

Every key of the config can be overridden, as in
--config.task=dmc_quadruped_run. Run again in the same folder, it resumes.
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import contextlib
import pathlib
import sys
import tempfile

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from vid2act_jax import sharding
from vid2act_jax.analysis import summary
from vid2act_jax.data import bucket, files
from vid2act_jax.loops import (
  backends,
  config_help,
  flag_errors,
  hosts,
  plan,
  progress,
  run_checks,
  run_copies,
  run_storage,
  runs,
  seeds,
  stages,
)
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.preemption import (
  EXIT_STATUS,
  Preempted,
)
from vid2act_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment file.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  '',
  "The run's folder, also gs://BUCKET/FOLDER; by default runs/<name>-<seed>.",
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Write a JAX trace, and report where the time went.'
)
_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'auto',
  ('auto', 'off'),
  'Whether to join other processes on a TPU pod and under Slurm.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'HOST:PORT of process 0, to join processes elsewhere.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes',
  None,
  'With --coordinator, or with seeds: the number of processes.',
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id',
  None,
  'With --coordinator, or with seeds: the index of this process.',
)
_HEARTBEAT = flags.DEFINE_integer(
  'heartbeat_seconds', 60, 'Timeout for the heartbeat of a process.'
)
_PRINT_CONFIG = flags.DEFINE_bool(
  'print_config', False, 'Only print all keys: values, meanings and defaults.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Only check the run, and print what it will do and need; writes nothing.',
)


def run(config, workdir: pathlib.Path, execution: Execution = stages.ALONE):
  """Runs the config's stages in order, and draws the summary.

  With several seeds, all of them.

  Args:
    config: a locked ConfigDict.
    workdir: the run's folder, or that of the seeds' folders.
    execution: of the run.

  Raises:
    UserError: an error that the user can fix.
    Preempted: the run was asked to stop; run again, it resumes.
  """
  run_checks.check_run(config, workdir, execution)
  if config.seeds:
    seeds.run(config, workdir, execution, _run_one)
  else:
    _run_one(config, workdir, execution)


def _run_one(config, workdir, execution):
  """Runs the stages of a single seed, whose config has been checked."""
  is_first, storage = jax.process_index() == 0, execution.storage
  lock = files.lock(workdir) if is_first else contextlib.nullcontext()
  with lock, storage.keep(workdir):
    if is_first:
      runs.init_workdir(workdir, config)
      runs.record_start(workdir, sys.argv[1:])
      progress.report(storage.named(f'run folder: {workdir}'))
    storage.commit(workdir)
    try:
      for stage in config.stages:
        execution.preemption.check()
        stages.STAGES[stage](config, workdir, execution)
        storage.sync(workdir)
    finally:
      backends.finish(workdir)
    if is_first:
      path = summary.write_summary(workdir, summary.title(config))
      progress.report(storage.named(f'summary: {path}'))


def main(_):
  """Entry point of absl."""
  logging.set_verbosity(logging.WARNING)  # JAX logs absent accelerators.
  try:
    config, workdir = _connect(_CONFIG.value), _workdir(_CONFIG.value)
    if _PRINT_CONFIG.value:
      print(config_help.describe(config))
      return
    if not _DRY_RUN.value:
      runs.cache_compilations()
    with _open_storage(config, workdir) as (folder, storage):
      execution = Execution(_PROFILE.value, storage=storage)
      if _DRY_RUN.value:
        run_checks.check_run(config, folder, execution)
        print(storage.named(plan.describe(config, folder, _copy(config))))
        return
      with execution.preemption:
        run(config, folder, execution)
  except Preempted as reason:
    print(f'stopped ({reason}); the same command resumes', file=sys.stderr)
    sys.exit(EXIT_STATUS)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    sharding.abort(error)


def _connect(config):
  """Joins the other processes, if any; returns this process's config.

  Processes with seeds are not joined: each runs its share of them.
  """
  automatic = _DISTRIBUTED.value == 'auto'
  numbers = _NUM_PROCESSES.value, _PROCESS_ID.value
  if config.seeds:
    index, count = sharding.find_process(automatic, *numbers)
    if count > 1:
      return hosts.share(config, index, count)
  sharding.connect(automatic, _COORDINATOR.value, *numbers, _HEARTBEAT.value)
  return config


@contextlib.contextmanager
def _open_storage(config, workdir: str):
  """Yields the run's folder on this machine, and its storage.

  Errors of the block have the names of folders in buckets, not of copies.
  """
  with contextlib.ExitStack() as stack:
    stack.callback(run_copies.COPIES.close)
    folder, storage = _open_folder(config, workdir, stack)
    try:
      yield folder, storage
    except UserError as error:
      raise UserError(storage.named(str(error))) from error


def _open_folder(config, workdir, stack):
  folder = _copy(config)
  if not bucket.is_url(workdir):
    return folder, run_storage.FolderStorage()
  if _DRY_RUN.value:  # The copy may belong to a run that is active.
    temporary = tempfile.TemporaryDirectory(prefix='vid2act_jax-')
    folder = pathlib.Path(stack.enter_context(temporary))
  folders = [path for _, path in run_checks.runs_of(config, folder)]
  opened = run_storage.open_storage(
    workdir, folder, folders, writes=not _DRY_RUN.value
  )
  return folder, stack.enter_context(opened)


def _copy(config) -> pathlib.Path:
  """The run's folder on this machine."""
  workdir = _workdir(config)
  if bucket.is_url(workdir):
    return run_storage.copy_folder(config, workdir)
  return pathlib.Path(workdir).expanduser()


def _workdir(config) -> str:
  """The run's folder, or its URL."""
  workdir = _WORKDIR.value
  if not workdir and flags.FLAGS['workdir'].present:
    raise UserError(
      '--workdir is empty; name a folder, or leave it out for the default'
    )
  seed = '' if config.seeds else f'-{config.seed}'
  return workdir or f'runs/{config.name}{seed}'


def _parse(argv):
  """Parses flags; prints errors in one line instead of a traceback."""
  rest = []
  try:
    flag_errors.load_config(
      lambda argv: rest.extend(flags.FLAGS(argv)), lambda: _CONFIG.value, argv
    )
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  return rest


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=_parse)
