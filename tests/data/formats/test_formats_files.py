"""Tests of links, odd optional parts, and LeRobot's images and statistics."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.episode_data import assert_same
from tests.format_data import (
  CAMERA,
  open_source,
  solved,
  write_dreamer,
  write_lerobot,
  write_minari,
  write_shard,
  write_video,
)
from vid2act_jax.data.formats import notes
from vid2act_jax.types import UserError

pytest.importorskip('h5py')
pytest.importorskip('minari')
pyarrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')

EPISODE = solved(6, 1, 16)
WRITERS = {
  'dreamer': lambda path: write_dreamer(path, [EPISODE]),
  'vd4rl': lambda path: write_shard(path / '0.hdf5', [EPISODE]).parent,
  'lerobot': lambda path: write_lerobot(path, [EPISODE], video=False),
}


class TestOptionalParts:
  def test_rounding_of_discounts(self, tmp_path):
    discount = np.full(6, 1.0000002)
    path = write_dreamer(tmp_path, [{**EPISODE, 'discount': discount}])
    assert open_source('dreamer', path).read(0)['discount'].max() == 1

  def test_state_that_is_not_finite(self, tmp_path):
    state = np.full((6, 2), np.nan)
    path = write_dreamer(tmp_path, [{**EPISODE, 'state': state}])
    source = open_source('dreamer', path)
    assert 'state' not in source.read(0)
    assert source.metadata['dropped'] == ['state']
    with pytest.raises(UserError, match="'state' is not finite"):
      open_source('dreamer', path, state_key='state').read(0)

  def test_ends_that_are_not_known(self, tmp_path):
    bare = {k: EPISODE[k] for k in ('image', 'action', 'reward')}
    source = open_source('dreamer', write_dreamer(tmp_path, [bare]))
    episode = source.read(0)
    assert episode['discount'].all() and not episode['is_terminal'].any()
    (text,) = notes.describe(source.metadata)
    assert "neither 'discount' nor 'is_terminal'" in text

  def test_shards_without_discounts(self, tmp_path):
    write_shard(tmp_path / '0.hdf5', [EPISODE], discount=None)
    write_shard(tmp_path / '1.hdf5', [EPISODE])
    source = open_source('vd4rl', tmp_path)
    for index in (0, 1):
      assert source.read(index)['discount'].all()
    assert "neither 'discount'" in notes.describe(source.metadata)[0]
    source.close()

  def test_grey_minari(self, tmp_path):
    grey = EPISODE['image'][..., 1:2]
    path = write_minari(tmp_path / 'a', [{**EPISODE, 'image': grey}])
    image = open_source('minari', path).read(0)['image']
    np.testing.assert_array_equal(image, np.repeat(grey, 3, -1))


class TestLinks:
  @pytest.mark.parametrize('format', WRITERS)
  def test_folders_and_files(self, tmp_path, format):
    """Links are followed; a loop is read once; a broken link is an error."""
    whole = WRITERS[format](tmp_path / 'disk' / 'whole')
    expected = open_source(format, whole).read(0)
    linked = tmp_path / 'linked'
    shutil.copytree(whole, linked)
    deepest = max(linked.rglob('*'), key=lambda p: len(p.parts)).parent
    if deepest == linked:  # The files themselves.
      for file in list(linked.iterdir()):
        file.unlink()
        file.symlink_to(whole / file.name)
      (linked / 'loop').symlink_to(linked)
      (linked / 'other').symlink_to(tmp_path / 'disk')
    else:
      shutil.rmtree(linked / 'meta' / 'episodes' / 'chunk-000')
      target = whole / 'meta' / 'episodes' / 'chunk-000'
      (linked / 'meta' / 'episodes' / 'chunk-000').symlink_to(target)
    source = open_source(format, linked)
    assert_same(source.read(0), expected)
    assert len(source) == (1 if format == 'lerobot' else 2)

  def test_broken(self, tmp_path):
    path = write_dreamer(tmp_path, [EPISODE])
    (path / 'x-6.npz').symlink_to(tmp_path / 'gone.npz')
    source = open_source('dreamer', path)
    with pytest.raises(UserError, match='x-6.npz: cannot be read'):
      source.read(1)


class TestLerobotImages:
  def encode(self, tmp_path, encode, **row):
    """An image dataset whose cells are encoded by a function."""

    def change(rows):
      frames = zip(rows, EPISODE['image'], strict=True)
      return [{**r, CAMERA: {'bytes': encode(f), **row}} for r, f in frames]

    return write_lerobot(tmp_path, [EPISODE], video=False, data=change)

  @pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'I;16', 'WEBP'])
  def test_modes(self, tmp_path, mode):
    def encode(frame):
      data, image = io.BytesIO(), Image.fromarray(frame)
      if mode == 'WEBP':
        image.save(data, 'WEBP', lossless=True)
      elif mode == 'I;16':
        Image.fromarray(frame[..., 0].astype(np.uint16) * 99).save(data, 'PNG')
      else:
        image.convert(mode).save(data, 'PNG')
      return data.getvalue()

    source = open_source('lerobot', self.encode(tmp_path, encode))
    if mode == 'I;16':
      with pytest.raises(UserError, match='has the mode I;16, should be RGB'):
        source.read(0)
      return
    image = source.read(0)['image']
    if mode == 'L':
      assert (image[..., :1] == image).all()
    elif mode != 'P':
      np.testing.assert_array_equal(image, EPISODE['image'])

  def test_separate_files(self, tmp_path):
    path = self.encode(tmp_path, lambda frame: None, path='images/0.png')
    with pytest.raises(UserError, match='in a separate file'):
      open_source('lerobot', path).read(0)
    os.mkdir(tmp_path / 'images')
    Image.fromarray(EPISODE['image'][2]).save(tmp_path / 'images' / '0.png')
    image = open_source('lerobot', path).read(0)['image']
    np.testing.assert_array_equal(image[5], EPISODE['image'][2])

  @pytest.mark.parametrize(
    'stats',
    [
      {'observation.state': {'min': [0], 'max': [1]}},
      {'action': {'mean': [0, 0], 'std': [1, 1]}},
      {'action': {'min': [np.nan, 0], 'max': [1, 1]}},
      {'action': [1, 2]},
      [],
    ],
  )
  def test_statistics_that_nobody_needs(self, tmp_path, stats):
    path = write_lerobot(tmp_path, [EPISODE], video=False)
    (path / 'meta' / 'stats.json').write_text(json.dumps(stats))
    found = open_source('lerobot', path).read(0)['action']
    np.testing.assert_array_equal(found, EPISODE['action'])
    with pytest.raises(UserError, match='leave --scale-actions out'):
      open_source('lerobot', path, scale_actions=True)


class TestLerobotV2:
  EPISODES = [solved(6, 1), solved(5, 2)]

  def convert(self, path, video):
    """One table and one video for each episode, in chunks of one."""
    write_lerobot(path, self.EPISODES, video=False, version='v2.1')
    info = json.loads((path / 'meta' / 'info.json').read_text())
    pattern = 'chunk-{episode_chunk:03d}/{kind}episode_{episode_index:06d}'
    info['data_path'] = 'data/' + pattern.replace('{kind}', '') + '.parquet'
    video_path = 'videos/' + pattern.replace('{kind}', '{video_key}/') + '.mp4'
    info |= {'video_path': video_path, 'chunks_size': 1}
    info['features'][CAMERA]['dtype'] = 'video' if video else 'image'
    (path / 'meta' / 'info.json').write_text(json.dumps(info))
    shutil.rmtree(path / 'meta' / 'episodes')
    (whole,) = path.rglob('*.parquet')
    rows = parquet.read_table(whole, partitioning=None)
    episodes, stats = [], []
    for index, episode in enumerate(self.EPISODES):
      chunk = f'chunk-{index:03d}'
      mask = [i == index for i in rows['episode_index'].to_pylist()]
      table = rows.filter(pyarrow.array(mask))
      target = path / 'data' / chunk / f'episode_{index:06d}.parquet'
      target.parent.mkdir(exist_ok=True)
      parquet.write_table(table.drop([CAMERA]) if video else table, target)
      if video:
        folder = path / 'videos' / chunk / CAMERA
        write_video(folder, episode['image'], 10)
        os.rename(folder / 'file-000.mp4', folder / f'episode_{index:06d}.mp4')
      length = len(episode['image'])
      row = {'episode_index': index, 'length': length, 'tasks': ['push']}
      episodes.append(json.dumps(row))
      bounds = {'min': [-1, -0.5 - index], 'max': [1, 0.5]}
      stats.append(json.dumps({'stats': {'action': bounds}}))
    (path / 'meta' / 'episodes.jsonl').write_text('\n'.join(episodes))
    (path / 'meta' / 'episodes_stats.jsonl').write_text('\n'.join(stats))
    whole.unlink()
    return path

  @pytest.mark.parametrize('video', [False, True])
  def test_reads_bit_for_bit(self, tmp_path, video):
    if video:
      pytest.importorskip('av')
    path = self.convert(tmp_path, video)
    source = open_source('lerobot', path)
    assert len(source) == 2 and source.metadata['task'] == 'push'
    assert source.metadata['action_low'] == [-1, -1.5]
    for index, episode in enumerate(self.EPISODES):
      found = source.read(index)
      state = found.pop('state')
      assert state[:, 0].tolist() == list(range(len(state)))
      assert_same(found, episode)
    (path / 'meta' / 'episodes.jsonl').write_text('{"episode_index": 0}')
    with pytest.raises(UserError, match='meta: damaged'):
      open_source('lerobot', path)
