"""Tests of what importers accept: as much as environments do."""

import json

import numpy as np
import pytest

from tests.format_data import (
  make,
  open_source,
  shift,
  solved,
  write_dreamer,
  write_lerobot,
  write_minari,
  write_ogbench,
  write_shard,
)
from vid2act_jax.data import episodes as eps
from vid2act_jax.data import formats, importing
from vid2act_jax.data.formats import notes
from vid2act_jax.types import UserError

pytest.importorskip('h5py')
pytest.importorskip('minari')
pytest.importorskip('pyarrow')

EPISODE = solved(6, 1, 16)
STATE = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
# The names of actions, rewards and state in a source of each format.
NAMES = {
  'dreamer': ('acts', 'rews', 'qpos'),
  'vd4rl': ('acts', 'rews', 'qpos'),
  'ogbench': ('acts', 'rews', 'qpos'),
  'lerobot': ('acts', 'rews', 'qpos'),
  'minari': ('acts', 'rews', 'qpos'),
}


def write(format, path, action, names=None, reward=None):
  """Writes an episode whose actions are [T, ...], 0 at the first frame."""
  from gymnasium import spaces

  keys = names or ('action', 'reward', None)
  reward = EPISODE['reward'] if reward is None else reward
  base = {k: EPISODE[k] for k in ('image', 'is_first', 'is_last', 'discount')}
  if format == 'dreamer':
    arrays = {keys[0]: action, keys[1]: reward}
    arrays |= {keys[2]: STATE} if names else {}
    return write_dreamer(path, [{**base, **arrays}])
  if format == 'vd4rl':
    changes = {keys[0]: action, keys[1]: reward}
    changes |= {keys[2]: STATE} if names else {}
    default = {'action': None, 'reward': None} | changes
    return write_shard(path / '0.hdf5', [EPISODE], **default).parent
  if format == 'ogbench':
    changes = {keys[0] if names else 'actions': shift(action), 'qpos': STATE}
    changes |= {keys[1] if names else 'rewards': shift(reward)}
    if names:
      changes |= {'actions': None, 'rewards': None}
    path.mkdir()
    return write_ogbench(path / 'o.npz', [EPISODE], **changes)
  if format == 'minari':
    space = spaces.Box(-1, 1, action.shape[1:], np.float32)
    if action.dtype.kind == 'i':
      space = spaces.Discrete(int(action.max()) + 1)
    episode = {**EPISODE, 'action': action, 'reward': reward}
    if names:
      space = spaces.Dict({keys[0]: space, 'other': space})
    return write_minari(path, [episode], space=space, names=names, state=STATE)

  def rename(rows):
    values = zip(shift(action), shift(reward), STATE, rows, strict=True)
    for a, r, s, row in values:
      row['action'], row['next.reward'] = a.tolist(), float(r)
      if names:
        row[keys[0]], row[keys[1]] = row.pop('action'), row.pop('next.reward')
        row[keys[2]] = s.tolist()
    return rows

  new = {k: {'dtype': 'float32'} for k in names or ()}
  return write_lerobot(
    path, [EPISODE], video=False, data=rename, features=new, without=bool(names)
  )


@pytest.mark.parametrize('format', NAMES)
class TestEveryFormat:
  def test_names(self, tmp_path, format):
    """Other names of actions, rewards and state, which is flattened."""
    names = NAMES[format]
    path = write(format, tmp_path / 'a', EPISODE['action'], names)
    keys = ('action_key', 'reward_key', 'state_key')
    options = dict(zip(keys, names, strict=True))
    episode = open_source(format, path, **options).read(0)
    for key in ('action', 'reward', 'image'):
      np.testing.assert_array_equal(episode[key], EPISODE[key], key)
    np.testing.assert_array_equal(episode['state'], STATE.reshape(6, 4))
    for key in keys:
      with pytest.raises(UserError, match=f"'gone'.*--{key[:-4]}-key"):
        open_source(format, path, **{**options, key: 'gone'}).read(0)

  def test_slightly_outside(self, tmp_path, format):
    action = EPISODE['action'].copy()
    action[2] = -1.003, 1.2
    path = write(format, tmp_path / 'a', action)
    with pytest.raises(UserError, match='-1.003 to 1.2.*pass --clip-actions'):
      open_source(format, path).read(0)
    source = open_source(format, path, clip_actions=True)
    expected = action.clip(-1, 1)
    np.testing.assert_array_equal(source.read(0)['action'], expected)
    counts = source.metadata['counts']
    assert counts['clipped_actions'] == 2 and counts['actions'] in (10, 12)
    action[2] = np.inf
    path = write(format, tmp_path / 'b', action)
    with pytest.raises(UserError, match='not finite'):
      open_source(format, path, clip_actions=True).read(0)

  def test_matrices_and_numbers(self, tmp_path, format):
    action = np.repeat(EPISODE['action'][..., None], 3, 2)
    path = write(format, tmp_path / 'a', action)
    found = open_source(format, path).read(0)['action']
    np.testing.assert_array_equal(found, action.reshape(6, 6))
    path = write(format, tmp_path / 'b', EPISODE['action'][:, 0])
    found = open_source(format, path).read(0)['action']
    np.testing.assert_array_equal(found, EPISODE['action'][:, :1])

  def test_discrete(self, tmp_path, format):
    """Indices become one-hot; the number of actions is known or given."""
    index = np.array([0, 2, 1, 0, 2, 1])
    expected = np.eye(3, dtype=np.float32)[index]
    expected[0] = 0
    path = write(format, tmp_path / 'a', index)
    options = {} if format == 'minari' else {'discrete_actions': 3}
    found = open_source(format, path, **options).read(0)['action']
    np.testing.assert_array_equal(found, expected)
    if options:
      with pytest.raises(UserError, match='0 to 2.*--discrete-actions'):
        open_source(format, path).read(0)
      with pytest.raises(UserError, match='an index from 0 to 1'):
        open_source(format, path, discrete_actions=2).read(0)


def _change_table(path, change):
  import pyarrow
  from pyarrow import parquet

  (file,) = (path / 'data').rglob('*.parquet')
  rows = parquet.read_table(file, partitioning=None).to_pylist()
  change(rows)
  parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.mark.parametrize('format', ['lerobot', 'ogbench'])
def test_last_reward(tmp_path, format):
  """The only reward may be in the row of the last action."""
  reward = np.zeros(6, np.float32)
  path = write(format, tmp_path / 'a', EPISODE['action'], None, reward)
  if format == 'lerobot':
    _change_table(path, lambda rows: rows[-1].update({'next.reward': 1.0}))
  else:
    arrays = dict(np.load(path))
    arrays['rewards'][-1] = 1
    np.savez(path, **arrays)
  source = open_source(format, path)
  assert not source.read(0)['reward'].any()
  assert '--keep-last-reward' in notes.describe(source.metadata)[0]
  source = open_source(format, path, keep_last_reward=True)
  assert source.read(0)['reward'].tolist() == [0, 0, 0, 0, 0, 1]
  assert not notes.describe(source.metadata)


class TestActions:
  def test_minari_spaces(self, tmp_path):
    """A Discrete that starts at 5; parts of a Dict; unbounded dimensions."""
    from gymnasium import spaces

    index = np.array([5, 7, 6, 5, 7, 6])
    space = spaces.Discrete(3, start=5)
    episode = {**EPISODE, 'action': index}
    path = write_minari(tmp_path / 'a', [episode], space=space)
    action = open_source('minari', path).read(0)['action']
    assert action[1:].argmax(1).tolist() == [2, 1, 0, 2, 1]
    with pytest.raises(UserError, match='leave --scale-actions out'):
      open_source('minari', path, scale_actions=True)
    low, high = np.array([-np.inf, 0, 0]), np.array([np.inf, 4, np.inf])
    space = spaces.Box(*(x.astype(np.float32) for x in (low, high)))
    values = np.tile(np.float32([0.5, 1, 1.5]), (6, 1))
    episode = {**EPISODE, 'action': values}
    path = write_minari(tmp_path / 'b', [episode], space=space)
    action = open_source('minari', path, scale_actions=True).read(0)['action']
    assert action[1].tolist() == [0.5, -0.5, 0.5]

  def test_joined(self, tmp_path):
    arm, grip = EPISODE['action'], EPISODE['action'][:, 0] / 2
    path = write_dreamer(tmp_path, [{**EPISODE, 'arm': arm, 'grip': grip}])
    episode = open_source('dreamer', path, action_key='arm,grip').read(0)
    expected = np.concatenate([arm, grip[:, None]], 1)
    np.testing.assert_array_equal(episode['action'], expected)

  def test_clips_what_leaves_the_declared_bounds(self, tmp_path):
    from gymnasium import spaces

    space = spaces.Box(-2, 2, (2,), np.float32)
    action = EPISODE['action'].copy()
    action[1] = 2.1
    path = write_minari(
      tmp_path / 'a', [{**EPISODE, 'action': action}], space=space
    )
    with pytest.raises(UserError, match='declares; pass --clip-actions'):
      open_source('minari', path, scale_actions=True).read(0)
    source = open_source('minari', path, scale_actions=True, clip_actions=True)
    assert source.read(0)['action'][1:3].tolist() == [[1, 1], [1 / 256] * 2]

  def test_numbers_out_of_range(self, tmp_path):
    for option in ('size', 'discrete_actions'):
      flag = option.replace('_', '-')
      with pytest.raises(UserError, match=f'--{flag} is 0'):
        formats.make_options(**{option: 0})
    with pytest.raises(UserError, match='--action-repeat is 0'):
      importing.import_dataset(
        'dreamer', 'a', tmp_path, formats.Options(), action_repeat=0
      )
    options = {'discrete_actions': 3, 'scale_actions': True}
    path = write('lerobot', tmp_path / 'a', np.zeros(6, int))
    stats = {'action': {'min': [0], 'max': [2]}}
    (path / 'meta' / 'stats.json').write_text(json.dumps(stats))
    with pytest.raises(UserError, match='leave --scale-actions out'):
      open_source('lerobot', path, **options).read(0)


class TestImports:
  def test_goes_on_with_clipping(self, tmp_path):
    """The remedy of the message can be followed in the same folder."""
    action = make(6)['action'].copy()
    action[3] = 1.01
    path = write_dreamer(tmp_path / 'a', [make(5), make(6)], action=action)
    run = lambda **options: importing.import_dataset(
      'dreamer', str(path), tmp_path / 'to', formats.make_options(**options)
    )
    assert run()['episodes'] == 1
    metadata = run(clip_actions=True)
    assert metadata['episodes'] == 2
    assert metadata['collected']['left_out'] == 0
    for _ in range(2):  # Run again, the notes stay.
      texts = notes.describe(run()['collected']['about'])
      assert any('of the actions were clipped' in text for text in texts)

  @pytest.mark.parametrize(
    'kind, message',
    [
      ('symbols', '2 of 2 episodes are nearly of one colour'),
      ('grey', '2 of 2 episodes are nearly of one colour'),
      ('still', '2 of 2 episodes hardly change'),
      ('moving', None),
    ],
  )
  def test_frames_that_show_nothing(self, tmp_path, kind, message):
    random = np.random.default_rng(0)
    shape = {'still': (1, 8, 8, 3)}.get(kind, (6, 8, 8, 3))
    image = random.integers(0, 11 if kind == 'symbols' else 256, shape, 'u1')
    if kind == 'grey':
      image[:] = image[:, :1, :1, :1]
    image = np.broadcast_to(image, (6, 8, 8, 3))
    path = write_dreamer(tmp_path / 'a', [make(6, image=image)] * 2)
    metadata = importing.import_dataset(
      'dreamer', str(path), tmp_path / 'to', formats.Options()
    )
    texts = notes.describe(metadata['collected']['about'])
    assert [message in text for text in texts] == ([True] if message else [])

  def test_grey_arrays(self, tmp_path):
    grey = EPISODE['image'][..., 1]
    for number, image in enumerate((grey, grey[..., None], grey[:, None])):
      path = write_dreamer(
        tmp_path / str(number), [{**EPISODE, 'image': image}]
      )
      found = open_source('dreamer', path).read(0)['image']
      np.testing.assert_array_equal(found, np.stack([grey] * 3, -1))


def test_validates(tmp_path):
  """What the importers accept is valid."""
  path = write('minari', tmp_path / 'a', np.array([0, 1, 2, 0, 1, 2]))
  eps.validate(open_source('minari', path).read(0), path, 16, 3)
