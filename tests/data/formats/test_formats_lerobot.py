"""Tests of reading LeRobot datasets."""

import json

import numpy as np
import pytest

from tests.episode_data import assert_same
from tests.format_data import CAMERA, open_source, solved, write_lerobot
from vid2act_jax.types import UserError

pytest.importorskip('pyarrow')
pytest.importorskip('av')


class TestLerobot:
  EPISODES = [solved(6, 1), solved(5, 2), solved(7, 3)]

  @pytest.mark.parametrize('video', [False, True])
  def test_reads_bit_for_bit(self, tmp_path, video):
    write_lerobot(tmp_path, self.EPISODES, video)
    source = open_source('lerobot', tmp_path)
    for index in (0, 1, 2, 0, 2):
      episode = self.EPISODES[index]
      times = np.arange(len(episode['reward']), dtype=np.float32)
      state = np.stack([times, np.full_like(times, 2)], 1)
      assert_same(source.read(index), {**episode, 'state': state})
    assert len(source) == 3 and source.name(1) == 'episode 1'
    last, done = source.metadata.pop('dropped')
    assert last.startswith('the last action') and done.startswith('next.done')
    assert source.metadata == {'alignment': 'next', 'task': 'push'}

  def test_options(self, tmp_path):
    """prev_action alignment, scaling by observed bounds, a camera's name."""
    write_lerobot(tmp_path, self.EPISODES, data=self.to_prev)
    stats = {'action': {'min': [-1, -0.5], 'max': [1, 0.5]}}
    (tmp_path / 'meta' / 'stats.json').write_text(json.dumps(stats))
    source = open_source(
      'lerobot', tmp_path, align='prev', scale_actions=True, image_key=CAMERA
    )
    episode = source.read(2)
    action = self.EPISODES[2]['action']
    np.testing.assert_array_equal(episode['action'], action * [1, 2])
    np.testing.assert_array_equal(episode['reward'], self.EPISODES[2]['reward'])
    assert source.metadata['action_high'] == [1, 0.5]

  def test_without_rewards(self, tmp_path):
    write_lerobot(tmp_path, self.EPISODES)
    path = tmp_path / 'meta' / 'info.json'
    info = json.loads(path.read_text())
    del info['features']['next.reward']
    path.write_text(json.dumps(info))
    source = open_source('lerobot', tmp_path)
    assert source.metadata['has_rewards'] is False
    episode = source.read(1)
    assert not episode['reward'].any()
    np.testing.assert_array_equal(episode['action'], self.EPISODES[1]['action'])

  def to_prev(self, rows):
    keys = ('action', 'reward', 'success')
    values = {k: np.concatenate([e[k] for e in self.EPISODES]) for k in keys}
    for index, row in enumerate(rows):
      row['action'] = values['action'][index].tolist()
      row['next.reward'] = float(values['reward'][index])
      row['next.success'] = bool(values['success'][index])
    return rows

  def test_selection_and_errors(self, tmp_path):
    with pytest.raises(UserError, match='info.json: missing'):
      open_source('lerobot', tmp_path)
    side = {'observation.images.side': {'dtype': 'video'}}
    write_lerobot(tmp_path / 'a', self.EPISODES, features=side)
    with pytest.raises(UserError, match=r'top.*side.*\], one is needed'):
      open_source('lerobot', tmp_path / 'a')
    with pytest.raises(UserError, match="'top' is not one; choose"):
      open_source('lerobot', tmp_path / 'a', image_key='top')
    source = open_source('lerobot', tmp_path / 'a', image_key=CAMERA)
    assert 'observation.images.side' in source.metadata['dropped']
    with pytest.raises(UserError, match='leave --scale-actions out'):
      open_source(
        'lerobot', tmp_path / 'a', image_key=CAMERA, scale_actions=True
      )
    write_lerobot(tmp_path / 'b', self.EPISODES, version='v2.1')
    with pytest.raises(UserError, match='of LeRobot v2.1, .* convert it with'):
      open_source('lerobot', tmp_path / 'b')
    file = tmp_path / 'a' / 'meta' / 'info.json'
    for text in ('{', '[]', '{"codebase_version": "v3.0"}'):
      file.write_text(text)
      with pytest.raises(UserError, match='meta.*: damaged'):
        open_source('lerobot', tmp_path / 'a')

  @pytest.mark.parametrize(
    'key, value, message',
    [
      ('next.reward', float('nan'), "'reward' is not finite"),
      ('action', [0.0, 9.0], 'should stay within'),
      ('action', [0.0], 'damaged or not'),
      ('action', None, 'damaged or not'),
      ('frame_index', 3, 'says 5 frames, .* not in order'),
      ('episode_index', 0, 'says 5 frames, .*holds 4'),
      (CAMERA, {'bytes': b'text', 'path': None}, 'damaged or not'),
      (CAMERA, {'bytes': None, 'path': 'x.png'}, 'in a separate file'),
    ],
  )
  def test_damage(self, tmp_path, key, value, message):
    def damage(rows):
      rows[8][key] = value
      return rows

    write_lerobot(tmp_path, self.EPISODES, video=False, data=damage)
    source = open_source('lerobot', tmp_path)
    with pytest.raises(UserError, match=f'episode 1: .*{message}'):
      source.read(1)
    assert source.read(2)['image'][0, 0, 0, 0] == 3

  def test_missing_parts(self, tmp_path):
    def without_action(rows):
      return [{k: v for k, v in r.items() if k != 'action'} for r in rows]

    write_lerobot(tmp_path / 'a', self.EPISODES, data=without_action)
    with pytest.raises(UserError, match='episode 1: .*action'):
      open_source('lerobot', tmp_path / 'a').read(1)

    def zero_length(rows):
      rows[1]['length'] = 0
      return rows

    write_lerobot(
      tmp_path / 'b', self.EPISODES, **{'meta/episodes': zero_length}
    )
    with pytest.raises(UserError, match='says 0 frames'):
      open_source('lerobot', tmp_path / 'b').read(1)

  def test_damaged_bytes(self, tmp_path):
    write_lerobot(tmp_path, self.EPISODES)
    source = open_source('lerobot', tmp_path)
    name = 'chunk-000/file-000'
    video = tmp_path / 'videos' / CAMERA / f'{name}.mp4'
    table = tmp_path / 'data' / f'{name}.parquet'
    for path in (video, table):
      whole = path.read_bytes()
      for data in (b'', b'text', whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(UserError, match='episode 1: damaged'):
          source.read(1)
      path.write_bytes(whole)
    assert source.read(2)['image'][0, 0, 0, 0] == 3
    locations = tmp_path / 'meta' / 'episodes' / f'{name}.parquet'
    locations.write_bytes(b'text')
    with pytest.raises(UserError, match='meta: damaged'):
      open_source('lerobot', tmp_path)

  @pytest.mark.parametrize(
    'drift, valid', [(0.04, (0, 1, 2)), (0.06, (0,)), (150, (0,)), (-9, (0,))]
  )
  def test_frames_are_counted(self, tmp_path, drift, valid):
    """Where the stated start is another frame, the user decides."""

    def late(rows):
      for number, row in enumerate(rows):
        row[f'videos/{CAMERA}/from_timestamp'] += drift * bool(number)
      return rows

    def jitter(rows):  # Of the tables; clocks differ.
      times = enumerate(rows)
      return [{**row, 'timestamp': 1.7e9 + t / 9} for t, row in times]

    path = write_lerobot(
      tmp_path, self.EPISODES, data=jitter, **{'meta/episodes': late}
    )
    source = open_source('lerobot', path)
    for index, episode in enumerate(self.EPISODES):
      if index in valid:
        image = source.read(index)['image']
        np.testing.assert_array_equal(image, episode['image'])
      else:
        message = f'episode {index}: from_timestamp .* but .* --count-frames'
        with pytest.raises(UserError, match=message):
          source.read(index)
    source = open_source('lerobot', path, count_frames=True)
    for index, episode in enumerate(self.EPISODES):
      image = source.read(index)['image']
      np.testing.assert_array_equal(image, episode['image'])

  @pytest.mark.parametrize('change', [-1, 1])
  def test_other_number_of_frames(self, tmp_path, change):
    def miscounted(rows):
      rows[2]['length'] += change
      return rows

    write_lerobot(tmp_path, self.EPISODES, **{'meta/episodes': miscounted})
    source = open_source('lerobot', tmp_path, count_frames=True)
    message = f'mp4 holds 18 frames, its episodes have {18 + change} rows'
    for index in (0, 1):
      with pytest.raises(UserError, match=message):
        source.read(index)
