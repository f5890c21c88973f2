"""Episodes, datasets, replay, sources and prefetching."""

import contextlib
import itertools
import json
import re
import threading
import time

import jax
import numpy as np
import pytest

from vid2act_jax.data import dataset, files, sources
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.assemble import Assembler
from vid2act_jax.data.prefetch import prefetch
from vid2act_jax.data.replay import Replay
from vid2act_jax.types import UserError

DESCRIPTION = {
  'action_dim': 2,
  'action_repeat': 2,
  'camera': 'fixed',
  'size': 4,
  'quality': 'fast',
  'flips': ['vertical'],
  'versions': {'mujoco': '3.3.0'},
  'time_limit': 1000,
}


def make_episode(length=8, number=0, action_dim=2, size=4):
  """Every frame and every result of its action tell episode and time."""
  frame = np.arange(length)
  image = np.zeros((length, size, size, 3), np.uint8)
  image[..., 0] = number
  image[..., 1] = frame[:, None, None]
  action = np.repeat(frame[:, None] / 256, action_dim, 1).astype(np.float32)
  return {
    'image': image,
    'action': action,
    'reward': (frame + 1000 * number * (frame > 0)).astype(np.float32),
    'discount': np.ones(length, np.float32),
    'is_first': frame == 0,
    'is_last': frame == length - 1,
    'is_terminal': np.zeros(length, bool),
  }


def fill(directory, lengths, **kwargs):
  for number, length in enumerate(lengths):
    eps.save(directory, number, make_episode(length, number, **kwargs))
  return directory


def play(replay, lengths, first=0):
  """Adds whole episodes through the vector-environment interface."""
  summaries = []
  for number, length in enumerate(lengths, first):
    episode = make_episode(length, number)
    for t in range(length):
      obs = {k: v[t][None] for k, v in episode.items() if k != 'action'}
      summaries += replay.add(obs, episode['action'][t][None])
  return summaries


def assert_same(left, right):
  assert left.keys() == right.keys()
  for key in left:
    assert left[key].dtype == right[key].dtype
    np.testing.assert_array_equal(left[key], right[key], key)


class TestEpisodes:
  def test_round_trip(self, tmp_path):
    episode = make_episode(5)
    episode['success'] = np.array([0, 0, 1, 0, 0], bool)
    episode['state'] = np.ones((5, 7), np.float32)
    path = eps.save(tmp_path, 12, episode)
    assert path == tmp_path / 'episodes' / '000012-5.npz'
    assert_same(eps.load(path), episode)
    assert eps.list_episodes(tmp_path) == [(path, 12, 5)]
    assert eps.load_summary(path) == {
      'return': 10.0,
      'length': 5,
      'success': True,
    }

  def test_listing_sorts_and_ignores_leftovers(self, tmp_path):
    for index in (10, 2, 1000000):
      eps.save(tmp_path, index, make_episode(3))
    leftover = tmp_path / 'episodes' / ('000011-3.npz' + files.TEMPORARY)
    leftover.write_bytes(b'half')
    assert [f.index for f in eps.list_episodes(tmp_path)] == [2, 10, 1000000]
    eps.clean(tmp_path)
    assert not leftover.exists()
    assert eps.list_episodes(tmp_path / 'nothing') == []

  def test_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
    def full(file, **arrays):
      file.write(b'some of it')
      raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'savez_compressed', full)
    with pytest.raises(UserError, match='000000-8.npz.*No space left'):
      eps.save(tmp_path, 0, make_episode())
    assert list((tmp_path / 'episodes').iterdir()) == []

  def test_taken_index_and_strange_names(self, tmp_path):
    eps.save(tmp_path, 0, make_episode(3))
    with pytest.raises(UserError, match='000000-3.npz: there already'):
      eps.save(tmp_path, 0, make_episode(4))
    path = tmp_path / 'episodes' / '000000-3.npz'
    twin = path.with_name('000000-4.npz')
    twin.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match='000000-4.npz: has the same index'):
      eps.list_episodes(tmp_path)
    twin.rename(path.with_name('mine.npz'))
    with pytest.raises(UserError, match='mine.npz: not named'):
      eps.list_episodes(tmp_path)

  def test_unwritable_folder(self, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/episodes: cannot make'):
      eps.save(tmp_path / 'file', 0, make_episode())

  @pytest.mark.parametrize(
    'change, message',
    [
      ({'image': None}, "missing 'image'; it has 'action'"),
      ({'reward': None, 'is_first': None}, "missing 'reward', 'is_first'"),
      ({'logprob': np.zeros(8)}, "unknown 'logprob'; an episode has 'image'"),
      ({'reward': np.zeros(8)}, "'reward' is float64, should be float32"),
      ({'image': np.zeros((8, 4, 4, 3), 'f4')}, "'image' is float32, should"),
      ({'image': np.zeros((8, 3, 4, 4), 'u1')}, r'\(8, 3, 4, 4\).*H, W, 3'),
      ({'action': np.zeros(8, 'f4')}, r"'action' has the shape \(8,\)"),
      ({'state': np.zeros(8, 'f4')}, r"'state' .* should be \[T, S\]"),
      ({'reward': np.zeros(7, 'f4')}, "differ in length:.*'reward': 7"),
      ({'image': np.zeros((8, 4, 6, 3), 'u1')}, "'image' is 4x6, should be"),
      ({'action': np.zeros((8, 3), 'f4')}, "'action' has 3 dim.* have 2"),
      ({'action': np.zeros((8, 0), 'f4')}, "'action' has 0 dimensions"),
      ({'reward': 'nan'}, "'reward' is not finite at frame 5"),
      ({'action': 1.5}, r"'action' runs from 0 to 1.5, .* \[-1, 1\]"),
      ({'discount': -0.5}, r"'discount' runs from -0.5 to 1, .* \[0, 1\]"),
      ({'reward': np.ones(8, 'f4')}, "'reward' is not zero at frame 0"),
      ({'action': np.ones((8, 2), 'f4')}, "'action' is not zero at frame 0"),
      ({'is_first': np.zeros(8, bool)}, "'is_first' .* at frame 0 .* none"),
      ({'is_first': np.ones(8, bool)}, r"'is_first' .* \[0, 1, 2, 3, 4\]"),
      ({'is_last': np.zeros(8, bool)}, "'is_last' must be set at frame 7"),
      ({'is_terminal': np.ones(8, bool)}, "'is_terminal' is set before"),
    ],
  )
  def test_validation_names_the_thing(self, change, message):
    episode = make_episode(8)
    eps.validate(episode, 'here', size=4, action_dim=2)
    for key, value in change.items():
      if value is None:
        del episode[key]
      elif isinstance(value, np.ndarray):
        episode[key] = value
      else:
        episode[key][5] = float(value)
    with pytest.raises(UserError, match='^here: .*' + message):
      eps.validate(episode, 'here', size=4, action_dim=2)

  def test_validation_bounds(self):
    episode = make_episode(8)
    episode['action'][3] = 1.0005
    eps.validate(episode, 'here')
    with pytest.raises(UserError, match='should be 64x64'):
      eps.validate(episode, 'here', size=64)
    with pytest.raises(UserError, match='here: holds no frames'):
      eps.validate({k: v[:0] for k, v in episode.items()}, 'here')

  def test_damaged_files(self, tmp_path):
    """Whatever happens to the bytes: read as they were, or a clear error."""
    episode = make_episode(20, size=8)
    path = eps.save(tmp_path, 0, episode)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(200):
      damaged = bytearray(whole)
      if trial % 2:
        for at in random.integers(0, len(whole), 3):
          damaged[at] ^= int(random.integers(1, 256))
      else:
        damaged = damaged[: random.integers(0, len(whole))]
      path.write_bytes(damaged)
      try:
        arrays = eps.load(path)
        eps.validate(arrays, path)
        assert_same(arrays, episode)
      except UserError as error:
        assert str(path) in str(error)
        refused += 1
    assert refused > 150

  def test_wrong_files(self, tmp_path):
    path = eps.save(tmp_path, 0, make_episode(8))
    longer = path.rename(path.with_name('000000-9.npz'))
    with pytest.raises(UserError, match=r'promises 9 frames.*\[8\]'):
      eps.load(longer)
    np.savez(path, image=np.array([{}], dtype=object))
    with pytest.raises(UserError, match='000000-8.npz: damaged or not'):
      eps.load(path)
    np.savez(path, other=np.zeros(8))
    with pytest.raises(UserError, match="'reward' is missing"):
      eps.load_summary(path)
    with pytest.raises(UserError, match='gone.npz: cannot be read'):
      eps.load(tmp_path / 'gone.npz')


class TestAssembler:
  def test_environments_out_of_step(self):
    lengths = [[4, 3, 5], [6, 2, 4]]
    streams = []
    for env, row in enumerate(lengths):
      played = [make_episode(n, 10 * env + i) for i, n in enumerate(row)]
      streams.append(
        {k: np.concatenate([e[k] for e in played]) for k in played[0]}
      )
    assembler, ended = Assembler(), []
    shared = {k: np.stack([s[k][0] for s in streams]) for k in streams[0]}
    for t in range(12):
      for key, value in shared.items():
        value[...] = [s[key][t] for s in streams]
      obs = {k: v for k, v in shared.items() if k != 'action'}
      # At a reset, any action is to be ignored.
      action = np.where(obs['is_first'][:, None], 9, shared['action'])
      ended += assembler.add({**obs, 'log_x': np.zeros(2)}, action)
    assert [e['image'][0, 0, 0, 0] for e in ended] == [0, 10, 1, 11, 2, 12]
    for episode, length in zip(ended, [4, 6, 3, 2, 5, 4], strict=True):
      number = int(episode['image'][0, 0, 0, 0])
      expected = make_episode(length, number)
      assert_same(episode, {k: expected[k] for k in episode})
      assert len(episode) == len(expected)

  def test_interrupted_and_wrong_streams(self):
    episode = make_episode(3)
    rows = [{k: v[t][None] for k, v in episode.items()} for t in range(3)]
    assembler = Assembler()
    with pytest.raises(ValueError, match='Environment 0 has not been reset'):
      assembler.add(rows[1], rows[1]['action'])
    ended = []
    for t in (0, 1, 0, 1, 2):
      ended += assembler.add(rows[t], rows[t]['action'])
    assert [len(e['reward']) for e in ended] == [3]
    floats = {**rows[0], 'image': np.ones((1, 4, 4, 3))}
    with pytest.raises(TypeError):
      assembler.add(floats, np.zeros((1, 2)))


class TestReplay:
  def test_chunks(self, tmp_path):
    """Whole, in order, inside one episode, each action with its frame."""
    replay = Replay(fill(tmp_path, [7, 20, 5, 3, 31]), 1000, seed=0)
    batch = replay.sample(0, batch=400, length=5)
    assert batch['image'].shape == (400, 5, 4, 4, 3)
    dtypes = {k: v.dtype.name for k, v in batch.items()}
    assert dtypes == {
      'image': 'uint8',
      'action': 'float32',
      'reward': 'float32',
      'is_first': 'bool',
    }
    number = batch['image'][:, :, 0, 0, 0].astype(int)
    frame = batch['image'][:, :, 0, 0, 1].astype(int)
    assert (number == number[:, :1]).all()
    assert (frame == frame[:, :1] + np.arange(5)).all()
    assert set(number[:, 0]) == {0, 1, 2, 4}
    np.testing.assert_array_equal(batch['action'][..., 0], frame / 256)
    np.testing.assert_array_equal(
      batch['reward'], frame + 1000 * number * (frame > 0)
    )
    np.testing.assert_array_equal(batch['is_first'], frame == 0)

  def test_starts_are_uniform(self, tmp_path):
    lengths, length = [7, 20, 5, 3, 31], 5
    replay = Replay(fill(tmp_path, lengths), 1000, seed=3)
    places = [
      (n, t) for n, T in enumerate(lengths) for t in range(T - length + 1)
    ]
    assert replay.num_starts(length) == len(places) == 47
    counts = dict.fromkeys(places, 0)
    for index in range(100):
      first = replay.sample(index, 94, length)['image'][:, 0, 0, 0]
      for number, start, _ in first:
        counts[int(number), int(start)] += 1
    expected = 9400 / 47
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    # 46 degrees of freedom: 99.9% of fair draws lie below 81.4, 0.1% below 20.
    assert 20 < chi2 < 81.4

  def test_deterministic(self, tmp_path):
    fill(tmp_path, [9, 12, 30])
    replay = Replay(tmp_path, 1000, seed=1)
    batch = replay.sample(7, 16, 4)
    assert_same(batch, Replay(tmp_path, 1000, seed=1).sample(7, 16, 4))
    assert_same(batch, replay.sample(7, 16, 4))
    others = (
      replay.sample(8, 16, 4),
      replay.sample(7, 16, 4, stream=1),
      Replay(tmp_path, 1000, seed=2).sample(7, 16, 4),
    )
    for other in others:
      assert (other['image'] != batch['image']).any()

  def test_online_counts_and_summaries(self, tmp_path):
    replay = Replay(tmp_path / 'replay', 1000, seed=0, owner=True)
    assert (replay.num_episodes, replay.num_frames) == (0, 0)
    with pytest.raises(UserError, match='replay: no episode has ended yet'):
      replay.sample(0, 1, 1)
    summaries = play(replay, [4, 6])
    assert summaries == [
      {'return': 6.0, 'length': 4},
      {'return': 5015.0, 'length': 6},
    ]
    assert (replay.num_episodes, replay.num_frames) == (2, 10)
    assert replay.total_episodes == replay.episodes_on_disk == 2
    stats = replay.stats()
    assert (stats['shortest'], stats['longest']) == (4, 6)
    assert stats['return_mean'] == pytest.approx(2510.5)
    assert replay.sample(0, 2, 6)['action'].shape == (2, 6, 2)

  def test_resumed_run_equals_the_uninterrupted(self, tmp_path):
    before, after = [9, 5, 8, 12, 6, 7], [10, 11, 4]
    whole = Replay(tmp_path / 'whole', 30, 5, owner=True)
    play(whole, before + after)
    run = Replay(tmp_path / 'run', 30, 5, owner=True)
    play(run, before)
    run.release()
    checkpoint = run.total_episodes
    held = run.sample(3, 8, 4)
    play(run, [20, 3, 30], first=6)  # Lost: ended after the checkpoint.
    run = Replay(tmp_path / 'run', 30, 5, owner=True, keep_episodes=checkpoint)
    assert run.total_episodes == 6
    assert_same(run.sample(3, 8, 4), held)
    play(run, after, first=6)
    assert_same(run.sample(4, 8, 4), whole.sample(4, 8, 4))
    again = Replay(tmp_path / 'run', 30, 5, owner=True)
    assert_same(again.sample(4, 8, 4), whole.sample(4, 8, 4))

  def test_capacity(self, tmp_path):
    replay = Replay(tmp_path, 20, seed=0, owner=True)
    held = []
    for number, length in enumerate([6, 9, 5, 3, 8, 50, 2, 18]):
      play(replay, [length], first=number)
      held.append(replay.num_frames)
      # Opened anew, the folder gives what is held now.
      assert Replay(tmp_path, 20, seed=0).stats() == replay.stats()
    # 50 alone exceeds the bound, but the newest is always held.
    assert held == [6, 15, 20, 17, 16, 50, 2, 20]
    assert replay.total_episodes == replay.episodes_on_disk == 8
    replay.release()
    assert [f.index for f in eps.list_episodes(tmp_path)] == [6, 7]
    assert (replay.num_episodes, replay.episodes_on_disk) == (2, 2)

  def test_source_is_only_read(self, tmp_path):
    fill(tmp_path, [6, 9, 3])
    leftover = tmp_path / 'episodes' / ('000011-3.npz' + files.TEMPORARY)
    leftover.write_bytes(b'being written by another')
    replay = Replay(tmp_path, 13, seed=0)
    assert (replay.num_episodes, replay.episodes_on_disk) == (2, 3)
    with pytest.raises(ValueError, match='only read'):
      replay.release()
    with pytest.raises(ValueError, match='only read'):
      play(replay, [3])
    assert len(eps.list_episodes(tmp_path)) == 3
    assert leftover.exists()

  def test_bad_folders(self, tmp_path):
    with pytest.raises(UserError, match='nowhere: no episodes.*collect'):
      Replay(tmp_path / 'nowhere', 10, 0)
    assert not (tmp_path / 'nowhere').exists()
    fill(tmp_path / 'short', [4, 6])
    message = r'short: .* chunks of 50 frames, the longest has 6; lower'
    with pytest.raises(UserError, match=message):
      Replay(tmp_path / 'short', 10, 0).sample(0, 2, 50)
    eps.save(tmp_path / 'short', 2, make_episode(5, action_dim=3))
    with pytest.raises(UserError, match=r"000002-5.npz: 'action' has 3"):
      Replay(tmp_path / 'short', 100, 0)
    with pytest.raises(UserError, match=r'000002-5.npz: .* should be 64x64'):
      Replay(tmp_path / 'short', 5, 0, size=64)
    path = tmp_path / 'short' / 'episodes' / '000002-5.npz'
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match='000002-5.npz: damaged'):
      Replay(tmp_path / 'short', 100, 0)
    with pytest.raises(UserError, match='not 0 and 1'):
      Replay(tmp_path / 'short', 0, 1)

  def test_missing_online_episodes_delete_nothing(self, tmp_path):
    fill(tmp_path, [4, 6, 5, 7])
    (tmp_path / 'episodes' / '000001-6.npz').unlink()
    for keep, message in [(3, 'number 1'), (9, 'number 1'), (None, '4 epis')]:
      with pytest.raises(UserError, match=message):
        Replay(tmp_path, 99, 0, owner=True, keep_episodes=keep)
      assert len(eps.list_episodes(tmp_path)) == 3
    replay = Replay(tmp_path, 99, 0, owner=True, keep_episodes=0)
    assert replay.total_episodes == 0
    assert eps.list_episodes(tmp_path) == []

  def test_invalid_new_episode(self, tmp_path):
    replay = Replay(tmp_path, 99, 0, owner=True, size=8)
    with pytest.raises(UserError, match='new episode 0: .* should be 8x8'):
      play(replay, [3])
    assert eps.list_episodes(tmp_path) == []


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
    replays, metadata = sources.load_sources(folders, 1000, seed=0, size=4)
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
    # The same episodes and seed, but draws of their own.
    assert (frame[0] != frame[1]).any() and (frame[1] != frame[2]).any()
    with pytest.raises(ValueError, match='3 actions cannot hold 4'):
      replays[1].sample(0, 1, 1, pad_actions_to=3)

  def test_bad_sources(self, tmp_path):
    with pytest.raises(UserError, match='config.sources'):
      sources.load_sources([], 10, 0)
    with pytest.raises(UserError, match='nowhere.*missing.*collect'):
      sources.load_sources([tmp_path / 'nowhere'], 10, 0)
    folder = self.make(tmp_path / 'a', [5])
    with pytest.raises(UserError, match='a: its frames are 4x4.*64x64'):
      sources.load_sources([folder], 10, 0, size=64)
    eps.save(folder, 1, make_episode(6))
    with pytest.raises(UserError, match='promises 1 episodes, there are 2'):
      sources.load_sources([folder], 10, 0)
    folder = self.make(tmp_path / 'b', [5], complete=False)
    with pytest.raises(UserError, match='not complete, it has 1 episodes'):
      sources.load_sources([folder], 10, 0)


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

  def test_half_collected(self, tmp_path):
    dataset.write_metadata(tmp_path, 'probe_x', {}, DESCRIPTION, False)
    about = dataset.read_metadata(tmp_path, partial=True)
    assert (about['episodes'], about['return']) == (0, None)
    assert about['success_rate'] is None
    with pytest.raises(UserError, match=re.escape(dataset.COLLECT)):
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
    got = list(prefetch(lambda: iter(range(20)), depth=3, put=lambda x: 2 * x))
    assert got == list(range(0, 40, 2))
    assert list(prefetch(lambda: iter(()))) == []

  def test_on_the_device(self):
    def batches():
      yield {'image': np.full((2, 3), 7, np.uint8)}

    (batch,) = prefetch(batches)
    assert isinstance(batch['image'], jax.Array)
    np.testing.assert_array_equal(batch['image'], np.full((2, 3), 7, np.uint8))

  def test_exceptions_reach_the_consumer(self):
    def broken():
      yield 1
      yield 2
      raise UserError('the third is broken')

    stream = prefetch(broken, depth=2, put=lambda x: x)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(UserError, match='the third is broken'):
      next(stream)
    assert list(stream) == []

  def test_ends_when_closed(self):
    drawn = []

    def endless():
      for index in itertools.count():
        drawn.append(index)
        yield index

    stream = prefetch(endless, depth=2, put=lambda x: x)
    with contextlib.closing(stream):
      assert list(itertools.islice(stream, 5)) == list(range(5))
      deadline = time.monotonic() + 5
      while len(drawn) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert drawn == list(range(7))  # Two ahead, never more.
    assert not any(t.name.startswith('prefetch') for t in threading.enumerate())
