"""Episodes: schema, validation, and durable reading and writing.

A dataset folder holds `episodes/<index:06d>-<T>.npz`, one file per episode of T
frames, with the arrays of `SCHEMA`. `action[t]` is the action that preceded
`image[t]` and `reward[t]` (prev_action), so action and reward 0 are zero.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vid2act_jax.data import files
from vid2act_jax.types import UserError

Episode = Mapping[str, np.ndarray]


class Field(NamedTuple):
  """One array of an episode; `shape` excludes the leading [T]."""

  dtype: str
  shape: tuple[str | int, ...]
  meaning: str
  required: bool = True


SCHEMA: dict[str, Field] = {
  'image': Field('uint8', ('H', 'W', 3), 'the frame, square'),
  'action': Field(
    'float32', ('A',), 'prev_action, in [-1, 1]; zeros at index 0'
  ),
  'reward': Field('float32', (), 'reward of that action; 0 at index 0'),
  'discount': Field('float32', (), 'in [0, 1]; 0 at a terminal'),
  'is_first': Field('bool', (), 'only at index 0'),
  'is_last': Field('bool', (), 'only at the last frame'),
  'is_terminal': Field('bool', (), 'a terminal, not a time limit'),
  'success': Field('bool', (), 'the task is solved', False),
  'state': Field('float32', ('S',), 'state of the simulator', False),
}

FOLDER = 'episodes'
ACTION_SLACK = 1e-3  # For rounding: the suites compute actions in float32.

_NAME = re.compile(r'(\d{6,})-(\d+)\.npz')


class EpisodeFile(NamedTuple):
  """An episode on disk; index and length are parsed from the file name."""

  path: pathlib.Path
  index: int
  length: int


def validate(
  episode: Episode,
  where: str | os.PathLike,
  size: int | None = None,
  action_dim: int | None = None,
) -> None:
  """Checks an episode against `SCHEMA`.

  Args:
    episode: arrays by key.
    where: name of the episode for error messages, usually its path.
    size: required height and width of the frames; None: any.
    action_dim: required A of the actions; None: any.

  Raises:
    UserError: a key, shape, dtype or value is invalid; the message names it.
  """
  _check_keys(episode, where)
  _check_arrays(episode, where)
  _check_sizes(episode, where, size, action_dim)
  _check_values(episode, where)
  _check_flags(episode, where)


def summarize(episode: Episode) -> dict[str, float | int | bool]:
  """Return, length in frames and, if the task has it, success (at any step)."""
  summary = {
    'return': float(np.sum(episode['reward'], dtype=np.float64)),
    'length': len(episode['reward']),
  }
  if 'success' in episode:
    summary['success'] = bool(np.any(episode['success']))
  return summary


def make_folder(directory: str | os.PathLike) -> pathlib.Path:
  """Creates the episode folder of a dataset if needed; returns it."""
  return files.make_folder(pathlib.Path(directory) / FOLDER)


def save(
  directory: str | os.PathLike, index: int, episode: Episode
) -> pathlib.Path:
  """Validates an episode and writes it atomically.

  Compressed: rendered frames shrink to a third or far less, in about 0.1 ms
  each; rendering takes 3 ms or more.

  Raises:
    UserError: the episode is not valid, its index exists, or the folder
      cannot be written or is full; no partial file is left.
  """
  folder = make_folder(directory)
  validate(episode, f'{folder}, episode {index}')
  taken = next(folder.glob(f'{index:06d}-*.npz'), None)
  if taken:
    raise UserError(
      f'{taken}: already exists; another run seems to write to this folder; '
      'use a separate folder for each run.'
    )
  path = folder / f'{index:06d}-{len(episode["reward"])}.npz'
  files.atomic_write(path, lambda file: files.write_npz(file, episode))
  return path


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of one file; does not `validate` them.

  Raises:
    UserError: the file is missing, damaged, or its length differs from its
      name.
  """
  arrays = files.read_npz(path)
  match = _NAME.fullmatch(pathlib.Path(path).name)
  lengths = {len(v) for v in arrays.values() if v.ndim}
  if match and lengths and int(match[2]) not in lengths:
    raise UserError(
      f'{path}: the name says {match[2]} frames, the arrays hold '
      f'{sorted(lengths)}; rename it, or {files.VALIDATE_HINT}.'
    )
  return arrays


def load_summary(path: str | os.PathLike) -> dict[str, float | int | bool]:
  """The summary of an episode file, without reading its frames."""
  arrays = files.read_npz(path, keys=('reward', 'success'))
  if 'reward' not in arrays:
    raise UserError(
      f"{path}: the key 'reward' is missing; {files.VALIDATE_HINT}."
    )
  return summarize(arrays)


def list_episodes(directory: str | os.PathLike) -> list[EpisodeFile]:
  """The episodes of a dataset folder, sorted by index; [] if there are none.

  Temporary files of interrupted writes are ignored.

  Raises:
    UserError: an npz has an invalid name, or two have the same index.
  """
  folder = pathlib.Path(directory) / FOLDER
  if not folder.is_dir():
    return []
  found: dict[int, EpisodeFile] = {}
  for path in sorted(folder.glob('*.npz')):
    file = parse_name(path)
    if file.index in found:
      raise UserError(
        f'{path}: has the same index as {found[file.index].path.name}; move '
        f'one of the two away, or {files.VALIDATE_HINT}.'
      )
    found[file.index] = file
  return [found[index] for index in sorted(found)]


def parse_name(path: pathlib.Path) -> EpisodeFile:
  """Parses the name of an episode file.

  Raises:
    UserError: the name is invalid.
  """
  match = _NAME.fullmatch(path.name)
  if not match:
    raise UserError(
      f'{path}: not named <index>-<length>.npz (like 000012-501.npz); rename '
      f'it, move it away, or {files.VALIDATE_HINT}.'
    )
  return EpisodeFile(path, int(match[1]), int(match[2]))


def clean(directory: str | os.PathLike) -> None:
  """Removes temporary files; only for the process that holds the lock."""
  for path in (pathlib.Path(directory) / FOLDER).glob('*' + files.TEMPORARY):
    path.unlink(missing_ok=True)


def _check_keys(episode, where):
  missing = [k for k, f in SCHEMA.items() if f.required and k not in episode]
  if missing:
    raise UserError(
      f'{where}: missing {_quoted(missing)}; it has {_quoted(episode)}.'
    )
  unknown = [key for key in episode if key not in SCHEMA]
  if unknown:
    raise UserError(
      f'{where}: unknown {_quoted(unknown)}; an episode has {_quoted(SCHEMA)}.'
    )


def _check_arrays(episode, where):
  for key, value in episode.items():
    field = SCHEMA[key]
    if value.dtype != np.dtype(field.dtype):
      raise UserError(
        f'{where}: {key!r} is {value.dtype}, should be {field.dtype}.'
      )
    expected = ('T', *field.shape)
    matches = value.ndim == len(expected) and all(
      n == e
      for n, e in zip(value.shape, expected, strict=True)
      if isinstance(e, int)
    )
    if not matches:
      names = ', '.join(str(e) for e in expected)
      raise UserError(
        f'{where}: {key!r} has the shape {value.shape}, should be [{names}].'
      )
  lengths = {key: len(value) for key, value in episode.items()}
  if len(set(lengths.values())) > 1:
    raise UserError(f'{where}: the arrays differ in length: {lengths}.')
  if not lengths['image']:
    raise UserError(f'{where}: holds no frames.')


def _check_sizes(episode, where, size, action_dim):
  height, width = episode['image'].shape[1:3]
  size = size or height
  if (height, width) != (size, size):
    raise UserError(
      f"{where}: 'image' is {height}x{width}, should be {size}x{size}."
    )
  found = episode['action'].shape[1]
  if not found or (action_dim is not None and found != action_dim):
    raise UserError(
      f"{where}: 'action' has {found} dimensions, should have "
      f'{action_dim or "at least 1"}.'
    )


def _check_values(episode, where):
  for key, value in episode.items():
    if value.dtype.kind == 'f' and not np.isfinite(value).all():
      frame = int(np.argwhere(~np.isfinite(value))[0][0])
      raise UserError(f'{where}: {key!r} is not finite at frame {frame}.')
  ranges = {'action': (-1, 1, ACTION_SLACK), 'discount': (0, 1, 0)}
  for key, (low, high, slack) in ranges.items():
    least, largest = float(episode[key].min()), float(episode[key].max())
    if least < low - slack or largest > high + slack:
      raise UserError(
        f'{where}: {key!r} runs from {least:g} to {largest:g}, should stay '
        f'within [{low}, {high}].'
      )
  for key in ('action', 'reward'):
    if episode[key][0].any():
      raise UserError(
        f'{where}: {key!r} is not zero at frame 0: it belongs to the step '
        'that preceded the frame, and no step precedes the first.'
      )


def _check_flags(episode, where):
  last = len(episode['is_last']) - 1
  for key, expected in (('is_first', 0), ('is_last', last)):
    frames = np.flatnonzero(episode[key])
    if frames.tolist() != [expected]:
      raise UserError(
        f'{where}: {key!r} must be set at frame {expected} alone, it is set at '
        f'{frames[:5].tolist() or "none"}.'
      )
  if episode['is_terminal'][:-1].any():
    raise UserError(
      f"{where}: 'is_terminal' is set before the last frame, {last}."
    )


def _quoted(keys) -> str:
  return ', '.join(repr(str(key)) for key in keys)
