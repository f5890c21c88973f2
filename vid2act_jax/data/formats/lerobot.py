"""LeRobot v3: tables in Parquet, and frames in them or in videos.

A row holds the frame, the action taken at it, and under `next.` what came of
it. Files are shared by episodes; `meta/episodes` tells where each lies.
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
    UserError: there is none, it is of another version, has no camera or
      several, or pyarrow or (with videos) av is not installed.
  """
  return Folder(path, options)


class Folder:
  """The episodes of a LeRobot dataset."""

  def __init__(self, path: str, options: Options):
    self._root = core.find_folder(path, 'a LeRobot dataset')
    self._parquet = core.need('pyarrow.parquet')
    self._options = options
    self.about = {'alignment': options.align or 'at', 'dropped': []}
    if self.about['alignment'] == 'at':
      core.drop(self.about, core.LAST_ACTION)
    info = self._read_info()
    with core.guard(self._root / 'meta'):
      features, self._fps = info['features'], float(info['fps'])
      self._paths = {'data': info['data_path'], 'video': info.get('video_path')}
      self._camera = self._choose_camera(features)
      self._is_video = features[self._camera]['dtype'] == 'video'
      wanted = ('action', _STATE, _REWARD, _SUCCESS)
      self._columns = [key for key in wanted if key in features]
      self._note(features)
      self._read_bounds()
      self._episodes = self._read_episodes()
    if self._is_video:
      self._av = core.need('av')

  def __len__(self) -> int:
    return len(self._episodes)

  def name(self, index: int) -> str:
    return f'episode {self._episodes[index]["episode_index"]}'

  def read(self, index: int) -> dict[str, np.ndarray]:
    where = f'{self._root}, {self.name(index)}'
    with core.guard(where):
      row = self._episodes[index]
      table = self._read_table(row, where)
      if self._is_video:
        frames = self._decode(row, np.array(table['timestamp'], np.float64))
      else:
        frames = (_open_image(cell, where) for cell in table[self._camera])
      image = convert.prepare(frames, self._options, where)
      state = table.get(_STATE)
      if state is not None:
        state = convert.fit_state(state, len(image))
        if state is None:
          core.drop(self.about, _STATE)
      steps = convert.Steps(
        image,
        action=table.get('action'),
        reward=table.get(_REWARD),
        success=table.get(_SUCCESS),
        state=state,
      )
      return convert.build(steps, self._options, self.about, where)

  def close(self) -> None:
    pass

  def _read_info(self):
    path = self._root / 'meta' / 'info.json'
    if not path.is_file():
      raise UserError(
        f'{path}: missing, there is no LeRobot dataset here; give the folder '
        'that holds meta/.'
      )
    info = core.read_json(path)
    version = str(info.get('codebase_version'))
    if not version.startswith('v3.'):
      raise UserError(
        f'{path}: of LeRobot {version}, this code reads v3; convert it with '
        'lerobot.scripts.convert_dataset_v21_to_v30 of LeRobot.'
      )
    return info

  def _choose_camera(self, features):
    kinds = ('image', 'video')
    cameras = [k for k, f in features.items() if f.get('dtype') in kinds]
    wanted = self._options.image_key
    if wanted is None and len(cameras) == 1:
      return cameras[0]
    if wanted not in cameras:
      what = 'one is needed' if wanted is None else f'{wanted!r} is not one'
      raise UserError(
        f'{self._root}: the cameras are {cameras}, {what}; choose with '
        '--image-key.'
      )
    return wanted

  def _note(self, features):
    used = {*self._columns, *_COUNTERS, self._camera}
    core.drop(self.about, *sorted(set(features) - used - {'next.done'}))
    if 'next.done' in features:
      # LeRobot sets it for either.
      core.drop(self.about, 'next.done: a true end or a time limit, not which')
    if _REWARD not in features:
      self.about['reward'] = 'zeros: the source has none'

  def _read_bounds(self):
    """The actions' limits are those that occur; none are declared."""
    path = self._root / 'meta' / 'stats.json'
    stats = core.read_json(path).get('action') if path.is_file() else None
    if not stats:
      core.refuse_scaling(self._options, path)
      return
    low, high = (np.array(stats[k], np.float64) for k in ('min', 'max'))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
      raise ValueError('stats.json has actions that are not finite')
    self.about['action_low'] = low.tolist()
    self.about['action_high'] = high.tolist()

  def _read_episodes(self):
    """Where each episode lies, by its index."""
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
        f'{self._root}: meta/episodes tells of no episodes; restore it.'
      )
    if len(tasks) == 1:
      self.about['task'] = str(tasks.pop())
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
    """The columns of an episode, as lists of its rows."""
    path = self._locate('data', row, 'data')
    columns = [*self._columns, 'frame_index', 'timestamp']
    if not self._is_video:
      columns.append(self._camera)
    episode = [('episode_index', '=', row['episode_index'])]
    table = self._read_parquet(path, columns, episode)
    table = {key: table[key].to_pylist() for key in columns}
    found = table['frame_index']
    # Compared first: a list of what is promised may not fit into memory.
    if len(found) != row['length'] or found != list(range(len(found))):
      raise UserError(
        f'{where}: meta/episodes promises {row["length"]} frames, {path} holds '
        f'{len(found)}, or not in order; restore or remove it.'
      )
    return table

  def _locate(self, kind, row, prefix) -> pathlib.Path:
    values = {
      'video_key': self._camera,
      'chunk_index': row[f'{prefix}/chunk_index'],
      'file_index': row[f'{prefix}/file_index'],
    }
    return self._root / checks.fill_in(self._paths[kind], values)

  def _decode(self, row, times) -> Iterator[np.ndarray]:
    """The frame nearest to each time [T], in seconds from the episode's own."""
    prefix = f'videos/{self._camera}'
    path = self._locate('video', row, prefix)
    times = times + row[f'{prefix}/from_timestamp']
    at, before = 0, None
    # Left to choose, FFmpeg would also take playlists, which lead to other
    # files and into the network.
    with self._av.open(str(path), format='mp4') as container:
      stream = container.streams.video[0]
      checks.check_pixels(stream.width, stream.height)
      # To the key frame before; a little early, as times are rounded.
      first = max(0, round(times[0] / stream.time_base) - 1)
      container.seek(first, stream=stream)
      for frame in container.decode(stream):
        if frame.pts is None:
          continue
        while at < len(times) and before is not None:
          distance = abs(before.time - times[at])
          if abs(frame.time - times[at]) < distance:
            break
          yield self._take(before, distance, path)
          at += 1
        if at == len(times):
          return
        before = frame
      for time in times[at:]:
        distance = np.inf if before is None else abs(before.time - time)
        yield self._take(before, distance, path)

  def _take(self, frame, distance, path):
    if distance > 0.5 / self._fps:
      raise UserError(
        f'{path}: has no frame at a time that the table asks for; restore it.'
      )
    return frame.to_ndarray(format='rgb24')


def _open_image(cell, where):
  if not cell or not cell.get('bytes'):
    raise UserError(
      f'{where}: an image is not in the table but in a file of its own; save '
      'the dataset with LeRobot again.'
    )
  with checks.open_image(cell['bytes'], ('PNG', 'JPEG')) as image:
    if image.mode != 'RGB':
      raise UserError(
        f'{where}: an image is of the mode {image.mode}, should be RGB; choose '
        'another camera with --image-key.'
      )
    return np.asarray(image)
