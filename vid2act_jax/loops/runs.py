"""Run folders: what is in them, whose they are, and loading a finished one."""

import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import time
from importlib import metadata

import jax
from ml_collections import ConfigDict

from vid2act_jax import learner, sharding
from vid2act_jax.data import files, limits
from vid2act_jax.loops import config_keys
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

CONFIG = 'config.json'
STARTS = 'starts.jsonl'
TEACHER = 'teacher'
STUDENT = 'student'


def init_workdir(workdir: pathlib.Path, config) -> None:
  """Makes the folder this config's, or checks that it is.

  Args:
    workdir: the run's folder.
    config: the run's ConfigDict.

  Raises:
    UserError: the folder cannot be written, or is of another config; names
      every key that differs.
  """
  differ = config_diff(workdir, config)
  if differ:
    raise UserError(
      f'{workdir} holds a run of another config:\n  '
      + '\n  '.join(differ)
      + '\nChoose another folder by --workdir=..., or set these keys back'
    )
  files.make_folder(workdir)
  text = json.dumps(config.to_dict(), indent=2) + '\n'
  files.atomic_write(workdir / CONFIG, lambda file: file.write(text.encode()))


def config_diff(workdir: pathlib.Path, config) -> list[str]:
  """Keys of what is learned that a folder has other than a config, in words.

  Raises:
    UserError: the folder's config is damaged.
  """
  if not (workdir / CONFIG).exists():
    return []
  old, new = _fixed(read_config_dict(workdir)), _fixed(as_dict(config))
  return [
    f'{key}: {old.get(key)!r} there, {new.get(key)!r} now'
    for key in {**old, **new}
    if old.get(key) != new.get(key)
  ]


def as_dict(config) -> dict:
  """A config as `read_config_dict` would have it: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


def _fixed(tree):
  return config_keys.exclude(tree, (*config_keys.RUNTIME, *config_keys.BUDGET))


def cache_compilations() -> None:
  """Keeps compiled steps from one start to the next, as the user wishes.

  JAX_COMPILATION_CACHE_DIR names another place, and
  JAX_ENABLE_COMPILATION_CACHE=false has nothing kept.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  # Programs of one kind of CPU may not run on another that shares the folder.
  info = pathlib.Path('/proc/cpuinfo')
  text = info.read_text() if info.exists() else platform.platform()
  flags = re.findall('(?m)^(?:flags|Features).*', text) or [text]
  kind = hashlib.blake2b(flags[0].encode(), digest_size=6).hexdigest()
  folder = pathlib.Path(base).expanduser() / 'vid2act_jax' / 'compiled' / kind
  jax.config.update('jax_compilation_cache_dir', str(folder))


def record_start(workdir: pathlib.Path, arguments: list[str]) -> None:
  """Appends to starts.jsonl with what the run was started, and where.

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
      name: metadata.version(name) for name in ('jax', 'flax', 'optax')
    },
  }
  with open(workdir / STARTS, 'a', encoding='utf-8') as file:
    file.write(json.dumps(record) + '\n')


def commit() -> str:
  """The commit of this checkout, or 'unknown': installed, or without git."""
  if not shutil.which('git'):
    return 'unknown'
  here = str(pathlib.Path(__file__).parent)
  command = ['git', '-C', here, 'describe', '--always', '--dirty']
  told = subprocess.run(command, capture_output=True, text=True)
  return told.stdout.strip() or 'unknown'


def read_starts(workdir: pathlib.Path) -> list[dict]:
  """What `record_start` wrote, one entry for each start of the run."""
  lines = (pathlib.Path(workdir) / STARTS).read_text().splitlines()
  return [json.loads(line) for line in lines]


def read_config_dict(workdir: pathlib.Path) -> dict:
  """The config of a run as nested dicts.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = pathlib.Path(workdir) / CONFIG
  try:
    config = limits.read_json(path)
    if not isinstance(config, dict):
      raise ValueError('should be a JSON object')
    config_keys.add_missing(config)
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
  checkpoint, init, seed: int, notes: dict, stage: str, devices
):
  """A fresh state, or that of the newest checkpoint, on every device.

  Args:
    checkpoint: of the stage.
    init: key -> LearnerState.
    seed: of the fresh parameters.
    notes: what a checkpoint to go on from must have been written with.
    stage: its name, for the message.
    devices: the `sharding.Devices`; as many as one likes, whatever the
      checkpoint was written on.

  Returns:
    The state, and what was saved beside it (None for a fresh one).

  Raises:
    UserError: the checkpoint does not fit.
  """
  key = jax.random.key(seed)
  checkpoint.recover()
  _agree(checkpoint, checkpoint.latest())
  if checkpoint.latest() is None:
    return devices.init(init, key), None
  target = devices.place(jax.eval_shape(init, key))
  state, extra, step = checkpoint.restore(target)
  _agree(checkpoint, step)
  for name, value in notes.items():
    if extra[name] != value:
      raise UserError(
        f'{checkpoint.directory} was made with {name} {extra[name]!r}, now it'
        f' is {value!r}; choose another folder by --workdir=...'
      )
  if devices.is_first:
    print(f'{stage}: going on after update {step}', flush=True)
  return state, extra


def _agree(checkpoint, step):
  """All hosts have to go on from one step."""
  steps = sharding.gather(-1 if step is None else step)
  if (steps != steps[0]).any():
    raise UserError(
      f'{checkpoint.directory}: processes found different checkpoints there,'
      f' of steps {steps.tolist()} (-1: none); the folder must be one that all'
      ' of them share. Start again, or look at the file system'
    )


def load_agent(workdir: str | pathlib.Path):
  """The agent of a run, to act with.

  Args:
    workdir: the run's folder, with a checkpoint of the finetuning.

  Returns:
    The `Agent` and its LearnerState.

  Raises:
    UserError: there is no such run, or its checkpoint is damaged.
  """
  workdir = pathlib.Path(workdir)
  config = ConfigDict(read_config_dict(workdir))
  checkpoint = Checkpoint(workdir / STUDENT)
  _, notes, _ = checkpoint.restore_raw()
  dims = tuple(notes['source_action_dims'])
  agent = learner.build_agent(
    config.learner,
    notes['action_dim'],
    dims,
    variant=learner.parse(config.variant, config.sources),
  )
  key = jax.random.key(0)
  teacher = agent.pretrained and jax.eval_shape(agent.pretrained.init, key)
  target = jax.eval_shape(agent.init, key, teacher)
  state, _, _ = checkpoint.restore(target)
  return agent, state
