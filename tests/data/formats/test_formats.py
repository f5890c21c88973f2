"""Tests of import and export formats: npz and HDF5."""

import importlib

import numpy as np
import pytest

from tests.episode_data import DESCRIPTION, assert_same
from tests.format_data import (
  make,
  open_source,
  shift,
  write_dreamer,
  write_ogbench,
  write_shard,
)
from vid2act_jax.data import dataset, formats
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

pytest.importorskip('h5py')

EPISODES = [make(6, 1), make(5, 2), make(7, 3), make(6, 4)]
WRITERS = {
  'dreamer': lambda path, **k: write_dreamer(path / 'npz', EPISODES, **k),
  'vd4rl': lambda path, **k: write_shard(path / '0.hdf5', EPISODES, **k).parent,
  'ogbench': lambda path, **k: write_ogbench(path / 'o.npz', EPISODES, **k),
}


class TestAll:
  @pytest.mark.parametrize('format', WRITERS)
  def test_reads_bit_for_bit(self, tmp_path, format):
    source = open_source(format, WRITERS[format](tmp_path))
    assert len(source) == 4
    assert len({source.name(i) for i in range(4)}) == 4
    for index, episode in enumerate(EPISODES):
      assert_same(source.read(index), episode)
    source.close()

  @pytest.mark.parametrize('format', WRITERS)
  def test_random_order(self, tmp_path, format):
    source = open_source(format, WRITERS[format](tmp_path))
    for index in (2, 3, 0):
      assert_same(source.read(index), EPISODES[index])
    source.close()

  @pytest.mark.parametrize('format', [*WRITERS, 'vd4rl npz'])
  def test_without_rewards(self, tmp_path, format):
    name = format.split()[0]
    if name == 'ogbench':
      path = WRITERS[name](tmp_path, rewards=None)
    elif format == 'vd4rl':
      path = WRITERS[name](tmp_path, reward=None)
    else:
      bare = [{k: v for k, v in e.items() if k != 'reward'} for e in EPISODES]
      path = write_dreamer(tmp_path / 'npz', bare)
    source = open_source(name, path)
    assert source.metadata['has_rewards'] is False
    for index, episode in enumerate(EPISODES):
      zeros = np.zeros_like(episode['reward'])
      assert_same(source.read(index), {**episode, 'reward': zeros})
    source.close()

  @pytest.mark.parametrize('format', WRITERS)
  def test_size_and_flips(self, tmp_path, format):
    random = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    rows = np.concatenate([random] + [e['image'] for e in EPISODES[1:]])
    if format == 'dreamer':
      path = write_dreamer(tmp_path, [{**EPISODES[0], 'image': random}])
    elif format == 'vd4rl':
      path = WRITERS[format](tmp_path, observation=rows.transpose(0, 3, 1, 2))
    else:
      path = WRITERS[format](tmp_path, observations=rows)
    source = open_source(format, path, size=2, flips=('vertical', 'horizontal'))
    image = source.read(0)['image']
    area = random.reshape(6, 2, 2, 2, 2, 3).mean((2, 4))[:, ::-1, ::-1]
    assert np.abs(image - area).max() <= 1  # Rounded twice.
    source.close()

  def test_unknown_and_missing(self, tmp_path, monkeypatch):
    with pytest.raises(
      UserError, match='zarr: not a supported format.* dreamer, vd4rl'
    ):
      open_source('zarr', tmp_path)
    with pytest.raises(
      UserError, match='ogbench: not a supp.* dreamer, minari'
    ):
      formats.export('ogbench', tmp_path, tmp_path, print)
    for format in ('dreamer', 'vd4rl', 'lerobot'):
      with pytest.raises(UserError, match='gone: not a folder'):
        open_source(format, tmp_path / 'gone')
    with pytest.raises(UserError, match='not a file'):
      open_source('ogbench', tmp_path)
    with pytest.raises(UserError, match=r'no \*.npz'):
      open_source('dreamer', tmp_path)
    with pytest.raises(UserError, match=r'neither \*.npz nor \*.hdf5'):
      open_source('vd4rl', tmp_path)
    path = WRITERS['vd4rl'](tmp_path / 'shards')
    original = importlib.import_module

    def absent(name, *args):
      if name.split('.')[0] in ('h5py', 'minari', 'pyarrow', 'google_crc32c'):
        raise ModuleNotFoundError(f'No module named {name!r}')
      return original(name, *args)

    monkeypatch.setattr(importlib, 'import_module', absent)
    for format in ('vd4rl', 'minari', 'lerobot', 'rlds'):
      with pytest.raises(UserError, match=r'pip install "vid2act_jax\[formats'):
        open_source(format, path)

  @pytest.mark.parametrize('format', WRITERS)
  def test_no_bounds_to_scale(self, tmp_path, format):
    with pytest.raises(UserError, match='leave --scale-actions out'):
      open_source(format, WRITERS[format](tmp_path), scale_actions=True)


class TestDreamer:
  def test_optional_and_unknown_arrays(self, tmp_path):
    """Float64 arrays, numeric flags, unknown keys, missing flags."""
    episode = make(6, state=np.ones((6, 3), np.float32))
    episode['success'] = episode['is_last']
    episode['discount'][-1] = 0
    written = {
      **{k: episode[k].astype(np.float64) for k in ('action', 'reward')},
      'success': episode['success'].astype(np.float64),
      'state': episode['state'].astype(np.float16),
      **{k: episode[k] for k in ('image', 'discount')},
      'logprob': np.zeros(6),
      'ram': np.zeros((6, 9)),
    }
    write_dreamer(tmp_path / 'a' / 'b', [written], transitions=True)
    source = open_source('dreamer', tmp_path)
    assert source.name(0) == 'a/b/2023-0-5.npz'
    episode['is_terminal'] = episode['is_last']
    assert_same(source.read(0), episode)
    assert source.metadata == {
      'alignment': 'prev',
      'dropped': ['logprob', 'ram'],
    }

  def test_image_key(self, tmp_path):
    episode = make(6)
    path = write_dreamer(tmp_path, [{**episode, 'side': episode['image'] + 9}])
    source = open_source('dreamer', path, image_key='side')
    assert source.read(0)['image'][3, 0, 0].tolist() == [9, 12, 9]
    assert source.metadata['dropped'] == ['image']

  def test_next_action_alignment(self, tmp_path):
    episode = make(6)
    other = {k: shift(episode[k]) for k in ('action', 'reward')}
    write_dreamer(tmp_path, [{**episode, **other}])
    with pytest.raises(UserError, match="'action' is not zero .* --align next"):
      open_source('dreamer', tmp_path).read(0)
    source = open_source('dreamer', tmp_path, align='next')
    assert_same(source.read(0), episode)
    assert source.metadata['dropped'][0].startswith('the last action')

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'image': None}, "missing 'image', has 'action'"),
      ({'reward': None, 'discount': None}, "missing 'reward'"),
      ({'image': np.zeros((5, 4, 4, 3), 'f4')}, 'is float32, should be uint8'),
      ({'image': np.zeros((5, 4, 6, 3), 'u1')}, '4x6, should be square'),
      ({'image': np.zeros((5, 4, 4, 2), 'u1')}, 'choose another image'),
      (
        {'image': np.zeros((3, 4, 4, 3), 'u1')},
        'the number in the name should be',
      ),
      ({'image': np.zeros((0, 4, 4, 3), 'u1')}, 'holds no frames'),
      ({'image': np.uint8(3)}, 'damaged or not of this format'),
      ({'reward': np.full(5, np.nan)}, "'reward' is not finite"),
      ({'reward': np.zeros(4)}, "'reward' has 4 rows, the actions 5"),
      ({'reward': np.zeros(5, 'S3')}, r"'reward' is \|S3, should be numbers"),
      ({'reward': np.array([{}] * 5)}, 'damaged or not'),
      ({'action': np.float32(0)}, '5 frames and 0 actions'),
      ({'action': np.zeros((4, 2))}, '5 frames and 4 actions'),
      ({'action': np.eye(5, 2, -1) * 3}, 'from 0 to 3.* scale the source'),
      ({'action': np.full((5, 2), np.nan)}, "'action' is not finite"),
      ({'success': np.full(5, 0.5)}, "'success' should be 0 or 1"),
      ({'is_last': np.zeros(5)}, "'is_last' must be set at frame 4"),
      ({'discount': np.full(5, 2.0)}, "'discount' runs from 2 to 2"),
    ],
  )
  def test_damage(self, tmp_path, changes, message):
    source = open_source('dreamer', WRITERS['dreamer'](tmp_path, **changes))
    with pytest.raises(UserError, match=f'2023-1-5.npz: .*{message}'):
      source.read(1)
    assert_same(source.read(2), EPISODES[2])

  def test_damaged_bytes(self, tmp_path):
    path = WRITERS['dreamer'](tmp_path) / '2023-1-5.npz'
    whole = path.read_bytes()
    source = open_source('dreamer', path.parent)
    for data in (b'', b'text', whole[:-30], whole[: len(whole) // 2]):
      path.write_bytes(data)
      with pytest.raises(UserError, match='2023-1-5.npz: damaged'):
        source.read(1)
    path.unlink()
    with pytest.raises(UserError, match='2023-1-5.npz: cannot be read'):
      source.read(1)

  def test_export(self, tmp_path):
    episode = make(6, 9, state=np.ones((6, 3), np.float32))
    episode['success'] = episode['is_terminal'] = episode['is_last']
    episode['discount'][3] = 0.5
    episodes = [*EPISODES, episode]
    for index, each in enumerate(episodes):
      eps.save(tmp_path / 'ours', 2 * index, each)
    dataset.write_metadata(
      tmp_path / 'ours', 'dmc_a/b-c', {}, DESCRIPTION, True
    )
    progress, out = [], tmp_path / 'theirs' / 'deep'
    for _ in range(2):
      done = formats.export(
        'dreamer', tmp_path / 'ours', out, lambda *args: progress.append(args)
      )
      assert done == {'episodes': 5, 'lost': []}
      (out / 'dmc_a_b_c-000002-5.npz').unlink()
      untouched = out / 'dmc_a_b_c-000000-6.npz'
      stamp = untouched.stat().st_mtime_ns
    assert progress == [(i, 5) for i in range(1, 6)] * 2
    formats.export('dreamer', tmp_path / 'ours', out, print)
    assert untouched.stat().st_mtime_ns == stamp
    source = open_source('dreamer', out)
    for index, each in enumerate(episodes):
      assert_same(source.read(index), each)
    assert source.metadata['dropped'] == []
