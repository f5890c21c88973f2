"""Tests of episodes and of splitting a stream of steps into episodes."""

import numpy as np
import pytest

from tests.episode_data import (
  assert_same,
  make_episode,
)
from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.types import UserError


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

  def test_listing_sorts_and_ignores_temporary_files(self, tmp_path):
    for index in (10, 2, 1000000):
      eps.save(tmp_path, index, make_episode(3))
    temporary = tmp_path / 'episodes' / ('000011-3.npz' + files.TEMPORARY)
    temporary.write_bytes(b'half')
    assert [f.index for f in eps.list_episodes(tmp_path)] == [2, 10, 1000000]
    eps.clean(tmp_path)
    assert not temporary.exists()
    assert eps.list_episodes(tmp_path / 'nothing') == []

  def test_interrupted_write_leaves_no_file(self, tmp_path, monkeypatch):
    def full(file, arrays):
      file.write(b'some of it')
      raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files, 'write_npz', full)
    with pytest.raises(UserError, match='000000-8.npz.*No space left'):
      eps.save(tmp_path, 0, make_episode())
    assert list((tmp_path / 'episodes').iterdir()) == []

  def test_existing_index_and_invalid_names(self, tmp_path):
    eps.save(tmp_path, 0, make_episode(3))
    with pytest.raises(UserError, match='000000-3.npz: already exists'):
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
    with pytest.raises(UserError, match='file/episodes: cannot create'):
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
  def test_validation_errors(self, change, message):
    episode = make_episode(8)
    eps.validate(episode, 'name', size=4, action_dim=2)
    for key, value in change.items():
      if value is None:
        del episode[key]
      elif isinstance(value, np.ndarray):
        episode[key] = value
      else:
        episode[key][5] = float(value)
    with pytest.raises(UserError, match='^name: .*' + message):
      eps.validate(episode, 'name', size=4, action_dim=2)

  def test_validation_bounds(self):
    episode = make_episode(8)
    episode['action'][3] = 1.0005
    eps.validate(episode, 'name')
    with pytest.raises(UserError, match='should be 64x64'):
      eps.validate(episode, 'name', size=64)
    with pytest.raises(UserError, match='name: holds no frames'):
      eps.validate({k: v[:0] for k, v in episode.items()}, 'name')

  def test_damaged_files(self, tmp_path):
    """Damaged files give the original arrays or a clear error."""
    episode = make_episode(20, size=8)
    path = eps.save(tmp_path, 0, episode)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    num_errors = 0
    for attempt in range(200):
      damaged = bytearray(whole)
      if attempt % 2:
        for index in random.integers(0, len(whole), 3):
          damaged[index] ^= int(random.integers(1, 256))
      else:
        damaged = damaged[: random.integers(0, len(whole))]
      path.write_bytes(damaged)
      try:
        arrays = eps.load(path)
        eps.validate(arrays, path)
        assert_same(arrays, episode)
      except UserError as error:
        assert str(path) in str(error)
        num_errors += 1
    assert num_errors > 150

  def test_wrong_files(self, tmp_path):
    path = eps.save(tmp_path, 0, make_episode(8))
    longer = path.rename(path.with_name('000000-9.npz'))
    with pytest.raises(UserError, match=r'says 9 frames.*\[8\]'):
      eps.load(longer)
    np.savez(path, image=np.array([{}], dtype=object))
    with pytest.raises(UserError, match='000000-8.npz: damaged or not'):
      eps.load(path)
    np.savez(path, other=np.zeros(8))
    with pytest.raises(UserError, match="'reward' is missing"):
      eps.load_summary(path)
    with pytest.raises(UserError, match='gone.npz: cannot be read'):
      eps.load(tmp_path / 'gone.npz')


class TestEpisodeBuilder:
  def test_environments_with_different_lengths(self):
    lengths = [[4, 3, 5], [6, 2, 4]]
    streams = []
    for env, row in enumerate(lengths):
      episodes = [make_episode(n, 10 * env + i) for i, n in enumerate(row)]
      streams.append(
        {k: np.concatenate([e[k] for e in episodes]) for k in episodes[0]}
      )
    builder, ended = EpisodeBuilder(), []
    shared = {k: np.stack([s[k][0] for s in streams]) for k in streams[0]}
    for t in range(12):
      for key, value in shared.items():
        value[...] = [s[key][t] for s in streams]
      obs = {k: v for k, v in shared.items() if k != 'action'}
      # Actions at resets must be ignored.
      action = np.where(obs['is_first'][:, None], 9, shared['action'])
      ended += builder.add({**obs, 'log_x': np.zeros(2)}, action)
    assert [e['image'][0, 0, 0, 0] for e in ended] == [0, 10, 1, 11, 2, 12]
    for episode, length in zip(ended, [4, 6, 3, 2, 5, 4], strict=True):
      number = int(episode['image'][0, 0, 0, 0])
      expected = make_episode(length, number)
      assert_same(episode, {k: expected[k] for k in episode})
      assert len(episode) == len(expected)

  def test_interrupted_and_invalid_streams(self):
    episode = make_episode(3)
    rows = [{k: v[t][None] for k, v in episode.items()} for t in range(3)]
    builder = EpisodeBuilder()
    with pytest.raises(ValueError, match='Environment 0 has not been reset'):
      builder.add(rows[1], rows[1]['action'])
    ended = []
    for t in (0, 1, 0, 1, 2):
      ended += builder.add(rows[t], rows[t]['action'])
    assert [len(e['reward']) for e in ended] == [3]
    floats = {**rows[0], 'image': np.ones((1, 4, 4, 3))}
    with pytest.raises(TypeError):
      builder.add(floats, np.zeros((1, 2)))
