"""Writers of other programs' formats, from episodes of the schema.

A reader must return the same episodes bit for bit. The frames encode the action
that preceded them, so a wrong alignment is detected.
"""

import io
import json

import numpy as np
from PIL import Image

from tests.episode_data import make_episode
from vid2act_jax.data import formats

CAMERA = 'observation.images.top'
_COUNTERS = ('timestamp', 'frame_index', 'episode_index')


def open_source(format, path, **options):
  return formats.open_source(format, str(path), formats.make_options(**options))


def make(length=6, number=0, size=4, **extras):
  episode = make_episode(length, number, size=size)
  return {**episode, **extras}


def solved(length, number, size=16):
  episode = make(length, number, size)
  return {**episode, 'success': np.arange(length) == length - 2}


def shift(value):
  """Shifts rows from prev_action to next action; the last row is invalid."""
  return np.concatenate([value[1:], value[-1:]])


def write_dreamer(folder, episodes, transitions=False, **changes):
  """Writes npz files; `changes` replace arrays of the second, None removes."""
  folder.mkdir(parents=True, exist_ok=True)
  for number, episode in enumerate(episodes):
    length = len(episode['image']) - transitions
    arrays = dict(episode)
    if number == 1:
      arrays = change(arrays, changes)
    np.savez(folder / f'2023-{number}-{length}.npz', **arrays)
  return folder


def change(arrays, changes):
  arrays = {**arrays, **changes}
  return {k: v for k, v in arrays.items() if v is not None}


def write_shard(path, episodes, **changes):
  import h5py

  rows = {k: np.concatenate([e[k] for e in episodes]) for k in episodes[0]}
  step_types = 1.0 - rows['is_first'] + rows['is_last']
  arrays = {
    'observation': rows['image'].transpose(0, 3, 1, 2),
    'step_type': step_types,
    **{key: rows[key] for key in ('action', 'reward', 'discount')},
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, 'w') as file:
    for key, value in change(arrays, changes).items():
      file.create_dataset(key, data=value, compression='gzip')
  return path


def write_ogbench(path, episodes, prev_action=False, **changes):
  align = np.asarray if prev_action else shift
  arrays = {
    'observations': np.concatenate([e['image'] for e in episodes]),
    'actions': np.concatenate([align(e['action']) for e in episodes]),
    'terminals': np.concatenate([e['is_last'] for e in episodes]),
    'rewards': np.concatenate([align(e['reward']) for e in episodes]),
    'qpos': np.zeros((sum(len(e['reward']) for e in episodes), 3)),
  }
  np.savez_compressed(path, **change(arrays, changes))
  return path


def write_minari(
  folder, episodes, info_fns=None, space=None, names=None, state=None, **changes
):
  """Writes a dataset; `changes` replace arrays of the second episode.

  With names of actions, rewards and state, the actions are a Dict, the rewards
  are infos, and the state is an observation.
  """
  from gymnasium import spaces
  from minari.data_collector import EpisodeBuffer
  from minari.dataset.minari_storage import MinariStorage

  image = spaces.Box(0, 255, episodes[0]['image'].shape[1:], np.uint8)
  vector = spaces.Box(-9, 9, (3,), np.float64)
  views = {'top': image, 'state': vector, 'goal': vector}
  if names:
    views[names[2]] = spaces.Box(-99, 99, state.shape[1:], np.float32)
    info_fns = {names[1]: lambda e: e['reward']}
  folder.mkdir(parents=True)
  storage = MinariStorage.new(
    folder / 'data',
    observation_space=spaces.Dict(views),
    action_space=space or spaces.Box(-2, 4, (2,), np.float32),
    jpeg_encoding=False,
  )
  storage.update_metadata({'dataset_id': 'us/it-v0', 'minari_version': '0.5.4'})
  for number, episode in enumerate(episodes):
    states = np.ones((len(episode['image']), 3))
    rows = {
      'observations': {
        'top': episode['image'],
        'state': states,
        'goal': states,
      },
      'actions': episode['action'][1:],
      'rewards': episode['reward'][1:].astype(np.float64),
      'terminations': episode['is_terminal'][1:],
      'truncations': (episode['is_last'] & ~episode['is_terminal'])[1:],
      'infos': info_fns and {k: f(episode) for k, f in info_fns.items()},
    }
    rows = {**rows, **(changes if number == 1 else {})}
    if names:
      rows['observations'][names[2]] = state
      rows['actions'] = {names[0]: rows['actions'], 'other': rows['actions']}
      rows['rewards'] = np.zeros(len(episode['image']) - 1)
    storage.update_episodes([EpisodeBuffer(**rows)])
  return folder


def write_lerobot(
  folder, episodes, video=True, version='v3.0', without=False, **changes
):
  """Writes all episodes to one table and one video, as LeRobot does."""
  import pyarrow
  from pyarrow import parquet

  fps, rows, locations, first = 10, [], [], 0
  for number, episode in enumerate(episodes):
    length = len(episode['reward'])
    for t in range(length):
      rows.append(
        {
          'action': shift(episode['action'])[t].tolist(),
          'next.reward': float(shift(episode['reward'])[t]),
          'next.done': t >= length - 2,
          'next.success': bool(shift(episode['success'])[t]),
          'observation.state': [float(t), 2.0],
          'timestamp': t / fps,
          'frame_index': t,
          'episode_index': number,
        }
      )
    location = {
      'chunk_index': 0,
      'file_index': 0,
      'from_timestamp': first / fps,
    }
    locations.append(
      {
        'episode_index': number,
        'length': length,
        'tasks': ['push'],
        'data/chunk_index': 0,
        'data/file_index': 0,
        **{f'videos/{CAMERA}/{k}': v for k, v in location.items()},
      }
    )
    first += length
  frames = [frame for episode in episodes for frame in episode['image']]
  if video:
    write_video(folder / 'videos' / CAMERA / 'chunk-000', frames, fps)
  else:
    for row, frame in zip(rows, frames, strict=True):
      row[CAMERA] = {'bytes': to_png(frame), 'path': None}
  for kind, table in (('data', rows), ('meta/episodes', locations)):
    path = folder / kind / 'chunk-000' / 'file-000.parquet'
    path.parent.mkdir(parents=True, exist_ok=True)
    table = changes.get(kind, lambda t: t)(table)
    parquet.write_table(pyarrow.Table.from_pylist(table), path)
  keys = [key for key in rows[0] if key != CAMERA]
  features = {key: {'dtype': 'float32'} for key in keys}
  if without:  # Actions and rewards have other names, see `changes`.
    features = {key: {'dtype': 'float32'} for key in _COUNTERS}
  features[CAMERA] = {'dtype': 'video' if video else 'image'}
  info = {
    'codebase_version': version,
    'fps': fps,
    'features': {**features, **changes.get('features', {})},
    'data_path': 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
    'video_path': 'videos/{video_key}/chunk-{chunk_index:03d}/'
    'file-{file_index:03d}.mp4',
  }
  (folder / 'meta' / 'info.json').write_text(json.dumps(info))
  return folder


def write_video(folder, frames, fps):
  """Writes a lossless video, so that bits can be compared."""
  import av

  folder.mkdir(parents=True)
  with av.open(str(folder / 'file-000.mp4'), 'w') as container:
    stream = container.add_stream('libx264rgb', rate=fps)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt, stream.options = 'rgb24', {'qp': '0', 'g': '4'}
    for frame in frames:
      frame = av.VideoFrame.from_ndarray(frame, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def to_png(frame):
  data = io.BytesIO()
  Image.fromarray(frame).save(data, 'png')
  return data.getvalue()
