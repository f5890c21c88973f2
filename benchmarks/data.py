"""Data: loading and sampling of replay, its memory, and importing.

  python -m benchmarks.data
  python -m benchmarks.data --frames 100000 --bound-gb 0.5

Prints one line of JSON and a table. Replay is loaded from a dataset folder, as
in training. The episodes are hard links to a few different files of equal size.
Sampling is timed with reused arrays, and compared to NumPy copying the same
number of bytes between two arrays in the same run.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time

import numpy as np

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files, formats, importing, store
from vid2act_jax.data.replay import Replay, ReplayOptions

_LENGTH = 500  # Frames per episode.
_SIZE, _ACTIONS = 64, 6
_UNIQUE_EPISODES = 20  # The others are links to them.
_BATCH = (50, 50)


def make_episode(number: int) -> dict[str, np.ndarray]:
  """An episode whose frames compress about 20-fold, like rendered ones."""
  rng = np.random.default_rng(number)
  low = rng.integers(0, 256, (8, 8, 3), np.uint8)
  frame = low.repeat(8, 0).repeat(8, 1)
  image = np.stack([np.roll(frame, t, 1) for t in range(_LENGTH)])
  index = np.arange(_LENGTH)
  action = rng.uniform(-1, 1, (_LENGTH, _ACTIONS)).astype(np.float32)
  action[0] = 0
  return {
    'image': image,
    'action': action,
    'reward': (index > 0).astype(np.float32),
    'discount': np.ones(_LENGTH, np.float32),
    'is_first': index == 0,
    'is_last': index == _LENGTH - 1,
    'is_terminal': np.zeros(_LENGTH, bool),
  }


def make_dataset(folder: pathlib.Path, frames: int) -> int:
  """Writes a dataset with a number of frames; returns the episode count."""
  count = -(-frames // _LENGTH)
  for index in range(min(count, _UNIQUE_EPISODES)):
    eps.save(folder, index, make_episode(index))
  for index in range(_UNIQUE_EPISODES, count):
    original = (
      folder / eps.FOLDER / f'{index % _UNIQUE_EPISODES:06d}-{_LENGTH}.npz'
    )
    os.link(original, original.with_name(f'{index:06d}-{_LENGTH}.npz'))
  return count


def measure_replay(folder: pathlib.Path, bound: float, repeats: int) -> dict:
  """Loads a replay from a dataset folder and samples from it."""
  started = time.perf_counter()
  options = ReplayOptions(_ACTIONS, _SIZE, scratch=folder)
  replay = Replay(folder, bound, 0, options)
  load_time = time.perf_counter() - started
  frames = replay.episodes_on_disk * _LENGTH
  out = replay.empty_batch(_BATCH)
  copied = np.ones_like(out['image']), np.ones_like(out['image'])
  sampling, copying = [], []
  for index in range(repeats):
    # A few batches repeatedly, so that their pages are in memory.
    started = time.perf_counter()
    replay.sample(index % 5, *_BATCH, out=out)
    sampling.append(time.perf_counter() - started)
    started = time.perf_counter()
    np.copyto(copied[0], copied[1])
    copying.append(time.perf_counter() - started)
  return {
    'frames': frames,
    'frames_held': replay.num_frames,
    'bytes_held': replay.stats()['bytes'],
    'load_frames_per_s': frames / load_time,
    'sample_ms': 1e3 * statistics.median(sampling),
    'numpy_copy_ms': 1e3 * statistics.median(copying),
    **_memory(),
  }


def measure_import(folder: pathlib.Path, episodes: int) -> dict:
  """Imports Dreamer-style episodes; compares to reading the same files."""
  source = folder / 'source'
  files.make_folder(source)
  for index in range(episodes):
    episode = make_episode(index)
    keys = ('image', 'action', 'reward', 'discount')
    np.savez_compressed(
      source / f'{index:04d}-{_LENGTH}.npz', **{k: episode[k] for k in keys}
    )
  started = time.perf_counter()
  for path in sorted(source.iterdir()):
    with np.load(path) as arrays:
      for key in arrays:
        arrays[key]
  reading = time.perf_counter() - started
  started = time.perf_counter()
  options = formats.Options()
  importing.import_dataset('dreamer', str(source), folder / 'to', options)
  importing_time = time.perf_counter() - started
  return {
    'import_episodes_per_s': episodes / importing_time,
    'numpy_read_episodes_per_s': episodes / reading,
  }


def _memory():
  """Peak and current anonymous memory of this process, in bytes."""
  status = pathlib.Path('/proc/self/status').read_text()
  fields = dict(line.split(':', 1) for line in status.splitlines())
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return {
    'peak_memory_bytes': peak,
    'anonymous_bytes': int(fields['RssAnon'].split()[0]) * 1024,
  }


def main():
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--frames', type=int, default=2_000_000)
  parser.add_argument(
    '--bound-gb', type=float, default=0, help='default: all frames fit'
  )
  parser.add_argument('--repeats', type=int, default=100)
  parser.add_argument('--import-episodes', type=int, default=50)
  parser.add_argument(
    '--folder', help='for the temporary data; default: of the system'
  )
  args = parser.parse_args()
  record = store.record_bytes(store.frame_columns(_SIZE, _ACTIONS))
  bound = args.bound_gb * 1e9 or 1.01 * args.frames * record
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    folder = pathlib.Path(folder)
    make_dataset(folder / 'dataset', args.frames)
    figures = measure_replay(folder / 'dataset', bound, args.repeats)
    figures['bound_bytes'] = bound
    figures |= measure_import(folder, args.import_episodes)
  figures['machine'] = f'{os.cpu_count()} cores {platform.machine()}'
  figures['numpy'] = np.__version__
  print(json.dumps(figures))
  for key, value in figures.items():
    text = value if isinstance(value, str) else f'{value:,.4g}'
    print(f'{key:26} {text}')


if __name__ == '__main__':
  main()
