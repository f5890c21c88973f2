"""Run folders: their config and starts, checkpoints, and loading an agent."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from vid2act_jax import learner, sharding
from vid2act_jax.data import dataset, files, limits, storage
from vid2act_jax.envs import Interface
from vid2act_jax.learner import policy
from vid2act_jax.loops import config_keys, progress, run_copies, schedule
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

CONFIG = 'config.json'
STARTS = 'starts.jsonl'
INTERFACE = 'environment.json'
SOURCES = 'sources'
TEACHER = 'teacher'
TEACHERS = 'teachers'  # Of single sources, each in the folder of a run.
STUDENT = 'student'
# Key of a checkpoint's metadata; absent if all sources have rewards.
SOURCE_REWARDS = 'source_rewards'


def init_workdir(workdir: pathlib.Path, config) -> None:
  """Writes the config into the folder, or checks that it is the same there.

  Args:
    workdir: the run's folder.
    config: the run's ConfigDict.

  Raises:
    UserError: the folder cannot be written, or `check_workdir` fails.
  """
  check_workdir(workdir, config)
  files.make_folder(workdir)
  text = json.dumps(config.to_dict(), indent=2) + '\n'
  files.atomic_write(workdir / CONFIG, lambda file: file.write(text.encode()))


def check_workdir(workdir: pathlib.Path, config) -> None:
  """Checks that the results in a folder are of this config; writes nothing.

  Raises:
    UserError: the folder holds a run of another config; names every key that
      differs.
  """
  diff = config_diff(workdir, config)
  if diff:
    raise UserError(
      f'{workdir} holds a run of another config:\n  '
      + '\n  '.join(diff)
      + '\nChoose another folder with --workdir=..., or set these keys back'
    )


def config_diff(workdir: pathlib.Path, config) -> list[str]:
  """Describes the keys that differ between a folder's config and this one.

  Keys that may change are ignored; see `key_filter`.

  Raises:
    UserError: the folder's config is damaged.
  """
  if not (workdir / CONFIG).exists():
    return []
  may_change = key_filter(workdir)
  old, new = (
    config_keys.leaves(tree)
    for tree in (read_config_dict(workdir), as_dict(config))
  )
  return [
    f'{key}: {old.get(key)!r} in the folder, {new.get(key)!r} now'
    for key in {**old, **new}
    if old.get(key) != new.get(key) and not may_change(key)
  ]


def key_filter(workdir: pathlib.Path) -> Callable[[str], bool]:
  """Returns which keys may change in a folder: dotted key -> bool.

  Those of `config_keys.RUNTIME`, `BUDGET` and `LOCATIONS`, and those that none
  of the folder's datasets, teachers and checkpoints of the student depends on.
  """
  groups = config_keys.RUNTIME, config_keys.BUDGET, config_keys.LOCATIONS
  changeable = sum(groups, ())
  datasets = (workdir / SOURCES).glob(f'*/{dataset.FILE}')
  separate = (workdir / TEACHERS).glob(f'*/{TEACHER}')
  teachers = [workdir / TEACHER, *separate]
  fixed: tuple[str, ...] = ()
  if Checkpoint(workdir / STUDENT).exists():
    return lambda key: config_keys.matches(key, changeable)
  if any(Checkpoint(folder).exists() for folder in teachers):
    fixed = 'seed', *config_keys.TEACHER
  elif any(datasets):
    fixed = 'seed', *config_keys.DATA

  def may_change(key):
    if config_keys.matches(key, (*changeable, *config_keys.STUDENT_ONLY)):
      return True
    return not config_keys.matches(key, fixed)

  return may_change


def as_dict(config) -> dict:
  """Converts a config as `read_config_dict` returns it: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


def cache_compilations() -> None:
  """Sets up JAX's persistent compilation cache.

  JAX_COMPILATION_CACHE_DIR names another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false disables the cache. A folder that cannot be
  written only causes a warning.
  """
  if not jax.config.jax_enable_compilation_cache:
    return
  try:
    folder = jax.config.jax_compilation_cache_dir or str(_cache_folder())
    if '://' not in folder:  # A bucket is left to JAX.
      os.makedirs(folder, exist_ok=True)
      tempfile.TemporaryFile(dir=folder).close()
  except (OSError, RuntimeError) as error:
    storage.warn_once(
      'cache',
      f'compiled code is not cached ({error}), so each start compiles again;'
      ' set XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR to a folder that can be'
      ' written',
    )
    folder = None
  jax.config.update('jax_compilation_cache_dir', folder)


def _cache_folder():
  """The default folder of the cache; RuntimeError without a home folder."""
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  # Code compiled for one kind of CPU may not run on another.
  info = pathlib.Path('/proc/cpuinfo')
  text = (
    info.read_text(errors='replace') if info.exists() else platform.platform()
  )
  flags = re.findall('(?m)^(?:flags|Features).*', text) or [text]
  kind = hashlib.blake2b(flags[0].encode(), digest_size=6).hexdigest()
  return pathlib.Path(base).expanduser() / 'vid2act_jax' / 'compiled' / kind


def record_start(workdir: pathlib.Path, arguments: list[str]) -> None:
  """Appends command, commit, machine and versions to starts.jsonl.

  Args:
    workdir: the run's folder.
    arguments: of the command line.
  """
  device = jax.devices()[0]
  record = {
    'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    'command': shlex.join(['python', '-m', 'experiments.run', *arguments]),
    'commit': commit(),
    'machine': f'{os.cpu_count()} cores {platform.machine()},'
    f' {jax.device_count()} x {device.device_kind}',
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('jax', 'flax', 'optax')
    },
  }
  files.append_line(workdir / STARTS, json.dumps(record))


def commit() -> str:
  """Returns this checkout's commit; 'unknown' without git or a checkout."""
  if not shutil.which('git'):
    return 'unknown'
  folder = str(pathlib.Path(__file__).parent)
  command = ['git', '-C', folder, 'describe', '--always', '--dirty']
  process = subprocess.run(command, capture_output=True, text=True)
  return process.stdout.strip() or 'unknown'


def read_starts(workdir: pathlib.Path) -> list[dict]:
  """Reads the entries of `record_start`, one for each start of the run."""
  text = (pathlib.Path(workdir) / STARTS).read_text(encoding='utf-8')
  lines = text.splitlines()
  return [json.loads(line) for line in lines]


def read_config_dict(workdir: pathlib.Path) -> dict:
  """Reads the config of a run as nested dicts.

  Raises:
    UserError: it is missing or damaged.
  """
  path = pathlib.Path(workdir) / CONFIG
  try:
    config = limits.read_json(path)
    if not isinstance(config, dict):
      raise ValueError('should be a JSON object')
    config_keys.upgrade(config)
    settings = config.get('learner')
    if isinstance(settings, dict) and 'variant' not in config:
      config['variant'] = settings.pop('variant', 'vid2act')
    return config
  except FileNotFoundError as error:
    raise UserError(
      f'{path} is missing: {workdir} is not the folder of a run'
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read: {error}; restore it, or choose another run'
    ) from error


def init_or_restore(
  checkpoint, init, seed: int, metadata: dict, stage: str, devices
):
  """Initializes a state, or restores the newest checkpoint, on every device.

  Args:
    checkpoint: of the stage.
    init: key -> LearnerState.
    seed: of the fresh parameters.
    metadata: that the checkpoint must have been written with.
    stage: its name, for the message.
    devices: the `sharding.Devices`; the checkpoint may be from another number
      of devices.

  Returns:
    The state, and the checkpoint's extra dictionary ({} for a fresh state).

  Raises:
    UserError: the checkpoint does not fit.
  """
  key = jax.random.key(seed)
  checkpoint.recover()
  _check_same_step(checkpoint, checkpoint.latest())
  if checkpoint.latest() is None:
    return devices.init(init, key), {}
  target = devices.replicated_structs(jax.eval_shape(init, key))
  state, extra, step = checkpoint.restore(target)
  _check_same_step(checkpoint, step)
  for name, value in {SOURCE_REWARDS: None, **metadata}.items():
    before = extra.get(name)
    if before != value:
      raise UserError(
        f'{checkpoint.directory} was made with {name} {before!r}, now it'
        f' is {value!r}; choose another folder with --workdir=...'
      )
  if devices.is_main_process:
    progress.report(f'{stage}: resuming after update {step}')
  return state, extra


def _check_same_step(checkpoint, step):
  """Raises a UserError unless all hosts resume from the same step."""
  steps = sharding.all_gather(-1 if step is None else step)
  if (steps != steps[0]).any():
    raise UserError(
      f'{checkpoint.directory}: processes found checkpoints of different steps,'
      f' {steps.tolist()} (-1: none); all processes must share the folder.'
      ' Start again, or check the file system'
    )


def variant_of(config) -> learner.Variant:
  """The variant of a run's config: a preset, and fields that replace it.

  Raises:
    UserError: as in `learner.parse`.
  """
  transfer = config.learner.transfer
  return learner.parse(config.variant, config.sources, transfer)


def write_interface(workdir: pathlib.Path, interface: Interface) -> None:
  """Records how to act in the run's environments, for `read_interface`.

  Raises:
    UserError: the file cannot be written.
  """
  text = json.dumps(dataclasses.asdict(interface), indent=2) + '\n'
  path = workdir / INTERFACE
  files.atomic_write(path, lambda file: file.write(text.encode()))


def read_interface(workdir: pathlib.Path) -> Interface | None:
  """Reads how to act in the run's environments; None if not recorded.

  Raises:
    UserError: the file is damaged.
  """
  path = workdir / INTERFACE
  try:
    return Interface.from_dict(limits.read_json(path))
  except FileNotFoundError:
    return None  # A run of an older version.
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path} cannot be read ({error}); remove it: it is written when the run '
      'is resumed'
    ) from error


def read_action_dim(workdir: pathlib.Path) -> int:
  """Action size of a run's agent, without loading it.

  Raises:
    UserError: the run does not exist, or has no checkpoint of the finetuning.
  """
  read_config_dict(workdir)
  return Checkpoint(workdir / STUDENT).restore_extra()['action_dim']


def load_agent(workdir: str | pathlib.Path, act_only: bool = False):
  """Loads the agent of a run, to act with.

  Args:
    workdir: the run's folder, with a checkpoint of the finetuning; it may be in
      a bucket, gs://BUCKET/FOLDER.
    act_only: load only what `Agent.policy` reads, which is faster; the state
      cannot be trained.

  Returns:
    The `Agent` and its LearnerState.

  Raises:
    UserError: the run does not exist, or its checkpoint is damaged.
  """
  with run_copies.open_run(workdir) as folder:
    return _load_agent(folder, act_only)


def _load_agent(workdir, act_only):
  config = ConfigDict(read_config_dict(workdir))
  checkpoint = Checkpoint(workdir / STUDENT)
  metadata = checkpoint.restore_extra()
  dims = tuple(metadata['source_action_dims'])
  agent = learner.build_agent(
    config.learner,
    metadata['action_dim'],
    dims,
    variant=variant_of(config),
    num_updates=schedule.finetune_schedule(config).num_updates,
  )
  target = jax.eval_shape(agent.init_random, jax.random.key(0))
  if act_only:
    target = policy.acting_part(target)
  state, _, _ = checkpoint.restore(target, partial=act_only)
  return agent, state
