"""Damaged episodes: found, told apart, put aside, and trained without."""

import re
import zipfile

import numpy as np
import pytest

from tests.episode_data import DESCRIPTION, fill, make_episode
from vid2act_jax.data import dataset, quarantine, sources
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.__main__ import main
from vid2act_jax.types import UserError

LENGTH = 8


def changed(**arrays):
  """The bytes of an episode with other arrays; None: without."""

  def write(path, random):
    del random
    episode = make_episode(LENGTH) | arrays
    episode = {k: v for k, v in episode.items() if v is not None}
    np.savez(path, **episode)

  return write


def cut(path, random):
  changed()(path, random)
  whole = path.read_bytes()
  path.write_bytes(whole[: random.integers(1, len(whole))])


def flipped(path, random):
  """A byte of the frames differs from what its checksum says."""
  changed()(path, random)
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    info = archive.getinfo('image.npy')
  data[info.header_offset + 200 + int(random.integers(0, 100))] ^= 255
  path.write_bytes(data)


def renamed(path, random):
  changed()(path.with_name(f'strange-{random.integers(1e9)}.npz'), random)


def nan_reward(path, random):
  reward = make_episode(LENGTH)['reward']
  reward[random.integers(1, LENGTH)] = np.nan
  changed(reward=reward)(path, random)


# How a file is spoilt, and a word of the reason.
DAMAGE = {
  'cut off': (cut, 'damaged'),
  'bit flipped': (flipped, 'damaged'),
  'no zip': (lambda path, random: path.write_text('hello'), 'damaged'),
  'empty': (lambda path, random: path.write_bytes(b''), 'damaged'),
  'objects': (changed(reward=np.array([{}] * LENGTH)), 'damaged'),
  'wrong dtype': (changed(reward=np.zeros(LENGTH)), "'reward' is float64"),
  'missing key': (changed(is_first=None), "missing 'is_first'"),
  'unknown key': (changed(extra=np.zeros(LENGTH)), "unknown 'extra'"),
  'nan reward': (nan_reward, "'reward' is not finite at frame"),
  'no frames': (
    changed(**{k: v[:0] for k, v in make_episode(LENGTH).items()}),
    'the name promises 8',
  ),
  'other image size': (
    changed(image=np.zeros((LENGTH, 6, 6, 3), np.uint8)),
    "'image' is 6x6, should be 4x4",
  ),
  'not square': (
    changed(image=np.zeros((LENGTH, 4, 6, 3), np.uint8)),
    "'image' is 4x6",
  ),
  'other action size': (
    changed(action=np.zeros((LENGTH, 3), np.float32)),
    "'action' has 3 dimensions, should have 2.* metadata.json",
  ),
  'other length': (
    lambda path, random: changed()(
      path.with_name(path.name.replace('-8', '-7')), random
    ),
    'the name promises 7 frames',
  ),
  'strange name': (renamed, 'not named <index>-<length>'),
}


@pytest.fixture
def sound(tmp_path):
  """A dataset of three episodes."""
  fill(tmp_path, [6, 9, 7])
  dataset.write_metadata(tmp_path, 'x', {'method': 'm'}, DESCRIPTION, True)
  return tmp_path


def test_two_hundred_damaged_files(sound, capsys):
  random = np.random.default_rng(0)
  names = list(DAMAGE)
  kinds = {}
  for number in range(200):
    kind = names[number % len(names)]
    path = sound / 'episodes' / f'{number + 10:06d}-{LENGTH}.npz'
    before = set(path.parent.iterdir())
    DAMAGE[kind][0](path, random)
    (new,) = set(path.parent.iterdir()) - before
    kinds[new.name] = kind
  broken = quarantine.find(sound)
  assert {path.name for path in broken} == set(kinds)
  assert main(['validate', str(sound)]) == 0
  assert f'3 episodes are sound, {len(kinds)} were' in capsys.readouterr().out
  reasons = quarantine.reasons(sound)
  assert set(reasons) == set(kinds)
  for name, kind in kinds.items():
    assert (sound / 'quarantine' / name).is_file()
    match = re.search(DAMAGE[kind][1], reasons[name])
    assert match, (kind, reasons[name])
  # What is sound is what it was, and is trained on.
  assert [f.index for f in eps.list_episodes(sound)] == [0, 1, 2]
  replays, about = sources.load_sources([sound], 1e9, 0)
  assert about[0]['episodes'] == replays[0].num_episodes == 3
  assert replays[0].sample(0, 4, 6)['image'].shape == (4, 6, 4, 4, 3)


def test_sound_dataset_is_left_alone(sound, capsys):
  before = {p: p.read_bytes() for p in sound.rglob('*.npz')}
  assert main(['validate', str(sound)]) == 0
  assert '3 episodes are sound, 0 were' in capsys.readouterr().out
  assert {p: p.read_bytes() for p in sound.rglob('*.npz')} == before
  assert not (sound / 'quarantine').exists()


def test_dry_run_moves_nothing(sound, capsys):
  path = sound / 'episodes' / '000001-9.npz'
  path.write_bytes(path.read_bytes()[:99])
  assert main(['validate', '--dry-run', str(sound)]) == 1
  assert '000001-9.npz: damaged' in capsys.readouterr().out
  assert path.exists()


def test_training_names_the_way_out(sound):
  path = sound / 'episodes' / '000001-9.npz'
  path.write_bytes(path.read_bytes()[:99])
  with pytest.raises(UserError, match='000001-9.npz.*data validate DATASET'):
    sources.load_sources([sound], 1e9, 0)


def test_wrong_metadata_empties_nothing(sound, capsys):
  description = {**DESCRIPTION, 'action_dim': 5}
  dataset.write_metadata(sound, 'x', {'method': 'm'}, description, True)
  assert main(['validate', str(sound)]) == 1
  told = capsys.readouterr().err
  assert 'metadata.json: contradicts every sound episode' in told
  assert "'action' has 2 dimensions, should have 5" in told
  assert len(eps.list_episodes(sound)) == 3


def test_no_dataset(tmp_path, capsys):
  assert main(['validate', str(tmp_path / 'nowhere')]) == 1
  assert 'nowhere/metadata.json: missing' in capsys.readouterr().err
  assert not (tmp_path / 'nowhere').exists()
