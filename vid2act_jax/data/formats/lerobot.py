"""LeRobot v3 and v2: tables in Parquet, with frames in them or in videos.

A row holds the frame, the action taken at it, and under `next.` its reward and
success. Frames of a video are found by counting the rows of the episodes in it:
the timestamps of the tables and of the metadata are not exact.
"""

import numpy as np

from vid2act_jax.data.formats import checks, convert, core, lerobot_index
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.frames import prepare_images
from vid2act_jax.data.formats.video import Video
from vid2act_jax.types import UserError

_COUNTERS = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')
_ACTION, _STATE, _REWARD = 'action', 'observation.state', 'next.reward'
_SUCCESS = 'next.success'
_IMAGE_FORMATS = ('PNG', 'JPEG', 'WEBP')


def open_source(path: str, options: Options) -> 'Folder':
  """Opens a dataset's folder.

  Raises:
    UserError: there is no dataset, it has another version, no camera or
      several, no actions of this name, or pyarrow or (for videos) av is not
      installed.
  """
  return Folder(path, options)


class Folder:
  """The episodes of a LeRobot dataset."""

  def __init__(self, path: str, options: Options):
    self._root = core.find_folder(path, 'a LeRobot dataset')
    self._parquet = core.import_optional('pyarrow.parquet')
    self._options, self._video = options, None
    self.metadata = {'alignment': options.align or 'next', 'dropped': []}
    if self.metadata['alignment'] == 'next':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    info = lerobot_index.read_info(self._root)
    with core.wrap_errors(self._root / 'meta'):
      features = info['features']
      self._paths = {'data': info['data_path'], 'video': info.get('video_path')}
      self._camera = self._select_camera(features)
      self._is_video = features[self._camera]['dtype'] == 'video'
      self._select_columns(features)
      self._read_bounds()
      self._episodes, tasks = lerobot_index.read_episodes(
        self._root,
        info,
        self._camera if self._is_video else None,
        self._read_parquet,
      )
    if len(tasks) == 1:
      self.metadata['task'] = tasks.pop()
    if self._is_video:
      core.import_optional('av')

  def __len__(self) -> int:
    return len(self._episodes)

  def name(self, index: int) -> str:
    return f'episode {self._episodes[index].index}'

  def read(self, index: int) -> dict[str, np.ndarray]:
    where = f'{self._root}, {self.name(index)}'
    with core.wrap_errors(where):
      episode = self._episodes[index]
      table = self._read_table(episode, where)
      if self._is_video:
        frames = self._find_video(episode, where).read(
          episode.first_frame, episode.length
        )
      else:
        frames = (self._open_image(c, where) for c in table[self._camera])
      image = prepare_images(frames, self._options, where)
      action = [table[key] for key in self._action]
      steps = convert.Steps(
        action=convert.join(action, 'action', where),
        reward=table.get(self._reward),
        success=table.get(_SUCCESS),
        state=self._read_state(table, len(image), where),
      )
      return convert.build_episode(
        image, steps, self._options, self.metadata, where
      )

  def close(self) -> None:
    pass

  def _read_state(self, table, frames, where):
    if not self._state:
      return None
    state = convert.join([table[key] for key in self._state], 'state', where)
    required = bool(self._options.names.state_key)
    state = convert.to_state(state, frames, required, where)
    if state is None:
      core.record_dropped(self.metadata, *self._state)
    return state

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

  def _select_columns(self, features):
    """Chooses the features to read, and records those that are dropped."""
    options = self._options
    self._action = core.split_keys(options.names.action_key) or (_ACTION,)
    self._state = core.split_keys(options.names.state_key)
    self._reward = options.names.reward_key or _REWARD
    named = {
      'action_key': ','.join(self._action),
      'state_key': options.names.state_key,
      'reward_key': options.names.reward_key,
    }
    core.require_keys(named, features, self._root)
    if not self._state and _STATE in features:
      self._state = (_STATE,)
    wanted = (*self._action, *self._state, self._reward, _SUCCESS)
    self._columns = [key for key in wanted if key in features]
    used = {*self._columns, *_COUNTERS, self._camera}
    core.record_dropped(
      self.metadata, *sorted(set(features) - used - {'next.done'})
    )
    if 'next.done' in features:
      # LeRobot sets it for terminals and for time limits.
      core.record_dropped(
        self.metadata, 'next.done: a terminal or a time limit, not known which'
      )
    if self._reward not in features:
      core.record_no_rewards(self.metadata)

  def _read_bounds(self):
    """Uses the smallest and largest actions as bounds; none are declared.

    Only --scale-actions needs them: without it, any statistics will do.
    """
    meta = self._root / 'meta'
    try:
      bounds = lerobot_index.read_bounds(self._root, self._action)
    except (UserError, ValueError, KeyError, TypeError, OSError) as error:
      if self._options.scale_actions:
        raise UserError(
          f'{meta}: its statistics have no smallest and largest action '
          f'({type(error).__name__}: {str(error)[:200]}); restore them, or '
          'leave --scale-actions out.'
        ) from error
      return
    if bounds is None:
      core.reject_scaling(self._options, meta)
      return
    self.metadata['action_low'], self.metadata['action_high'] = bounds

  def _read_parquet(self, path, columns, optional=(), filters=None):
    if optional:
      names = {*self._parquet.read_schema(path).names}
      columns = [*columns, *(name for name in optional if name in names)]
    checks.check_table(self._parquet.read_metadata(path), path, columns)
    return self._parquet.read_table(
      path,
      columns=columns,
      filters=filters,
      use_threads=False,
      partitioning=None,
    )

  def _read_table(self, episode, where):
    """Reads the columns of an episode as lists of its rows."""
    path = lerobot_index.find_file(
      self._root, self._paths['data'], episode.table
    )
    columns = [*self._columns, 'frame_index']
    if not self._is_video:
      columns.append(self._camera)
    rows = [('episode_index', '=', episode.index)]
    table = self._read_parquet(path, columns, filters=rows)
    table = {key: table[key].to_pylist() for key in columns}
    found = table['frame_index']
    # The length first: a list of the claimed length may not fit into memory.
    if len(found) != episode.length or found != list(range(len(found))):
      raise UserError(
        f'{where}: meta/episodes says {episode.length} frames, {path} holds '
        f'{len(found)}, or not in order; restore or remove it.'
      )
    return table

  def _find_video(self, episode, where):
    """Opens the video of an episode and checks that the counts agree."""
    path = lerobot_index.find_file(
      self._root, self._paths['video'], episode.video
    )
    if self._video is None or self._video.path != path:
      self._video = Video(path)
    held, first = len(self._video.times), episode.first_frame
    if held != episode.video_frames:
      raise UserError(
        f'{where}: {path} holds {held} frames, its episodes have '
        f'{episode.video_frames} rows, so that it is not known which frame '
        'belongs to which row; restore it.'
      )
    if episode.start is not None and not self._options.repairs.count_frames:
      stated = self._video.nearest(episode.start)
      if stated != first:
        raise UserError(
          f'{where}: from_timestamp says that it starts at frame {stated} of '
          f'{path}, but the episodes before it have {first} rows; restore it, '
          'or pass --count-frames to go by the rows.'
        )
    return self._video

  def _open_image(self, cell, where):
    data = cell and cell.get('bytes')
    if not data and cell and cell.get('path'):
      path = self._root / checks.format_path('{path}', {'path': cell['path']})
      data = path.read_bytes() if path.is_file() else None
    if not data:
      raise UserError(
        f'{where}: an image is not in the table but in a separate file; save '
        'the dataset with LeRobot again.'
      )
    with checks.open_image(data, _IMAGE_FORMATS) as image:
      return checks.to_rgb(image, where)
