"""Where a LeRobot dataset keeps its episodes, by version.

v3: a table and a video hold several episodes; `meta/episodes` locates them.
v2: one table and one video for each episode; `meta/episodes.jsonl` lists them.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import checks, core
from vid2act_jax.types import UserError

_EPISODES = 'episodes.jsonl'  # Of v2.
_CHUNK_SIZE = 1000  # Of v2, the default.


class Episode(NamedTuple):
  """Where an episode is.

  The first frame and the number of frames are of the video, which may hold
  other episodes; `start` is the time of the first frame that is stated, in
  seconds, None if there is none.
  """

  index: int
  length: int
  table: Mapping[str, Any]  # Fields of the path of the table.
  video: Mapping[str, Any]  # Fields of the path of the video.
  first_frame: int = 0
  video_frames: int = 0
  start: float | None = None


def read_info(root: pathlib.Path) -> dict[str, Any]:
  """Reads `meta/info.json`.

  Raises:
    UserError: it is missing or damaged, or the version is not supported.
  """
  path = root / 'meta' / 'info.json'
  if not path.is_file():
    raise UserError(
      f'{path}: missing; this folder is no LeRobot dataset; pass the folder '
      'that holds meta/.'
    )
  info = core.read_json(path)
  version = str(info.get('codebase_version'))
  if not (version.startswith('v3.') or _is_v2(root, version)):
    raise UserError(
      f'{path}: of LeRobot {version}, only v3 and the files of v2 are '
      'supported; convert it with '
      'lerobot.scripts.convert_dataset_v21_to_v30 of LeRobot.'
    )
  return info


def read_episodes(
  root: pathlib.Path,
  info: Mapping[str, Any],
  camera: str | None,
  read_table: Callable[[pathlib.Path, list[str]], Any],
) -> tuple[list[Episode], set[str]]:
  """Reads where the episodes are, sorted by index, and their tasks.

  Also raises the exceptions of wrong types in the files.

  Args:
    root: of the dataset.
    info: of `read_info`.
    camera: its name if the frames are in videos, else None.
    read_table: reads columns of a Parquet file if it has them.

  Raises:
    UserError: there are no episodes.
  """
  if _is_v2(root, str(info.get('codebase_version'))):
    rows = _read_v2(root)
    size = int(info.get('chunks_size') or _CHUNK_SIZE)
    episodes = [_locate_v2(row, size, camera) for row in rows]
  else:
    rows = _read_v3(root, camera, read_table)
    episodes = _locate_v3(rows, camera)
  if not rows:
    raise UserError(f'{root}: meta/episodes lists no episodes; restore it.')
  tasks = {str(task) for row in rows for task in row.get('tasks') or ()}
  return episodes, tasks


def read_bounds(root: pathlib.Path, keys: tuple[str, ...]) -> list | None:
  """The smallest and the largest actions, which serve as bounds.

  Args:
    root: of the dataset.
    keys: of the actions.

  Returns:
    [low, high], lists of A floats; None if they are not known.

  Raises:
    UserError: a file cannot be read.
    ValueError, KeyError, TypeError: it has other contents.
  """
  meta = root / 'meta'
  if (meta / 'stats.json').is_file():
    all_stats = [core.read_json(meta / 'stats.json')]
  elif (meta / 'episodes_stats.jsonl').is_file():  # v2.1: by episode.
    lines = limits.read_text(meta / 'episodes_stats.jsonl').splitlines()
    all_stats = [limits.parse_json(line)['stats'] for line in lines if line]
  else:
    return None
  bounds = []
  for name, reduce in (('min', np.min), ('max', np.max)):
    rows = [
      np.concatenate([np.ravel(stats[key][name]) for key in keys])
      for stats in all_stats
    ]
    bounds.append(reduce(np.array(rows, np.float64), 0).tolist())
  return bounds if np.isfinite(bounds).all() else None


def _is_v2(root, version):
  return version.startswith('v2.') and (root / 'meta' / _EPISODES).is_file()


def _read_v2(root):
  lines = limits.read_text(root / 'meta' / _EPISODES).splitlines()
  rows = [limits.parse_json(line) for line in lines if line.strip()]
  return sorted(rows, key=lambda row: row['episode_index'])


def _locate_v2(row, chunk_size, camera):
  index, length = int(row['episode_index']), int(row['length'])
  fields = {'episode_chunk': index // chunk_size, 'episode_index': index}
  video = {**fields, 'video_key': camera}
  return Episode(index, length, fields, video, 0, length)


def _read_v3(root, camera, read_table):
  columns = ['episode_index', 'length', 'data/chunk_index', 'data/file_index']
  if camera is not None:
    keys = ('chunk_index', 'file_index')
    columns += [f'videos/{camera}/{key}' for key in keys]
  optional = ['tasks', f'videos/{camera}/from_timestamp']
  rows = []
  for path in files.find_files(root / 'meta' / 'episodes', '.parquet'):
    rows += read_table(path, columns, optional).to_pylist()
  return sorted(rows, key=lambda row: row['episode_index'])


def _locate_v3(rows, camera):
  """Counts the frames of the episodes that share a video, in their order."""
  episodes, counted = [], {}
  for row in rows:
    table, video, start = _fields(row, 'data'), {}, None
    if camera is not None:
      video = {**_fields(row, f'videos/{camera}'), 'video_key': camera}
      start = row.get(f'videos/{camera}/from_timestamp')
    place, length = tuple(video.values()), int(row['length'])
    first = counted.get(place, 0)
    counted[place] = first + length
    index = int(row['episode_index'])
    episodes.append(Episode(index, length, table, video, first, 0, start))
  return [
    e._replace(video_frames=counted[tuple(e.video.values())]) for e in episodes
  ]


def _fields(row, prefix):
  return {key: row[f'{prefix}/{key}'] for key in ('chunk_index', 'file_index')}


def find_file(
  root: pathlib.Path, pattern: str, fields: Mapping[str, Any]
) -> pathlib.Path:
  """The path of a table or video, from the pattern of `info.json`.

  Raises:
    ValueError: the pattern is not valid or leaves the dataset.
  """
  return root / checks.format_path(pattern, fields)
