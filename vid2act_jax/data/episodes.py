"""The episode: its schema, and reading and writing it without losing one.

A dataset folder holds `episodes/<index:06d>-<T>.npz`, one file an episode of T
frames, its arrays those of `SCHEMA`. Actions are aligned with their results:
`action[t]` LED TO `image[t]` and `reward[t]`, so index 0 has neither.
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
  """One array of an episode; `shape` is what follows the leading [T]."""

  dtype: str
  shape: tuple[str | int, ...]
  meaning: str
  required: bool = True


SCHEMA: dict[str, Field] = {
  'image': Field('uint8', ('H', 'W', 3), 'the frame, square'),
  'action': Field(
    'float32', ('A',), 'in [-1, 1], led to the frame; zeros at index 0'
  ),
  'reward': Field('float32', (), 'of that action; 0 at index 0'),
  'discount': Field('float32', (), 'in [0, 1]; 0 at a true end'),
  'is_first': Field('bool', (), 'at index 0 and nowhere else'),
  'is_last': Field('bool', (), 'at the last frame and nowhere else'),
  'is_terminal': Field('bool', (), 'a true end, not a time limit'),
  'success': Field('bool', (), 'the task says it is solved', False),
  'state': Field('float32', ('S',), "the simulator's numbers", False),
}

FOLDER = 'episodes'
ACTION_SLACK = 1e-3  # Actions come out of float32 arithmetic in the suites.

_NAME = re.compile(r'(\d{6,})-(\d+)\.npz')


class EpisodeFile(NamedTuple):
  """An episode on disk; index and length come from the file's name."""

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
    where: what the message calls it, usually its path.
    size: the height and width that the frames must have; None: any.
    action_dim: the A that the actions must have; None: any.

  Raises:
    UserError: naming the episode and the key, shape, dtype or range.
  """
  _check_keys(episode, where)
  _check_arrays(episode, where)
  _check_sizes(episode, where, size, action_dim)
  _check_values(episode, where)
  _check_flags(episode, where)


def summarize(episode: Episode) -> dict[str, float | int | bool]:
  """Return, length in frames and, where the task has it, success (ever)."""
  summary = {
    'return': float(np.sum(episode['reward'], dtype=np.float64)),
    'length': len(episode['reward']),
  }
  if 'success' in episode:
    summary['success'] = bool(np.any(episode['success']))
  return summary


def make_folder(directory: str | os.PathLike) -> pathlib.Path:
  """Makes a dataset's episode folder, if need be, and returns it."""
  return files.make_folder(pathlib.Path(directory) / FOLDER)


def save(
  directory: str | os.PathLike, index: int, episode: Episode
) -> pathlib.Path:
  """Validates and writes an episode so that it is there whole or not at all.

  Compressed: rendered frames shrink to a third or far less, in about 0.1 ms
  each, little beside the 3 ms or more that they took to render.

  Raises:
    UserError: the episode is not valid, its index is taken, or the folder
      cannot be written or is full; nothing is left there.
  """
  folder = make_folder(directory)
  validate(episode, f'{folder}, episode {index}')
  taken = next(folder.glob(f'{index:06d}-*.npz'), None)
  if taken:
    raise UserError(
      f'{taken}: there already, another run seems to write into this folder; '
      'give each its own.'
    )
  path = folder / f'{index:06d}-{len(episode["reward"])}.npz'
  files.atomic_write(path, lambda file: files.write_npz(file, episode))
  return path


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of one file; `validate` judges what they hold.

  Raises:
    UserError: the file is missing, damaged, or of another length than its
      name says.
  """
  arrays = files.read_npz(path)
  match = _NAME.fullmatch(pathlib.Path(path).name)
  lengths = {len(v) for v in arrays.values() if v.ndim}
  if match and lengths and int(match[2]) not in lengths:
    raise UserError(
      f'{path}: the name promises {match[2]} frames, the arrays hold '
      f'{sorted(lengths)}; rename it, or {files.VALIDATE}.'
    )
  return arrays


def load_summary(path: str | os.PathLike) -> dict[str, float | int | bool]:
  """`summarize` of a file, without reading its frames."""
  arrays = files.read_npz(path, keys=('reward', 'success'))
  if 'reward' not in arrays:
    raise UserError(f"{path}: the key 'reward' is missing; {files.VALIDATE}.")
  return summarize(arrays)


def list_episodes(directory: str | os.PathLike) -> list[EpisodeFile]:
  """The episodes of a dataset folder by index; [] where there are none.

  What an interrupted write left behind does not count.

  Raises:
    UserError: an npz of another naming, or two of the same index.
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
        f'one of the two away, or {files.VALIDATE}.'
      )
    found[file.index] = file
  return [found[index] for index in sorted(found)]


def parse_name(path: pathlib.Path) -> EpisodeFile:
  """What an episode's name tells.

  Raises:
    UserError: it is named otherwise.
  """
  match = _NAME.fullmatch(path.name)
  if not match:
    raise UserError(
      f'{path}: not named <index>-<length>.npz (as 000012-501.npz); rename it, '
      f'move it away, or {files.VALIDATE}.'
    )
  return EpisodeFile(path, int(match[1]), int(match[2]))


def clean(directory: str | os.PathLike) -> None:
  """Removes what interrupted writes left; for the folder's only writer."""
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
    want = ('T', *field.shape)
    right = value.ndim == len(want) and all(
      n == w
      for n, w in zip(value.shape, want, strict=True)
      if isinstance(w, int)
    )
    if not right:
      names = ', '.join(str(w) for w in want)
      raise UserError(
        f'{where}: {key!r} has the shape {value.shape}, should be [{names}].'
      )
  lengths = {key: len(value) for key, value in episode.items()}
  if len(set(lengths.values())) > 1:
    raise UserError(f'{where}: the arrays differ in length: {lengths}.')
  if not lengths['image']:
    raise UserError(f'{where}: holds no frames.')


def _check_sizes(episode, where, size, action_dim):
  frame = episode['image'].shape[1:3]
  size = size or frame[0]
  if frame != (size, size):
    raise UserError(
      f"{where}: 'image' is {frame[0]}x{frame[1]}, should be {size}x{size}."
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
      at = int(np.argwhere(~np.isfinite(value))[0][0])
      raise UserError(f'{where}: {key!r} is not finite at frame {at}.')
  limits = {'action': (-1, 1, ACTION_SLACK), 'discount': (0, 1, 0)}
  for key, (low, high, slack) in limits.items():
    least, most = float(episode[key].min()), float(episode[key].max())
    if least < low - slack or most > high + slack:
      raise UserError(
        f'{where}: {key!r} runs from {least:g} to {most:g}, should stay '
        f'within [{low}, {high}].'
      )
  for key in ('action', 'reward'):
    if episode[key][0].any():
      raise UserError(
        f'{where}: {key!r} is not zero at frame 0: it belongs to the step '
        'that led to its frame, and none led to the first.'
      )


def _check_flags(episode, where):
  last = len(episode['is_last']) - 1
  for key, at in (('is_first', 0), ('is_last', last)):
    frames = np.flatnonzero(episode[key])
    if frames.tolist() != [at]:
      raise UserError(
        f'{where}: {key!r} must be set at frame {at} alone, it is set at '
        f'{frames[:5].tolist() or "none"}.'
      )
  if episode['is_terminal'][:-1].any():
    raise UserError(
      f"{where}: 'is_terminal' is set before the last frame, {last}."
    )


def _quoted(keys) -> str:
  return ', '.join(repr(str(key)) for key in keys)
