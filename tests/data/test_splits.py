"""Tests of held-out episodes: which they are, and that none is sampled."""

import dataclasses

import numpy as np
import pytest

from experiments import debug
from tests.episode_data import DESCRIPTION, assert_same, fill, make_episode
from vid2act_jax.data import dataset, sources, splits
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.replay import Replay, ReplayOptions
from vid2act_jax.loops import config_checks
from vid2act_jax.loops import sources as source_datasets
from vid2act_jax.types import UserError

HELD_OUT = ReplayOptions(size=4, held_out=0.3)


def make(directory, num, **kwargs):
  """A dataset whose frames show the number of their episode."""
  fill(directory, [6] * num, **kwargs)
  size = kwargs.get('size', 4)
  description = {**DESCRIPTION, 'size': size, 'action_repeat': 1}
  dataset.write_metadata(directory, 'probe_x', {}, description, True)
  return directory


def indices(files):
  return [file.index for file in files]


def listed(num):
  return [eps.EpisodeFile(f'{index}', index, 6) for index in range(num)]


@pytest.mark.parametrize(
  'num, share, held_out',
  [(10, 0, 0), (10, 0.3, 3), (10, 0.01, 1), (10, 0.99, 9), (2, 0.1, 1)],
)
def test_number_of_held_out_episodes(num, share, held_out):
  training, held = splits.split_episodes(listed(num), share, 0)
  assert len(held) == held_out
  assert sorted(indices(training) + indices(held)) == list(range(num))
  assert indices(training) == sorted(indices(training))
  assert indices(held) == sorted(indices(held))


def test_a_split_depends_on_seed_and_indices_alone():
  held = [indices(splits.split_episodes(listed(20), 0.2, s)[1]) for s in (0, 1)]
  # The same on every machine: runs of today are judged tomorrow.
  assert held == [[4, 5, 7, 14], [1, 9, 14, 17]]
  others = [file._replace(length=9) for file in listed(20)]
  assert indices(splits.split_episodes(others, 0.2, 0)[1]) == held[0]
  seeds = range(300)
  counts = np.zeros(20)
  for seed in seeds:
    counts[indices(splits.split_episodes(listed(20), 0.2, seed)[1])] += 1
  assert 30 < counts.min() and counts.max() < 95  # 60 ± 7


def test_a_single_episode_cannot_be_split():
  assert splits.split_episodes(listed(1), 0.0, 0)[1] == []
  with pytest.raises(UserError, match='only episode.*replay.held_out=0.3'):
    splits.split_episodes(listed(1), 0.3, 0)


def test_held_out_episodes_are_never_sampled(tmp_path):
  folders = [make(tmp_path / name, 10) for name in 'ab']
  replays, _ = sources.load_sources(folders, 1e6, 4, HELD_OUT)
  files = dataset.find_episodes(folders[0])
  training, _ = splits.split_episodes(files, 0.3, 4)
  batch = sources.sample_sources(replays, 0, batch=400, length=3)
  for images in batch['image']:
    assert set(images[..., 0, 0, 0].ravel()) == set(indices(training))
  for replay in replays:
    assert (replay.num_episodes, replay.episodes_on_disk) == (7, 10)


def test_without_a_split_batches_are_as_before(tmp_path):
  folder = make(tmp_path, 5)
  batches = [
    Replay(folder, 1e6, 3, options).sample(2, 30, 4)
    for options in (ReplayOptions(), dataclasses.replace(HELD_OUT, held_out=0))
  ]
  assert_same(*batches)


def test_only_sources_are_split(tmp_path):
  with pytest.raises(ValueError, match='of a source'):
    Replay(tmp_path, 1e6, 0, HELD_OUT, owner=True)


def test_capacity_counts_training_episodes_alone(tmp_path):
  files = dataset.find_episodes(make(tmp_path, 10))
  options = dataclasses.replace(HELD_OUT, held_out=0.5)
  frame = Replay(tmp_path, 1e6, 0, options).frame_bytes
  replay = Replay(tmp_path, 5 * 6 * frame, 0, options)
  assert (replay.num_episodes, replay.episodes_on_disk) == (5, 10)
  training, _ = splits.split_episodes(files, 0.5, 0)
  seen = replay.sample(0, 200, 3)['image'][..., 0, 0, 0]
  assert set(seen.ravel()) == set(indices(training))


def test_runs_read_the_share_from_their_config(tmp_path):
  config = debug.get_config()
  config.seed, config.replay.held_out = 4, 0.3
  for task in config.sources:
    make(tmp_path / 'sources' / task, 10, size=64)
  replays = source_datasets.load_replays(config, tmp_path)
  files = dataset.find_episodes(tmp_path / 'sources' / config.sources[0])
  _, held_out = splits.split_episodes(files, 0.3, 4)
  for replay in replays:
    seen = replay.sample(0, 200, 3)['image'][..., 0, 0, 0]
    assert len(set(seen.ravel())) == 7
    assert not set(seen.ravel()) & set(indices(held_out))
  # The target's replay has none.
  options = source_datasets.replay_options(config, tmp_path)
  replay = Replay(tmp_path / 'replay', 1e6, 4, options, owner=True)
  assert replay.num_episodes == 0
  eps.save(tmp_path / 'replay', 0, make_episode(size=64))
  replay = Replay(tmp_path / 'replay', 1e6, 4, options, owner=True)
  assert replay.num_episodes == 1


@pytest.mark.parametrize('share', [-0.1, 1.0, float('nan')])
def test_shares_that_mean_nothing(tmp_path, share):
  config = debug.get_config()
  config.replay.held_out = share
  with pytest.raises(UserError, match='replay.held_out'):
    config_checks.check_config(config, tmp_path)
