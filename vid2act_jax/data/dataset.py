"""A dataset's metadata: what was collected, how, and how good it is."""

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
AGAIN = 'run what made it again, it goes on where it ended'
GET = 'collect or import one (python -m vid2act_jax.data --help)'

# What the environment must tell about itself; an import may not know all.
ENVIRONMENT_KEYS = (
  'action_dim',
  'action_repeat',
  'camera',
  'size',
  'quality',
  'flips',
  'versions',
)

# What every metadata file holds; the environment's description may add more.
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


def _is_count(value):
  return type(value) is int and 0 < value < 1 << 31


# What is calculated with.
_TYPES = {
  'size': _is_count,
  'action_dim': _is_count,
  'action_repeat': lambda value: value is None or _is_count(value),
  'episodes': lambda value: value == 0 or _is_count(value),
  'collected': lambda value: isinstance(value, dict),
}


def return_statistics(summaries: Iterable[Mapping]) -> dict:
  """Statistics of episodes, from what `episodes.summarize` gives.

  Returns:
    episodes, frames; return: {mean, std, min, max}, None without episodes;
    success_rate: a fraction of the episodes, None where the task has no
    success.
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
    if summaries
    else None,
    'success_rate': float(np.mean(success)) if success else None,
  }


def read_summaries(directory: str | os.PathLike) -> list[dict]:
  """`episodes.summarize` of every episode on disk, without its frames."""
  return [eps.load_summary(f.path) for f in eps.list_episodes(directory)]


def write_metadata(
  directory: str | os.PathLike,
  task: str,
  collected: Mapping,
  description: Mapping,
  complete: bool,
  summaries: Iterable[Mapping] | None = None,
) -> dict:
  """Writes a dataset's metadata file, whole or not at all.

  Args:
    directory: the dataset folder.
    task: its task's name.
    collected: how: policies, proportions, seed, checkpoint...
    description: the environment's own (`Env.description`).
    complete: False while episodes are still to come.
    summaries: of all episodes; None: read from the folder.

  Returns:
    What was written.

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
    **_counts(summaries, description['action_repeat']),
    'versions': {**_versions(), **description['versions']},
  }
  _write(eps.make_folder(directory).parent, metadata)
  return metadata


def recount(directory: str | os.PathLike) -> dict:
  """Brings metadata up to date with the episodes that are there.

  Returns:
    What was written.

  Raises:
    UserError: the metadata or an episode cannot be read, or the folder
      cannot be written.
  """
  metadata = read_metadata(directory, partial=True)
  metadata |= _counts(read_summaries(directory), metadata['action_repeat'])
  _write(pathlib.Path(directory), metadata)
  return metadata


def is_new(directory: str | os.PathLike) -> bool:
  """Whether a folder may be made a dataset: it is none, and holds no episodes.

  Raises:
    UserError: it holds episodes of nobody knows which dataset.
  """
  if (pathlib.Path(directory) / FILE).exists():
    return False
  if eps.list_episodes(directory):
    raise UserError(
      f'{directory}: holds episodes, but no {FILE}, which would tell whose '
      'they are; choose another folder.'
    )
  return True


def find_episodes(directory: str | os.PathLike) -> list[eps.EpisodeFile]:
  """The episodes of a source, which is only read.

  Raises:
    UserError: there are none.
  """
  known = eps.list_episodes(directory)
  if not known:
    raise UserError(
      f'{directory}: no episodes here; {GET}, or point to another folder.'
    )
  return known


def claim_episodes(
  directory: str | os.PathLike, keep: int | None = None
) -> list[eps.EpisodeFile]:
  """The episodes of a folder's owner, cleaned of what a checkpoint lacks.

  Args:
    directory: the dataset folder; made if need be.
    keep: how many episodes the checkpoint knows to have been written; later
      ones are deleted. None: all are kept.

  Raises:
    UserError: one that it knows is missing; then nothing is deleted.
  """
  eps.make_folder(directory)
  eps.clean(directory)
  known = eps.list_episodes(directory)
  kept = [file for file in known if keep is None or file.index < keep]
  last = kept[-1].index + 1 if kept else 0
  written = last if keep is None else keep
  indices = [file.index for file in kept] or [0]
  missing = sorted(set(range(indices[0], written)) - {f.index for f in kept})
  if missing:
    raise UserError(
      f'{directory}: this run has written {written} episodes, of which '
      f'{len(missing)} are missing (the first is number {missing[0]}); put '
      'them back, or start in a new --workdir.'
    )
  for file in known[len(kept) :]:
    file.path.unlink()
  return kept


def _counts(summaries, action_repeat):
  """Statistics and env_steps, which is None where the repeat is unknown."""
  statistics = return_statistics(summaries)
  # The frame of a reset cost no step.
  steps = statistics['frames'] - statistics['episodes']
  return {**statistics, 'env_steps': action_repeat and steps * action_repeat}


def _write(folder, metadata):
  text = json.dumps(metadata, indent=2, default=_plain) + '\n'
  files.atomic_write(folder / FILE, lambda file: file.write(text.encode()))


def read_metadata(directory: str | os.PathLike, partial: bool = False) -> dict:
  """Reads a dataset's metadata.

  Args:
    directory: the dataset folder.
    partial: accept a dataset whose collection has not ended.

  Raises:
    UserError: the folder or the file is missing, is not JSON, lacks a key or
      has one of another type, or the dataset is not complete.
  """
  path = pathlib.Path(directory) / FILE
  try:
    metadata = limits.read_json(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{path}: missing, there is no dataset here; {GET}, or set '
      'config.source_dir to the folder that holds it.'
    ) from error
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}).') from error
  except ValueError as error:
    raise UserError(
      f'{path}: not valid JSON ({error}); restore it, or remove it and {AGAIN}.'
    ) from error
  if not isinstance(metadata, dict):
    raise UserError(f'{path}: should hold a JSON object.')
  missing = [key for key in KEYS if key not in metadata]
  if missing:
    raise UserError(
      f'{path}: missing the keys {", ".join(missing)}; restore it, or remove '
      f'it and {AGAIN}.'
    )
  wrong = [key for key, fits in _TYPES.items() if not fits(metadata[key])]
  if wrong:
    told = ', '.join(f'{key}: {str(metadata[key])[:40]!r}' for key in wrong)
    raise UserError(
      f'{path}: of another type than they should be: {told}; restore it, or '
      f'remove it and {AGAIN}.'
    )
  if not (metadata['complete'] or partial):
    raise UserError(
      f'{path}: this dataset is not complete, it has {metadata["episodes"]} '
      f'episodes so far; {AGAIN}.'
    )
  return metadata


def _versions() -> dict[str, str]:
  """Of what every dataset is written with; the suite adds its own."""
  versions = {'numpy': np.__version__}
  # Run from its folder, the project is not installed and has no version.
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    versions['vid2act_jax'] = importlib.metadata.version('vid2act_jax')
  return versions


def _plain(value):
  """JSON for NumPy's scalars and for read-only mappings of a config."""
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if isinstance(value, Mapping):
    return dict(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f'{type(value).__name__} cannot be written as JSON.')
