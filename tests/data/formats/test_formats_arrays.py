"""Tests of reading V-D4RL and OGBench: several episodes per array."""

import numpy as np
import pytest

from tests.episode_data import assert_same
from tests.format_data import (
  make,
  open_source,
  shift,
  write_dreamer,
  write_ogbench,
  write_shard,
)
from vid2act_jax.types import UserError

pytest.importorskip('h5py')

EPISODES = [make(6, 1), make(5, 2), make(7, 3), make(6, 4)]


def write_shards(path, **changes):
  return write_shard(path / '0.hdf5', EPISODES, **changes).parent


def write_trajectories(path, **changes):
  return write_ogbench(path / 'o.npz', EPISODES, **changes)


def changed(key, index, value, dtype=None):
  """The rows of all episodes for a key, with one row of the second changed."""
  rows = np.concatenate([e[key] for e in EPISODES]).astype(dtype or np.float32)
  rows[6 + index] = value
  return rows


class TestVd4rl:
  def test_npz(self, tmp_path):
    write_dreamer(tmp_path, EPISODES, transitions=True, is_terminal=None)
    source = open_source('vd4rl', tmp_path)
    assert_same(source.read(1), EPISODES[1])
    write_shard(tmp_path / '0.hdf5', EPISODES)
    with pytest.raises(UserError, match='holds both'):
      open_source('vd4rl', tmp_path)

  def test_incomplete_episodes(self, tmp_path):
    step_types = [1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0, 1]
    episode = make(12)
    episode['action'][[2, 7]] = episode['reward'][[2, 7]] = 0
    write_shard(
      tmp_path / '0.hdf5', [episode], step_type=step_types, height=[1]
    )
    source = open_source('vd4rl', tmp_path)
    assert [source.name(i) for i in range(2)] == ['0.hdf5[2:5]', '0.hdf5[7:10]']
    assert source.read(1)['image'][:, 0, 0, 1].tolist() == [7, 8, 9]
    lost = '6 rows of 0.hdf5: not a complete episode'
    assert source.metadata == {'alignment': 'prev', 'dropped': ['height', lost]}
    source.close()

  def test_next_action_alignment(self, tmp_path):
    episode = make(6)
    other = {k: shift(episode[k]) for k in ('action', 'reward')}
    write_shard(tmp_path / '0.hdf5', [{**episode, **other}])
    with pytest.raises(UserError, match='--align next'):
      open_source('vd4rl', tmp_path).read(0)
    assert_same(open_source('vd4rl', tmp_path, align='next').read(0), episode)

  def test_a_shard_without_rewards_among_others(self, tmp_path):
    path = write_shards(tmp_path, reward=None)
    write_shard(path / '1.hdf5', EPISODES[2:3])
    source = open_source('vd4rl', path)
    assert 'has_rewards' not in source.metadata
    with pytest.raises(UserError, match="0.hdf5: missing 'reward'"):
      source.read(0)
    assert_same(source.read(1), EPISODES[2])
    source.close()

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'reward': changed('reward', 2, np.nan)}, "'reward' is not finite"),
      ({'action': changed('action', 2, 7)}, 'should stay within'),
      ({'observation': np.zeros((24, 3, 4, 6), 'u1')}, 'should be square'),
      ({'observation': np.zeros((24, 3, 4, 4), 'f4')}, 'should be uint8'),
      ({'step_type': None}, "missing 'step_type'"),
      ({'step_type': np.ones(24)}, 'holds no complete episode'),
      ({'reward': np.zeros(9)}, 'differ in length'),
      ({'action': np.zeros((0, 2))}, 'differ in length'),
      ({'reward': np.zeros(24, 'S2')}, 'should be numbers'),
    ],
  )
  def test_damage(self, tmp_path, changes, message):
    path = write_shards(tmp_path, **changes)
    write_shard(path / '1.hdf5', EPISODES[2:3])
    source = open_source('vd4rl', path)
    with pytest.raises(UserError, match=f'0.hdf5.*{message}'):
      source.read(1 if len(source) > 2 else 0)
    assert_same(source.read(len(source) - 1), EPISODES[2])
    source.close()

  def test_damaged_bytes(self, tmp_path):
    path = write_shard(tmp_path / '0.hdf5', EPISODES)
    write_shard(tmp_path / '1.hdf5', EPISODES)
    whole = path.read_bytes()
    for data in (b'', b'text', whole[: len(whole) // 2]):
      path.write_bytes(data)
      source = open_source('vd4rl', tmp_path)
      with pytest.raises(UserError, match='0.hdf5: damaged'):
        source.read(0)
      assert_same(source.read(1), EPISODES[0])
      source.close()


class TestOgbench:
  def test_metadata(self, tmp_path):
    """Missing rewards are zeros; rows after the last terminal are skipped."""
    terminals = np.concatenate([e['is_last'] for e in EPISODES])
    terminals[-1] = 0
    path = write_trajectories(tmp_path, rewards=None, terminals=terminals * 1.0)
    source = open_source('ogbench', path)
    zeros = np.zeros(5, np.float32)
    assert_same(source.read(1), {**EPISODES[1], 'reward': zeros})
    assert source.metadata['has_rewards'] is False
    last, *dropped = source.metadata['dropped']
    assert last.startswith('the last action') and len(source) == 3
    assert dropped == ['qpos', 'the last 6 rows: incomplete trajectory']
    source.close()

  def test_prev_action_alignment(self, tmp_path):
    path = write_trajectories(tmp_path, prev_action=True)
    source = open_source('ogbench', path, align='prev')
    assert_same(source.read(1), EPISODES[1])
    assert source.metadata['dropped'] == ['qpos']
    path = write_trajectories(tmp_path)
    with pytest.raises(UserError, match='--align next'):
      open_source('ogbench', path, align='prev').read(1)

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'rewards': changed('reward', 2, np.nan)}, "'reward' is not finite"),
      ({'actions': changed('action', 2, 7)}, 'should stay within'),
      ({'observations': np.zeros((24, 4, 6, 3), 'u1')}, 'should be square'),
      ({'observations': np.zeros((24, 9), 'f4')}, 'should be uint8'),
      ({'rewards': np.zeros(24, 'S2')}, 'should be numbers'),
    ],
  )
  def test_damaged_trajectory(self, tmp_path, changes, message):
    source = open_source('ogbench', write_trajectories(tmp_path, **changes))
    with pytest.raises(UserError, match=f'o.npz, episode 1: .*{message}'):
      source.read(1)
    if changes.keys() & {'rewards', 'actions'} and 'finite' in message:
      source.read(2)
    source.close()

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'observations': None}, "missing 'observations', has 'actions'"),
      ({'terminals': np.zeros(24)}, "'terminals' is never set"),
      ({'terminals': np.full(24, 7)}, "'terminals' should be 0 or 1"),
      ({'terminals': np.zeros(0)}, 'differ in length'),
      ({'actions': np.zeros((9, 2))}, 'differ in length'),
      ({'rewards': np.array([{}] * 24)}, 'damaged or not'),
    ],
  )
  def test_damaged_file(self, tmp_path, changes, message):
    with pytest.raises(UserError, match=f'o.npz: .*{message}'):
      open_source('ogbench', write_trajectories(tmp_path, **changes))

  def test_damaged_bytes(self, tmp_path):
    path = write_trajectories(tmp_path)
    whole = bytearray(path.read_bytes())
    for data in (b'', b'text', whole[: len(whole) // 2]):
      path.write_bytes(data)
      with pytest.raises(UserError, match='o.npz: damaged'):
        open_source('ogbench', path)
    whole[60:100] = bytes(40)  # within the first array, the observations
    path.write_bytes(whole)
    with pytest.raises(UserError, match='damaged'):
      open_source('ogbench', path).read(1)
