"""Tests of source datasets, metadata and prefetching."""

import contextlib
import itertools
import json
import re
import threading
import time

import jax
import numpy as np
import pytest

from tests.episode_data import (
  DESCRIPTION,
  assert_same,
  fill,
  make_episode,
)
from vid2act_jax.data import dataset, sources
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.data.replay import ReplayOptions
from vid2act_jax.types import UserError


class TestSources:
  def make(self, directory, lengths, action_dim=2, complete=True, **kwargs):
    fill(directory, lengths, action_dim=action_dim)
    description = {**DESCRIPTION, 'action_dim': action_dim}
    dataset.write_metadata(
      directory, 'probe_x', {}, description, complete, **kwargs
    )
    return directory

  def test_batch(self, tmp_path):
    folders = [
      self.make(tmp_path / str(dim), [12, 15], dim) for dim in (2, 4, 1)
    ]
    options = ReplayOptions(size=4)
    replays, metadata = sources.load_sources(folders, 1e6, 0, options)
    assert [m['action_dim'] for m in metadata] == [2, 4, 1]
    batch = sources.sample_sources(replays, 5, batch=6, length=4)
    assert batch['image'].shape == (3, 6, 4, 4, 4, 3)
    assert batch['action'].shape == (3, 6, 4, 4)
    assert batch['reward'].shape == batch['is_first'].shape == (3, 6, 4)
    frame = batch['image'][..., 0, 0, 1] / 256
    for domain, dim in enumerate((2, 4, 1)):
      action = batch['action'][domain]
      assert (action[..., :dim] == frame[domain][..., None]).all()
      assert not action[..., dim:].any()
      padded = replays[domain].sample(5, 6, 4, 4, stream=domain + 1)
      assert_same(padded, {k: v[domain] for k, v in batch.items()})
    # The same episodes and seed, but sampled independently.
    assert (frame[0] != frame[1]).any() and (frame[1] != frame[2]).any()
    with pytest.raises(ValueError, match='3 actions cannot hold 4'):
      replays[1].sample(0, 1, 1, pad_actions_to=3)

  def test_bad_sources(self, tmp_path):
    with pytest.raises(UserError, match='config.sources'):
      sources.load_sources([], 1e6, 0)
    with pytest.raises(UserError, match='nowhere.*missing.*collect'):
      sources.load_sources([tmp_path / 'nowhere'], 1e6, 0)
    folder = self.make(tmp_path / 'a', [5])
    with pytest.raises(UserError, match='a: its frames are 4x4.*64x64'):
      sources.load_sources([folder], 1e6, 0, ReplayOptions(size=64))
    eps.save(folder, 1, make_episode(6))
    with pytest.raises(UserError, match='says 1 episodes, there are 2'):
      sources.load_sources([folder], 1e6, 0)
    folder = self.make(tmp_path / 'b', [5], complete=False)
    with pytest.raises(UserError, match='not complete, it has 1 episodes'):
      sources.load_sources([folder], 1e6, 0)


class TestMetadata:
  def test_contents(self, tmp_path):
    fill(tmp_path, [5, 11])
    episode = make_episode(3, 2)
    episode['success'] = np.array([0, 1, 0], bool)
    eps.save(tmp_path, 2, episode)
    collected = {'policy': 'random', 'noise': np.float32(0.5)}
    written = dataset.write_metadata(
      tmp_path, 'dmc_walker_walk', collected, DESCRIPTION, complete=True
    )
    read = dataset.read_metadata(tmp_path)
    assert read == json.loads(json.dumps(written, default=float))
    assert read['task'] == 'dmc_walker_walk'
    assert read['collected'] == {'policy': 'random', 'noise': 0.5}
    assert (read['episodes'], read['frames']) == (3, 19)
    assert read['env_steps'] == 2 * (4 + 10 + 2)
    returns = [10, 10055, 4003]
    assert read['return'] == pytest.approx(
      {
        'mean': np.mean(returns),
        'std': np.std(returns),
        'min': 10,
        'max': 10055,
      }
    )
    assert read['success_rate'] == 1.0
    for key, value in DESCRIPTION.items():
      if key == 'versions':
        value = {**read['versions'], 'numpy': np.__version__, **value}
      assert read[key] == value

  def test_incomplete(self, tmp_path):
    dataset.write_metadata(tmp_path, 'probe_x', {}, DESCRIPTION, False)
    metadata = dataset.read_metadata(tmp_path, partial=True)
    assert (metadata['episodes'], metadata['return']) == (0, None)
    assert metadata['success_rate'] is None
    with pytest.raises(UserError, match=re.escape(dataset.RERUN_HINT)):
      dataset.read_metadata(tmp_path)

  def test_without_rewards(self, tmp_path):
    fill(tmp_path, [5, 11])
    description = {**DESCRIPTION, 'has_rewards': False}
    dataset.write_metadata(tmp_path, 'x', {}, description, complete=True)
    for metadata in (
      dataset.read_metadata(tmp_path), dataset.recount(tmp_path)
    ):  # fmt: skip
      assert not dataset.has_rewards(metadata)
      assert metadata['return'] is None and metadata['episodes'] == 2
    # The key is absent from datasets with rewards.
    metadata = dataset.write_metadata(tmp_path, 'x', {}, DESCRIPTION, True)
    assert 'has_rewards' not in metadata and dataset.has_rewards(metadata)
    metadata['has_rewards'] = 'no'
    (tmp_path / dataset.FILE).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="wrong type: has_rewards: 'no'"):
      dataset.read_metadata(tmp_path)

  def test_bad_metadata(self, tmp_path):
    with pytest.raises(ValueError, match='lacks .*camera'):
      dataset.write_metadata(tmp_path, 'x', {}, {'size': 4}, True)
    with pytest.raises(UserError, match='gone/metadata.json: missing.*collect'):
      dataset.read_metadata(tmp_path / 'gone')
    path = tmp_path / dataset.FILE
    for text, message in [
      ('{"task":', 'not valid JSON'),
      ('[]', 'JSON object'),
      ('{"task": "x"}', 'missing the keys collected, complete'),
    ]:
      path.write_text(text)
      with pytest.raises(UserError, match='metadata.json: .*' + message):
        dataset.read_metadata(tmp_path)


class TestPrefetch:
  def test_order_and_end(self):
    batches = list(
      prefetch(lambda: iter(range(20)), depth=3, put=lambda x: 2 * x)
    )
    assert batches == list(range(0, 40, 2))
    assert list(prefetch(lambda: iter(()))) == []

  def test_device_put(self):
    def batches():
      yield {'image': np.full((2, 3), 7, np.uint8)}

    (batch,) = prefetch(batches)
    assert isinstance(batch['image'], jax.Array)
    np.testing.assert_array_equal(batch['image'], np.full((2, 3), 7, np.uint8))

  def test_exceptions_reach_the_consumer(self):
    def broken():
      yield 1
      yield 2
      raise UserError('the third batch failed')

    stream = prefetch(broken, depth=2, put=lambda x: x)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(UserError, match='the third batch failed'):
      next(stream)
    assert list(stream) == []

  def test_close_stops_the_thread(self):
    sampled = []

    def endless():
      for index in itertools.count():
        sampled.append(index)
        yield index

    stream = prefetch(endless, depth=2, put=lambda x: x)
    with contextlib.closing(stream):
      assert list(itertools.islice(stream, 5)) == list(range(5))
      deadline = time.monotonic() + 5
      while len(sampled) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sampled == list(range(7))  # At most two ahead.
    assert not any(t.name.startswith('prefetch') for t in threading.enumerate())
