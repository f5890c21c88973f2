"""Tests of reading RLDS datasets."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.episode_data import assert_same
from tests.format_data import open_source, shift, solved
from tests.rlds_data import (
  encode_example,
  frame_record,
  rlds_steps,
  tensor,
  write_rlds,
)
from vid2act_jax.data import importing
from vid2act_jax.data.formats import make_options, notes, tfrecord
from vid2act_jax.types import UserError

pytest.importorskip('google_crc32c')


def episode(length, number):
  """Without success, which the format does not have; with a state."""
  made = solved(length, number)
  del made['success']
  state = np.arange(2 * length, dtype=np.float32).reshape(length, 2)
  return {**made, 'state': state}


def terminal(length, number):
  made = episode(length, number)
  discount = 1 - made['is_last'].astype(np.float32)
  return {**made, 'is_terminal': made['is_last'], 'discount': discount}


EPISODES = [episode(6, 1), terminal(5, 2), episode(7, 3)]


class TestRlds:
  @pytest.mark.parametrize('shards', [1, 2])
  def test_reads_bit_for_bit(self, tmp_path, shards):
    write_rlds(tmp_path / 'push' / '1.0.0', EPISODES, shards)
    order = [0, 1, 2] if shards == 1 else [0, 2, 1]
    for path in (tmp_path, tmp_path / 'push' / '1.0.0'):
      source = open_source('rlds', path)
      for index in (2, 0, 1):
        assert_same(source.read(index), EPISODES[order[index]])
      assert len(source) == 3
      assert source.name(1) == (
        'push-train.tfrecord-00000-of-0000' + f'{shards}[1]'
      )
      last, *dropped = source.metadata.pop('dropped')
      assert last.startswith('the last action')
      assert dropped == ['discount', 'language_instruction']
      assert source.metadata == {'alignment': 'next', 'task': 'push'}

  def test_checksums(self):
    """The example of RFC 3720, masked as in TFRecord."""
    assert tfrecord.checksum(bytes(32)) == (
      (0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8
    ) % (1 << 32)

  def test_options(self, tmp_path):
    """Names with and without 'observation/', joined actions, scaling."""
    grip = np.linspace(0, 3, 5)
    features = {
      'observation/wrist': {
        'image': {'shape': {'dimensions': ['-1', '-1', '3']}, 'dtype': 'uint8'}
      },
      'observation/depth': {
        'image': {'shape': {'dimensions': ['8', '8', '1']}, 'dtype': 'uint16'}
      },
      'observation/grip': tensor('float32', 1),
      'observation/odd': tensor('qint8', 1),  # Not read.
      'grip': tensor('float32'),
      'dense': tensor('float32'),
    }
    more = {'observation/grip': grip, 'grip': grip, 'dense': grip}
    more['observation/wrist'] = rlds_steps(EPISODES[1])[
      'steps/observation/image'
    ]
    path = write_rlds(tmp_path, EPISODES, features=features, **more)
    source = open_source(
      'rlds',
      path,
      image_key='wrist',
      action_key='action,grip',
      state_key='observation/grip',
      reward_key='dense',
      scale_actions=True,
    )
    with pytest.raises(UserError, match=r'\[0\]: holds no frames'):
      source.read(0)  # Only the second has them.
    found = source.read(1)
    np.testing.assert_allclose(found['action'][1:, 2], grip[:4] / 1.5 - 1)
    np.testing.assert_allclose(found['reward'][1:], grip[:4], rtol=1e-6)
    np.testing.assert_allclose(found['state'][:, 0], grip, rtol=1e-6)
    assert source.metadata['action_high'][2] == 3
    for name, message in (
      ('image_key', "'gone' is not one; choose with --image-key"),
      ('action_key', "no 'gone'.*'action'.*choose with --action-key"),
      ('state_key', "no 'gone'.*choose with --state-key"),
      ('reward_key', "no 'gone'.*choose with --reward-key"),
    ):
      with pytest.raises(UserError, match=message):
        open_source('rlds', path, **{name: 'gone'})
    with pytest.raises(UserError, match="'depth' is not one"):
      open_source('rlds', path, image_key='depth')

  @pytest.mark.parametrize(
    'encoding', ['jpeg', 'grey', 'none', 'bytes', 'zlib']
  )
  def test_encodings(self, tmp_path, encoding):
    image = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), 'u1')
    feature = tensor('uint8', 16, 16, 3, encoding=encoding)
    if encoding in ('jpeg', 'grey'):
      shape = {'dimensions': ['16', '16', '1' if encoding == 'grey' else '3']}
      feature = {'image': {'shape': shape, 'dtype': 'uint8'}}
      values, expected = [], []
      for frame in image:
        data = io.BytesIO()
        frame = frame[..., 0] if encoding == 'grey' else frame
        kind = 'PNG' if encoding == 'grey' else 'JPEG'
        Image.fromarray(frame).save(data, kind)
        values.append(data.getvalue())
        expected.append(np.asarray(Image.open(data).convert('RGB')))
      image = np.stack(expected)
    elif encoding == 'none':
      values = image.astype(int).ravel()
    else:
      pack = zlib.compress if encoding == 'zlib' else bytes
      values = [pack(frame.tobytes()) for frame in image]
    key = 'observation/image'
    path = write_rlds(
      tmp_path, EPISODES, features={key: feature}, **{key: values}
    )
    found = open_source('rlds', path).read(1)['image']
    np.testing.assert_array_equal(found, image)

  def test_discrete(self, tmp_path):
    """A label has a number of classes, an integer needs the flag."""
    index = np.array([2, 0, 1, 2, 0])
    for number, feature in enumerate(
      ({'classLabel': {'numClasses': '3'}}, tensor('int32'))
    ):
      path = write_rlds(
        tmp_path / str(number),
        EPISODES,
        features={'action': feature},
        action=index,
      )
      options = {'discrete_actions': 3} if number else {}
      action = open_source('rlds', path, **options).read(1)['action']
      np.testing.assert_array_equal(action[1:], np.eye(3)[index[:4]])
    with pytest.raises(UserError, match='--discrete-actions N'):
      open_source('rlds', path).read(1)

  def test_demonstrations(self, tmp_path):
    """As in Open X-Embodiment: no flags but the last reward, or no rewards."""
    reward = np.float32([0, 0, 0, 0, 1])
    zeros = np.zeros(5, int)
    path = write_rlds(
      tmp_path / 'a', EPISODES, reward=reward, is_first=zeros, is_last=zeros
    )
    found = open_source('rlds', path, keep_last_reward=True).read(1)
    assert_same(found, {**EPISODES[1], 'reward': reward})
    path = write_rlds(tmp_path / 'b', EPISODES)
    file = path / 'features.json'
    document = json.loads(file.read_text())
    steps = document['featuresDict']['features']['steps']['sequence']['feature']
    for key in ('reward', 'is_terminal'):
      del steps['featuresDict']['features'][key]
    file.write_text(json.dumps(document))
    source = open_source('rlds', path)
    assert source.metadata['has_rewards'] is False
    found = source.read(1)
    # Without is_terminal, the discount says whether it ended: here it is 1.
    assert not found['is_terminal'].any() and not found['reward'].any()

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'reward': np.full(5, np.nan)}, "'reward' is not finite"),
      ({'action': shift(np.eye(5, 2, -1) * 3).ravel()}, 'pass --clip-actions'),
      ({'action': np.zeros(7)}, 'damaged'),
      ({'action': None}, "no 'action'"),
      ({'is_last': np.array([0, 1, 0, 0, 1])}, "'is_last' must be set at"),
      ({'is_first': np.full(5, 2)}, 'not bool'),
      ({'is_terminal': np.array([0, 1, 0, 0, 0])}, "'is_terminal' is set"),
      ({'observation/image': [b'text'] * 5}, 'damaged'),
      ({'observation/image': []}, 'holds no frames'),
      ({'observation/image': None}, 'holds no frames'),
    ],
  )
  def test_damage(self, tmp_path, changes, message):
    path = write_rlds(tmp_path / 'set', EPISODES, **changes)
    target, options = tmp_path / 'to', make_options()
    metadata = importing.import_dataset('rlds', str(path), target, options)
    assert metadata['episodes'] == 2 and metadata['collected']['left_out'] == 1
    (reason,) = (target / 'quarantine').iterdir()
    text = reason.read_text()
    assert '00001[1]' in text and message in text

  def test_other_folders(self, tmp_path):
    """Near relatives are named."""
    cases = {}
    for name in ('old', 'images', 'riegeli', 'several'):
      cases[name] = write_rlds(tmp_path / name / '1.0.0', EPISODES[:1]).parent
    file = cases['old'] / '1.0.0' / 'features.json'
    file.write_text(json.dumps({'type': 'x.FeaturesDict', 'content': {}}))
    file = cases['images'] / '1.0.0' / 'features.json'
    file.write_text(json.dumps({'featuresDict': {'features': {'label': {}}}}))
    (shard,) = cases['riegeli'].rglob('*tfrecord*')
    shard.rename(shard.with_name('push-train.array_record-00000-of-00001'))
    write_rlds(cases['several'] / '2.0.0', EPISODES[:1])
    for name, message in (
      ('old', 'of an older version of TFDS'),
      ('images', "'label' without steps, .* pass a dataset of RLDS"),
      ('riegeli', "'array_record'; let TFDS write it"),
      ('several', "'1.0.0', '2.0.0'; pass the folder of one"),
      ('gone', 'not a folder'),
      ('.', 'old/1.0.0'),
    ):
      with pytest.raises(UserError, match=message):
        open_source('rlds', tmp_path / name)

  def test_missing_shards(self, tmp_path):
    """They may be left out on purpose; damaged ones are errors."""
    path = write_rlds(tmp_path / 'set', EPISODES, 3)
    (path / 'push-train.tfrecord-00001-of-00003').unlink()
    source = open_source('rlds', path)
    (text,) = notes.describe(source.metadata)
    assert '1 of 3 shards' in text and 'the first is number 1' in text
    assert_same(source.read(1), EPISODES[2])
    (path / 'dataset_info.json').write_text('{')
    texts = notes.describe(open_source('rlds', path).metadata)
    assert 'may not be noticed' in texts[0] and '1 of 3 shards' in texts[1]
    write_rlds(path, EPISODES[:1])
    info = path / 'dataset_info.json'
    info.write_text(info.read_text().replace('["1"]', '["4"]'))
    for shard in path.glob('*-of-00003'):
      shard.unlink()
    (text,) = notes.describe(open_source('rlds', path).metadata)
    assert 'shard 0' in text and 'holds 1 episodes, dataset_info.json' in text

  def test_damaged_bytes(self, tmp_path):
    path = write_rlds(tmp_path, EPISODES)
    (shard,) = path.glob('*.tfrecord*')
    whole = shard.read_bytes()
    first = struct.unpack('<Q', whole[:8])[0] + 16
    flip = lambda at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for data, index, message in (
      (whole[: first + 5], 1, 'it is truncated'),
      (whole[:-1], 2, 'it is truncated'),
      (flip(first), 1, 'wrong checksum'),
      (flip(first + 9), 1, 'wrong checksum'),
      (flip(first + 500), 1, 'wrong checksum'),
      (b'text', 0, 'it is truncated'),
      (b'some other text', 0, 'wrong checksum'),
      (b'\x1f\x8b' + whole, 0, 'unpack it with gunzip'),
      (frame_record(b'text'), 0, 'damaged'),
      (frame_record(encode_example({})), 0, 'holds no frames'),
    ):
      shard.write_bytes(data)
      source = open_source('rlds', path)
      with pytest.raises(UserError, match=f'{message}.*restore'):
        source.read(index)
      if index:
        assert_same(source.read(0), EPISODES[0])
