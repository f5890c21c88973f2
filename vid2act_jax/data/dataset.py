"""Metadata of a dataset: provenance, environment and statistics."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files, limits
from vid2act_jax.types import UserError

FILE = 'metadata.json'
RERUN_HINT = 'run the command that created it again; it resumes'
CREATE_HINT = 'collect or import one (python -m vid2act_jax.data --help)'

# Keys of an environment's description; an import may not know all values.
ENVIRONMENT_KEYS = (
  'action_dim',
  'action_repeat',
  'camera',
  'size',
  'quality',
  'flips',
  'versions',
)

# Keys of every metadata file; the environment's description may add more.
KEYS = (
  'task',
  'collected',
  'complete',
  'episodes',
  'frames',
  'env_steps',
  'return',
  'success_rate',
  *ENVIRONMENT_KEYS,
)
# Only datasets without rewards need it: without the key there are rewards.
REWARDS = 'has_rewards'


def _is_count(value):
  return type(value) is int and 0 < value < 1 << 31


# Types of the values that are used in computations.
_TYPES = {
  'size': _is_count,
  'action_dim': _is_count,
  'action_repeat': lambda value: value is None or _is_count(value),
  'episodes': lambda value: value == 0 or _is_count(value),
  'collected': lambda value: isinstance(value, dict),
  REWARDS: lambda value: isinstance(value, bool),
}


def has_rewards(metadata: Mapping) -> bool:
  """Whether a dataset has rewards.

  Without, its episodes hold zeros, on which nothing is trained.

  Args:
    metadata: from `read_metadata`.
  """
  return metadata.get(REWARDS, True)


def return_statistics(
  summaries: Iterable[Mapping], rewards: bool = True
) -> dict:
  """Statistics of episodes, from the summaries of `episodes.summarize`.

  Args:
    summaries: of the episodes.
    rewards: whether the dataset has rewards.

  Returns:
    episodes, frames; return: {mean, std, min, max}, None without episodes or
    rewards; success_rate: a fraction of the episodes, None if the task has no
    success flag.
  """
  summaries = list(summaries)
  returns = np.array([s['return'] for s in summaries], np.float64)
  success = [s['success'] for s in summaries if 'success' in s]
  return {
    'episodes': len(summaries),
    'frames': sum(s['length'] for s in summaries),
    'return': {
      'mean': float(returns.mean()),
      'std': float(returns.std()),
      'min': float(returns.min()),
      'max': float(returns.max()),
    }
    if summaries and rewards
    else None,
    'success_rate': float(np.mean(success)) if success else None,
  }


def read_summaries(directory: str | os.PathLike) -> list[dict]:
  """Summaries of all episodes on disk, without reading their frames."""
  return [eps.load_summary(f.path) for f in eps.list_episodes(directory)]


def write_metadata(
  directory: str | os.PathLike,
  task: str,
  collected: Mapping,
  description: Mapping,
  complete: bool,
  summaries: Iterable[Mapping] | None = None,
) -> dict:
  """Writes the metadata file of a dataset atomically.

  Args:
    directory: the dataset folder.
    task: the task's name.
    collected: provenance: method, policies, proportions, seed, checkpoint...
    description: of the environment (`Env.description`); with `has_rewards` if
      a dataset may have none.
    complete: False while more episodes are expected.
    summaries: of all episodes; None: read from the folder.

  Returns:
    The metadata written.

  Raises:
    UserError: the folder cannot be written.
    ValueError: the description lacks one of `ENVIRONMENT_KEYS`.
  """
  missing = [key for key in ENVIRONMENT_KEYS if key not in description]
  if missing:
    raise ValueError(f'The description of {task} lacks {missing}.')
  if summaries is None:
    summaries = read_summaries(directory)
  metadata = {
    **description,
    'task': task,
    'collected': dict(collected),
    'complete': complete,
    **_counts(summaries, description),
    'versions': {**_versions(), **description['versions']},
  }
  _write(eps.make_folder(directory).parent, metadata)
  return metadata


def recount(directory: str | os.PathLike) -> dict:
  """Updates the counts in the metadata to the episodes on disk.

  Returns:
    The metadata written.

  Raises:
    UserError: the metadata or an episode cannot be read, or the folder
      cannot be written.
  """
  metadata = read_metadata(directory, partial=True)
  metadata |= _counts(read_summaries(directory), metadata)
  _write(pathlib.Path(directory), metadata)
  return metadata


def is_new(directory: str | os.PathLike) -> bool:
  """Whether a folder can become a new dataset: no metadata and no episodes.

  Raises:
    UserError: it holds episodes but no metadata.
  """
  if (pathlib.Path(directory) / FILE).exists():
    return False
  if eps.list_episodes(directory):
    raise UserError(
      f'{directory}: holds episodes, but no {FILE} that says which dataset '
      'they belong to; choose another folder.'
    )
  return True


def find_episodes(directory: str | os.PathLike) -> list[eps.EpisodeFile]:
  """Lists the episodes of a source dataset, which is only read.

  Raises:
    UserError: there are none.
  """
  listed = eps.list_episodes(directory)
  if not listed:
    raise UserError(
      f'{directory}: no episodes here; {CREATE_HINT}, or choose another folder.'
    )
  return listed


def restore_episodes(
  directory: str | os.PathLike, keep: int | None = None
) -> list[eps.EpisodeFile]:
  """Restores an owned folder to the episodes that a checkpoint knows.

  Args:
    directory: the dataset folder; created if it does not exist.
    keep: number of episodes written when the checkpoint was saved; later
      episodes are deleted. None: all are kept.

  Returns:
    The remaining episodes, by index.

  Raises:
    UserError: an episode that the checkpoint knows is missing; nothing is
      deleted then.
  """
  eps.make_folder(directory)
  eps.clean(directory)
  listed = eps.list_episodes(directory)
  kept = [file for file in listed if keep is None or file.index < keep]
  last = kept[-1].index + 1 if kept else 0
  written = last if keep is None else keep
  indices = [file.index for file in kept] or [0]
  missing = sorted(set(range(indices[0], written)) - {f.index for f in kept})
  if missing:
    raise UserError(
      f'{directory}: this run has written {written} episodes, but '
      f'{len(missing)} are missing (the first is number {missing[0]}); restore '
      'them, or start in a new --workdir.'
    )
  for file in listed[len(kept) :]:
    file.path.unlink()
  return kept


def _counts(summaries, description):
  """Statistics and env_steps; None if the action repeat is unknown."""
  statistics = return_statistics(summaries, has_rewards(description))
  action_repeat = description['action_repeat']
  # A reset returns a frame without a step.
  steps = statistics['frames'] - statistics['episodes']
  return {**statistics, 'env_steps': action_repeat and steps * action_repeat}


def _write(folder, metadata):
  text = json.dumps(metadata, indent=2, default=_to_json) + '\n'
  files.atomic_write(folder / FILE, lambda file: file.write(text.encode()))


def read_metadata(directory: str | os.PathLike, partial: bool = False) -> dict:
  """Reads the metadata of a dataset.

  Args:
    directory: the dataset folder.
    partial: accept a dataset that is not complete.

  Raises:
    UserError: the folder or the file is missing, is not JSON, lacks a key or
      has a value of the wrong type, or the dataset is not complete.
  """
  path = pathlib.Path(directory) / FILE
  try:
    metadata = limits.read_json(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{path}: missing; this folder is no dataset; {CREATE_HINT}, or set '
      'config.source_dir to the folder that holds it.'
    ) from error
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}).') from error
  except ValueError as error:
    raise UserError(
      f'{path}: not valid JSON ({error}); restore it, or remove it and '
      f'{RERUN_HINT}.'
    ) from error
  if not isinstance(metadata, dict):
    raise UserError(f'{path}: should hold a JSON object.')
  missing = [key for key in KEYS if key not in metadata]
  if missing:
    raise UserError(
      f'{path}: missing the keys {", ".join(missing)}; restore it, or remove '
      f'it and {RERUN_HINT}.'
    )
  known = {REWARDS: True, **metadata}
  wrong = [key for key, valid in _TYPES.items() if not valid(known[key])]
  if wrong:
    values = ', '.join(f'{key}: {str(metadata[key])[:40]!r}' for key in wrong)
    raise UserError(
      f'{path}: values of the wrong type: {values}; restore it, or remove it '
      f'and {RERUN_HINT}.'
    )
  if not (metadata['complete'] or partial):
    raise UserError(
      f'{path}: this dataset is not complete, it has {metadata["episodes"]} '
      f'episodes so far; {RERUN_HINT}.'
    )
  return metadata


def _versions() -> dict[str, str]:
  """Versions of the packages that write a dataset; the suite adds its own."""
  versions = {'numpy': np.__version__}
  # The project has no version if it runs without being installed.
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    versions['vid2act_jax'] = importlib.metadata.version('vid2act_jax')
  return versions


def _to_json(value):
  """Converts NumPy values, read-only mappings and paths for `json`."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if isinstance(value, Mapping):
    return dict(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f'{type(value).__name__} cannot be written as JSON.')
