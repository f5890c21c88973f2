"""Tests of reading and writing Minari datasets."""

import json

import numpy as np
import pytest

from tests.episode_data import DESCRIPTION, assert_same
from tests.format_data import make, open_source, solved, write_minari
from vid2act_jax.data import dataset, formats
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

pytest.importorskip('minari')


def collect(folder, episodes):
  for index, episode in enumerate(episodes):
    eps.save(folder, index, episode)
  dataset.write_metadata(folder, 'dmc_a_b', {}, DESCRIPTION, True)
  return folder


class TestMinari:
  EPISODES = [solved(6, 1, 4), solved(5, 2, 4), solved(7, 3, 4)]

  def test_reads_bit_for_bit(self, tmp_path):
    terminal = {**self.EPISODES[1]}
    terminal['is_terminal'] = terminal['is_last']
    terminal['discount'] = 1 - terminal['is_last'].astype(np.float32)
    episodes = [self.EPISODES[0], terminal, self.EPISODES[2]]
    infos = {'success': lambda e: e['success'], 'x': lambda e: e['reward']}
    path = write_minari(tmp_path / 'set', episodes, infos)
    for folder in (path, path / 'data'):
      source = open_source('minari', folder)
      for index in (1, 2, 0):
        episode = episodes[index]
        state = np.ones((len(episode['reward']), 3), np.float32)
        assert_same(source.read(index), {**episode, 'state': state})
      assert len(source) == 3 and source.name(1) == 'episode 1'
      assert source.metadata == {
        'alignment': 'next',
        'dropped': ['goal', 'infos/x'],
        'action_low': [-2, -2],
        'action_high': [4, 4],
      }

  def test_success_per_action(self, tmp_path):
    infos = {'is_success': lambda e: e['success'][1:].astype(float)}
    path = write_minari(tmp_path / 'set', self.EPISODES, infos)
    episode = open_source('minari', path).read(1)
    np.testing.assert_array_equal(
      episode['success'], self.EPISODES[1]['success']
    )

  def test_scales_actions(self, tmp_path):
    path = write_minari(tmp_path / 'set', self.EPISODES)
    action = open_source('minari', path, scale_actions=True).read(1)['action']
    expected = self.EPISODES[1]['action'][1:]
    np.testing.assert_allclose(action[1:], (expected + 2) / 3 - 1, atol=1e-6)
    assert not action[0].any()
    with pytest.raises(UserError, match='leave --align out'):
      open_source('minari', path, align='prev')

  def test_local_ids(self, tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    write_minari(tmp_path / 'it-v0', self.EPISODES)
    monkeypatch.chdir(tmp_path.parent)
    assert len(open_source('minari', 'it-v0')) == 3
    with pytest.raises(UserError, match='`minari download us/other-v0`'):
      open_source('minari', 'us/other-v0')
    with pytest.raises(UserError, match='no metadata.json'):
      open_source('minari', tmp_path)

  def test_selection_and_errors(self, tmp_path):
    from gymnasium import spaces

    path = write_minari(tmp_path / 'a', self.EPISODES)
    assert len(open_source('minari', path, image_key='top')) == 3
    with pytest.raises(
      UserError, match=r"'goal' is not one of its images.*\['top'\]"
    ):
      open_source('minari', path, image_key='goal')
    file = path / 'data' / 'metadata.json'
    metadata = json.loads(file.read_text())
    space = json.loads(metadata['observation_space'])
    space['subspaces']['side'] = space['subspaces']['top']
    file.write_text(
      json.dumps({**metadata, 'observation_space': json.dumps(space)})
    )
    with pytest.raises(UserError, match=r"\['side', 'top'\], one is needed"):
      open_source('minari', path)
    file.write_text('{')
    with pytest.raises(UserError, match='a: damaged'):
      open_source('minari', path)
    space = spaces.MultiDiscrete([3, 2])
    path = write_minari(tmp_path / 'b', self.EPISODES, space=space)
    with pytest.raises(
      UserError, match=r'are MultiDi.*should be a Box or a Di'
    ):
      open_source('minari', path)

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'rewards': np.full(4, np.nan)}, "'reward' is not finite"),
      ({'rewards': np.zeros(3)}, '5 frames and 3 steps'),
      ({'actions': np.full((4, 2), 2.0)}, r'pass --scale-actions to map \[-2'),
      ({'actions': np.zeros((3, 2))}, '5 frames and 3 actions'),
      ({'actions': np.zeros((4, 2), 'S2')}, 'should be numbers'),
      ({'terminations': np.ones(4)}, 'is set before the last'),
      ({'infos': {'success': np.full(5, 0.5)}}, "'success' should be 0 or 1"),
      ({'observations': {'state': np.ones((5, 3))}}, 'damaged or not'),
      ({'observations': {'top': np.zeros((5, 4, 6, 3), 'u1')}}, 'be square'),
      ({'observations': {'top': np.zeros((5, 4, 4, 3))}}, 'be uint8'),
    ],
  )
  def test_damage(self, tmp_path, changes, message):
    path = write_minari(tmp_path / 'set', self.EPISODES, **changes)
    source = open_source('minari', path)
    with pytest.raises(UserError, match=f'set, episode 1: .*{message}'):
      source.read(1)
    assert source.read(2)['image'][0, 0, 0, 0] == 3
    file = path / 'data' / 'main_data.hdf5'
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UserError, match='episode 2: damaged'):
      source.read(2)

  def test_without_rewards(self, tmp_path):
    """The format always has rewards, so a file without is damaged."""
    h5py = pytest.importorskip('h5py')
    path = write_minari(tmp_path / 'set', self.EPISODES)
    with h5py.File(path / 'data' / 'main_data.hdf5', 'a') as file:
      del file['episode_1/rewards']
    source = open_source('minari', path)
    with pytest.raises(UserError, match="set, episode 1: .*'rewards'"):
      source.read(1)
    assert 'has_rewards' not in source.metadata

  def test_export_without_rewards(self, tmp_path):
    eps.save(tmp_path / 'ours', 0, make(6))
    description = {**DESCRIPTION, 'has_rewards': False}
    dataset.write_metadata(tmp_path / 'ours', 'x', {}, description, True)
    with pytest.raises(UserError, match='has_rewards is false.*format dreamer'):
      formats.export('minari', tmp_path / 'ours', tmp_path / 'out', print)
    assert not (tmp_path / 'out').exists()

  @pytest.mark.parametrize('with_state', [False, True])
  def test_export(self, tmp_path, with_state):
    """At 32 pixels, Minari would by default compress the frames as JPEG."""
    episodes = [solved(6, 1, 32), make(5, 2, 32), solved(4, 3, 32)]
    noise = np.random.default_rng(0)
    for episode in episodes:
      episode['image'] = noise.integers(0, 256, episode['image'].shape, 'u1')
      if with_state:
        state = noise.normal(size=(len(episode['reward']), 3))
        episode['state'] = state.astype(np.float32)
    episodes[2]['success'][0] = True
    episodes[2]['is_terminal'] = episodes[2]['is_last']
    episodes[2]['discount'] = 1 - episodes[2]['is_last'].astype(np.float32)
    ours = collect(tmp_path / 'ours', episodes)
    progress, out = [], tmp_path / 'theirs'
    done = formats.export(
      'minari', ours, out, lambda *args: progress.append(args)
    )
    assert done == {'episodes': 3, 'lost': []}
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['ours', 'theirs']
    source = open_source('minari', out, scale_actions=True)
    for index, episode in enumerate(episodes):
      assert_same(source.read(index), episode)
    assert source.metadata['task'] == 'dmc_a_b'
    assert source.metadata['dropped'] == []
    with pytest.raises(UserError, match='theirs: already exists'):
      formats.export('minari', ours, out, print)

  def test_export_losses(self, tmp_path):
    episodes = [make(6, 1), make(1, 2), make(5, 3), make(4, 4)]
    episodes[2]['discount'][1] = 0.5
    episodes[3]['state'] = np.ones((4, 2), np.float32)
    ours = collect(tmp_path / 'ours', episodes)
    done = formats.export(
      'minari', ours, tmp_path / 'theirs', lambda *args: None
    )
    assert done == {
      'episodes': 3,
      'lost': [
        "'state': only 1 of 4 episodes have it",
        '000001-1.npz: one frame and no action',
        "000002-5.npz: 'discount', other than 0 at a terminal",
      ],
    }
    eps.save(ours, 4, make(4, size=8))
    with pytest.raises(UserError, match='000004-4.npz: has the shapes'):
      formats.export('minari', ours, tmp_path / 'more', lambda *args: None)
