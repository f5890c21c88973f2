"""Tests of replay: capacity, sampling and resuming."""

import numpy as np
import pytest

from tests.episode_data import (
  assert_same,
  fill,
  make_episode,
  play,
)
from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files, store
from vid2act_jax.data.replay import Replay, ReplayOptions
from vid2act_jax.types import UserError

# Bytes per frame of the episodes in these tests.
FRAME = store.record_bytes(store.frame_columns(size=4, action_dim=2))


class TestReplay:
  def test_chunks(self, tmp_path):
    """Chunks are consecutive frames of one episode, with their prev_action."""
    replay = Replay(fill(tmp_path, [7, 20, 5, 3, 31]), 1000 * FRAME, seed=0)
    batch = replay.sample(0, batch=400, length=5)
    assert batch['image'].shape == (400, 5, 4, 4, 3)
    dtypes = {k: v.dtype.name for k, v in batch.items()}
    assert dtypes == {
      'image': 'uint8',
      'action': 'float32',
      'reward': 'float32',
      'is_first': 'bool',
      'discount': 'float32',
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
    replay = Replay(fill(tmp_path, lengths), 1000 * FRAME, seed=3)
    starts = [
      (n, t) for n, T in enumerate(lengths) for t in range(T - length + 1)
    ]
    assert replay.num_starts(length) == len(starts) == 47
    counts = dict.fromkeys(starts, 0)
    for index in range(100):
      first = replay.sample(index, 94, length)['image'][:, 0, 0, 0]
      for number, start, _ in first:
        counts[int(number), int(start)] += 1
    expected = 9400 / 47
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    # 46 degrees of freedom: 99.9% of uniform samples are below 81.4, 0.1% below
    # 20.
    assert 20 < chi2 < 81.4

  def test_deterministic(self, tmp_path):
    fill(tmp_path, [9, 12, 30])
    replay = Replay(tmp_path, 1000 * FRAME, seed=1)
    batch = replay.sample(7, 16, 4)
    assert_same(batch, Replay(tmp_path, 1000 * FRAME, seed=1).sample(7, 16, 4))
    assert_same(batch, replay.sample(7, 16, 4))
    others = (
      replay.sample(8, 16, 4),
      replay.sample(7, 16, 4, stream=1),
      Replay(tmp_path, 1000 * FRAME, seed=2).sample(7, 16, 4),
    )
    for other in others:
      assert (other['image'] != batch['image']).any()

  def test_online_counts_and_summaries(self, tmp_path):
    replay = Replay(tmp_path / 'replay', 1000 * FRAME, seed=0, owner=True)
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

  def test_resumed_run_equals_uninterrupted_run(self, tmp_path):
    first_part, second_part = [9, 5, 8, 12, 6, 7], [10, 11, 4]
    whole = Replay(tmp_path / 'whole', 30 * FRAME, 5, owner=True)
    play(whole, first_part + second_part)
    run = Replay(tmp_path / 'run', 30 * FRAME, 5, owner=True)
    play(run, first_part)
    run.delete_evicted()
    checkpoint = run.total_episodes
    held = run.sample(3, 8, 4)
    play(run, [20, 3, 30], first=6)  # After the checkpoint: deleted.
    run = Replay(
      tmp_path / 'run', 30 * FRAME, 5, owner=True, keep_episodes=checkpoint
    )
    assert run.total_episodes == 6
    assert_same(run.sample(3, 8, 4), held)
    play(run, second_part, first=6)
    assert_same(run.sample(4, 8, 4), whole.sample(4, 8, 4))
    again = Replay(tmp_path / 'run', 30 * FRAME, 5, owner=True)
    assert_same(again.sample(4, 8, 4), whole.sample(4, 8, 4))

  def test_capacity(self, tmp_path):
    replay = Replay(tmp_path, 20 * FRAME, seed=0, owner=True)
    held = []
    for number, length in enumerate([6, 9, 5, 3, 8, 20, 2, 18]):
      play(replay, [length], first=number)
      held.append(replay.num_frames)
      # A new replay of the folder holds the same episodes.
      again = Replay(tmp_path, 20 * FRAME, seed=0)
      assert again.stats() == replay.stats()
      assert_same(again.sample(0, 8, 2), replay.sample(0, 8, 2))
    assert held == [6, 15, 20, 17, 16, 20, 2, 20]
    assert replay.total_episodes == replay.episodes_on_disk == 8
    assert replay.stats()['bytes'] == replay.stats()['capacity_bytes']
    replay.delete_evicted()
    assert [f.index for f in eps.list_episodes(tmp_path)] == [6, 7]
    assert (replay.num_episodes, replay.episodes_on_disk) == (2, 2)
    with pytest.raises(
      UserError, match='000008-21.npz: 21 frames are more.*20'
    ):
      play(replay, [21], first=8)

  def test_keep_all_keeps_evicted_episodes(self, tmp_path):
    options = ReplayOptions(keep_all=True)
    replay = Replay(tmp_path, 20 * FRAME, 0, options, owner=True)
    play(replay, [15, 15, 15])
    replay.delete_evicted()
    assert (replay.num_episodes, len(eps.list_episodes(tmp_path))) == (1, 3)

  def test_chunks_across_episodes(self, tmp_path):
    """With `cross_episodes`, every frame with enough after it is a start."""
    lengths, length = [3, 2, 4, 9], 5
    fill(tmp_path, lengths, terminal=True)
    options = ReplayOptions(cross_episodes=True)
    replay = Replay(tmp_path, 1000 * FRAME, 0, options)
    assert replay.num_starts(length) == sum(lengths) - length + 1
    assert replay.num_starts(sum(lengths) + 1) == 0
    batch = replay.sample(0, 300, length)
    stream = [(n, t) for n, T in enumerate(lengths) for t in range(T)]
    seen = set()
    for row in range(300):
      frames = batch['image'][row, :, 0, 0, :2].astype(int)
      start = stream.index(tuple(frames[0]))
      assert frames.tolist() == [list(p) for p in stream[start:][:length]]
      first = batch['is_first'][row]
      np.testing.assert_array_equal(first, frames[:, 1] == 0)
      terminal = [t == lengths[n] - 1 for n, t in frames]
      np.testing.assert_array_equal(batch['discount'][row], np.invert(terminal))
      seen.add(start)
    assert seen == set(range(replay.num_starts(length)))

  def test_source_is_only_read(self, tmp_path):
    fill(tmp_path, [6, 9, 3])
    temporary = tmp_path / 'episodes' / ('000011-3.npz' + files.TEMPORARY)
    temporary.write_bytes(b'partial')
    replay = Replay(tmp_path, 13 * FRAME, seed=0)
    assert (replay.num_episodes, replay.episodes_on_disk) == (2, 3)
    with pytest.raises(ValueError, match='only read'):
      replay.delete_evicted()
    with pytest.raises(ValueError, match='only read'):
      play(replay, [3])
    assert len(eps.list_episodes(tmp_path)) == 3
    assert temporary.exists()

  def test_invalid_folders(self, tmp_path):
    with pytest.raises(UserError, match='nowhere: no episodes.*collect'):
      Replay(tmp_path / 'nowhere', 10 * FRAME, 0)
    assert not (tmp_path / 'nowhere').exists()
    fill(tmp_path / 'short', [4, 6])
    message = r'short: .* chunks of 50 frames, the longest has 6$'
    with pytest.raises(UserError, match=message):
      Replay(tmp_path / 'short', 10 * FRAME, 0).sample(0, 2, 50)
    eps.save(tmp_path / 'short', 2, make_episode(5, action_dim=3))
    with pytest.raises(UserError, match=r"000002-5.npz: 'action' has 3"):
      Replay(tmp_path / 'short', 100 * FRAME, 0)
    with pytest.raises(UserError, match=r'000000-4.npz: .* should be 64x64'):
      Replay(tmp_path / 'short', 5 * FRAME, 0, ReplayOptions(size=64))
    path = tmp_path / 'short' / 'episodes' / '000002-5.npz'
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match='000002-5.npz: damaged'):
      Replay(tmp_path / 'short', 100 * FRAME, 0)
    with pytest.raises(UserError, match='not 0 and 1'):
      Replay(tmp_path / 'short', 0, 1)

  def test_missing_online_episodes_delete_nothing(self, tmp_path):
    fill(tmp_path, [4, 6, 5, 7])
    (tmp_path / 'episodes' / '000001-6.npz').unlink()
    for keep, message in [(3, 'number 1'), (9, 'number 1'), (None, '4 epis')]:
      with pytest.raises(UserError, match=message):
        Replay(tmp_path, 99 * FRAME, 0, owner=True, keep_episodes=keep)
      assert len(eps.list_episodes(tmp_path)) == 3
    replay = Replay(tmp_path, 99 * FRAME, 0, owner=True, keep_episodes=0)
    assert replay.total_episodes == 0
    assert eps.list_episodes(tmp_path) == []

  def test_invalid_new_episode(self, tmp_path):
    options = ReplayOptions(size=8)
    replay = Replay(tmp_path, 99 * FRAME, 0, options, owner=True)
    with pytest.raises(UserError, match='new episode 0: .* should be 8x8'):
      play(replay, [3])
    assert eps.list_episodes(tmp_path) == []
