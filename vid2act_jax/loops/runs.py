"""Run folders: what is in them, whose they are, and loading a finished one."""

import json
import pathlib

import jax
from ml_collections import ConfigDict

from vid2act_jax import learner
from vid2act_jax.data import files
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

CONFIG = 'config.json'
TEACHER = 'teacher'
STUDENT = 'student'

# What may change between two starts in one folder: which stages, how long,
# and how often something is told or kept; not what is learned.
_FREE = ('name', 'stages', 'evaluate', 'collect.episodes')
_FREE_LEAVES = ('log_every', 'video_every', 'save_every', 'steps', 'env_steps')


def claim(workdir: pathlib.Path, config) -> None:
  """Makes the folder this config's, or checks that it is.

  Args:
    workdir: the run's folder.
    config: the run's ConfigDict.

  Raises:
    UserError: the folder cannot be written, or is of another config; names
      every key that differs.
  """
  # Through JSON, as the file: tuples become lists.
  new = json.loads(json.dumps(config.to_dict()))
  path = workdir / CONFIG
  if path.exists():
    old = _leaves(read_config_dict(workdir))
    differ = [
      f'{key}: {old.get(key)!r} there, {value!r} now'
      for key, value in {**dict.fromkeys(old), **_leaves(new)}.items()
      if old.get(key) != value and not _is_free(key)
    ]
    if differ:
      raise UserError(
        f'{workdir} holds a run of another config:\n  '
        + '\n  '.join(differ)
        + '\nChoose another folder by --workdir=..., or set these keys back'
      )
  files.make_folder(workdir)
  text = json.dumps(new, indent=2) + '\n'
  files.write_durably(path, lambda file: file.write(text.encode()))


def read_config_dict(workdir: pathlib.Path) -> dict:
  """The config of a run as nested dicts.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = pathlib.Path(workdir) / CONFIG
  try:
    return json.loads(path.read_text())
  except FileNotFoundError as error:
    raise UserError(
      f'{path} is missing: {workdir} is not the folder of a run'
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error


def start(checkpoint, init, seed: int, notes: dict, stage: str):
  """A fresh state, or that of the newest checkpoint.

  Args:
    checkpoint: of the stage.
    init: key -> LearnerState.
    seed: of the fresh parameters.
    notes: what a checkpoint to go on from must have been written with.
    stage: its name, for the message.

  Returns:
    The state, and what was saved beside it (None for a fresh one).

  Raises:
    UserError: the checkpoint does not fit.
  """
  key = jax.random.key(seed)
  if checkpoint.latest() is None:
    return init(key), None
  state, extra, step = checkpoint.restore(jax.eval_shape(init, key))
  for name, value in notes.items():
    if extra[name] != value:
      raise UserError(
        f'{checkpoint.directory} was made with {name} {extra[name]!r}, now it'
        f' is {value!r}; choose another folder by --workdir=...'
      )
  print(f'{stage}: going on after update {step}', flush=True)
  return state, extra


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
  raw, notes, _ = checkpoint.restore_raw()
  del raw
  dims = tuple(notes['source_action_dims'])
  if not dims:  # An agent that collected: its folder keeps the run's config.
    config.learner.variant = 'dreamerv2'
  agent = learner.build_agent(config.learner, notes['action_dim'], dims)
  key = jax.random.key(0)
  teacher = agent.teacher and jax.eval_shape(agent.teacher.init, key)
  target = jax.eval_shape(agent.init, key, teacher)
  state, _, _ = checkpoint.restore(target)
  return agent, state


def _leaves(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix[:-1]: tree}
  out = {}
  for key, value in tree.items():
    out |= _leaves(value, f'{prefix}{key}.')
  return out


def _is_free(key):
  inside = any(key == f or key.startswith(f'{f}.') for f in _FREE)
  return inside or key.split('.')[-1] in _FREE_LEAVES
