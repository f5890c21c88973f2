"""LeRobot v3: tables in Parquet, with frames in the tables or in videos.

A row holds the frame, the action taken at it, and under `next.` its reward and
success. A file holds several episodes; `meta/episodes` gives their location.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from vid2act_jax.data.formats import checks, convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

_COUNTERS = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')
_STATE, _REWARD, _SUCCESS = 'observation.state', 'next.reward', 'next.success'


def open_source(path: str, options: Options) -> 'Folder':
  """Opens a dataset's folder.

  Raises:
    UserError: there is no dataset, it has another version, no camera or
      several, or pyarrow or (for videos) av is not installed.
  """
  return Folder(path, options)


class Folder:
  """The episodes of a LeRobot dataset."""

  def __init__(self, path: str, options: Options):
    self._root = core.find_folder(path, 'a LeRobot dataset')
    self._parquet = core.import_optional('pyarrow.parquet')
    self._options = options
    self.metadata = {'alignment': options.align or 'at', 'dropped': []}
    if self.metadata['alignment'] == 'at':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    info = self._read_info()
    with core.wrap_errors(self._root / 'meta'):
      features, self._fps = info['features'], float(info['fps'])
      self._paths = {'data': info['data_path'], 'video': info.get('video_path')}
      self._camera = self._select_camera(features)
      self._is_video = features[self._camera]['dtype'] == 'video'
      wanted = ('action', _STATE, _REWARD, _SUCCESS)
      self._columns = [key for key in wanted if key in features]
      self._record_dropped(features)
      self._read_bounds()
      self._episodes = self._read_episodes()
    if self._is_video:
      self._av = core.import_optional('av')

  def __len__(self) -> int:
    return len(self._episodes)

  def name(self, index: int) -> str:
    return f'episode {self._episodes[index]["episode_index"]}'

  def read(self, index: int) -> dict[str, np.ndarray]:
    where = f'{self._root}, {self.name(index)}'
    with core.wrap_errors(where):
      row = self._episodes[index]
      table = self._read_table(row, where)
      if self._is_video:
        frames = self._decode(row, np.array(table['timestamp'], np.float64))
      else:
        frames = (_open_image(cell, where) for cell in table[self._camera])
      image = convert.prepare_images(frames, self._options, where)
      state = table.get(_STATE)
      if state is not None:
        state = convert.to_state(state, len(image))
        if state is None:
          core.record_dropped(self.metadata, _STATE)
      steps = convert.Steps(
        action=table.get('action'),
        reward=table.get(_REWARD),
        success=table.get(_SUCCESS),
        state=state,
      )
      return convert.build_episode(
        image, steps, self._options, self.metadata, where
      )

  def close(self) -> None:
    pass

  def _read_info(self):
    path = self._root / 'meta' / 'info.json'
    if not path.is_file():
      raise UserError(
        f'{path}: missing; this folder is no LeRobot dataset; pass the folder '
        'that holds meta/.'
      )
    info = core.read_json(path)
    version = str(info.get('codebase_version'))
    if not version.startswith('v3.'):
      raise UserError(
        f'{path}: of LeRobot {version}, only v3 is supported; convert it with '
        'lerobot.scripts.convert_dataset_v21_to_v30 of LeRobot.'
      )
    return info

  def _select_camera(self, features):
    kinds = ('image', 'video')
    cameras = [k for k, f in features.items() if f.get('dtype') in kinds]
    wanted = self._options.image_key
    if wanted is None and len(cameras) == 1:
      return cameras[0]
    if wanted not in cameras:
      problem = 'one is needed' if wanted is None else f'{wanted!r} is not one'
      raise UserError(
        f'{self._root}: the cameras are {cameras}, {problem}; choose with '
        '--image-key.'
      )
    return wanted

  def _record_dropped(self, features):
    used = {*self._columns, *_COUNTERS, self._camera}
    core.record_dropped(
      self.metadata, *sorted(set(features) - used - {'next.done'})
    )
    if 'next.done' in features:
      # LeRobot sets it for terminals and for time limits.
      core.record_dropped(
        self.metadata, 'next.done: a terminal or a time limit, not known which'
      )
    if _REWARD not in features:
      core.record_no_rewards(self.metadata)

  def _read_bounds(self):
    """Uses the smallest and largest actions as bounds; none are declared."""
    path = self._root / 'meta' / 'stats.json'
    stats = core.read_json(path).get('action') if path.is_file() else None
    if not stats:
      core.reject_scaling(self._options, path)
      return
    low, high = (np.array(stats[k], np.float64) for k in ('min', 'max'))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
      raise ValueError('stats.json has actions that are not finite')
    self.metadata['action_low'] = low.tolist()
    self.metadata['action_high'] = high.tolist()

  def _read_episodes(self):
    """The location of each episode, sorted by index."""
    needed = ['episode_index', 'length', 'data/chunk_index', 'data/file_index']
    if self._is_video:
      keys = ('chunk_index', 'file_index', 'from_timestamp')
      needed += [f'videos/{self._camera}/{key}' for key in keys]
    rows, tasks = [], set()
    for path in sorted((self._root / 'meta' / 'episodes').rglob('*.parquet')):
      names = self._parquet.read_schema(path).names
      columns = [*needed, *(n for n in ('tasks',) if n in names)]
      rows += self._read_parquet(path, columns).to_pylist()
    for row in rows:
      tasks.update(row.pop('tasks', None) or ())
    if not rows:
      raise UserError(
        f'{self._root}: meta/episodes lists no episodes; restore it.'
      )
    if len(tasks) == 1:
      self.metadata['task'] = str(tasks.pop())
    return sorted(rows, key=lambda row: row['episode_index'])

  def _read_parquet(self, path, columns, filters=None):
    checks.check_table(self._parquet.read_metadata(path), path, columns)
    return self._parquet.read_table(
      path,
      columns=columns,
      filters=filters,
      use_threads=False,
      partitioning=None,
    )

  def _read_table(self, row, where):
    """Reads the columns of an episode as lists of its rows."""
    path = self._locate('data', row, 'data')
    columns = [*self._columns, 'frame_index', 'timestamp']
    if not self._is_video:
      columns.append(self._camera)
    episode = [('episode_index', '=', row['episode_index'])]
    table = self._read_parquet(path, columns, episode)
    table = {key: table[key].to_pylist() for key in columns}
    found = table['frame_index']
    # The length first: a list of the claimed length may not fit into memory.
    if len(found) != row['length'] or found != list(range(len(found))):
      raise UserError(
        f'{where}: meta/episodes says {row["length"]} frames, {path} holds '
        f'{len(found)}, or not in order; restore or remove it.'
      )
    return table

  def _locate(self, kind, row, prefix) -> pathlib.Path:
    values = {
      'video_key': self._camera,
      'chunk_index': row[f'{prefix}/chunk_index'],
      'file_index': row[f'{prefix}/file_index'],
    }
    return self._root / checks.format_path(self._paths[kind], values)

  def _decode(self, row, times) -> Iterator[np.ndarray]:
    """Yields the frame nearest to each time [T], in seconds of the episode."""
    prefix = f'videos/{self._camera}'
    path = self._locate('video', row, prefix)
    times = times + row[f'{prefix}/from_timestamp']
    index, previous = 0, None
    # By default, FFmpeg would also accept playlists, which can refer to other
    # files and to the network.
    with self._av.open(str(path), format='mp4') as container:
      stream = container.streams.video[0]
      checks.check_pixels(stream.width, stream.height)
      # To the previous key frame; slightly early, because times are rounded.
      first = max(0, round(times[0] / stream.time_base) - 1)
      container.seek(first, stream=stream)
      for frame in container.decode(stream):
        if frame.pts is None:
          continue
        while index < len(times) and previous is not None:
          distance = abs(previous.time - times[index])
          if abs(frame.time - times[index]) < distance:
            break
          yield self._to_array(previous, distance, path)
          index += 1
        if index == len(times):
          return
        previous = frame
      for time in times[index:]:
        distance = np.inf if previous is None else abs(previous.time - time)
        yield self._to_array(previous, distance, path)

  def _to_array(self, frame, distance, path):
    if distance > 0.5 / self._fps:
      raise UserError(
        f'{path}: has no frame at a timestamp of the table; restore it.'
      )
    return frame.to_ndarray(format='rgb24')


def _open_image(cell, where):
  if not cell or not cell.get('bytes'):
    raise UserError(
      f'{where}: an image is not in the table but in a separate file; save the '
      'dataset with LeRobot again.'
    )
  with checks.open_image(cell['bytes'], ('PNG', 'JPEG')) as image:
    if image.mode != 'RGB':
      raise UserError(
        f'{where}: an image has the mode {image.mode}, should be RGB; choose '
        'another camera with --image-key.'
      )
    return np.asarray(image)
