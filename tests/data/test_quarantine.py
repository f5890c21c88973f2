"""Tests of validating datasets and moving invalid episodes to quarantine."""

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
  """Writes an episode with other arrays; None removes one."""

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
  changed()(path.with_name(f'invalid-{random.integers(1e9)}.npz'), random)


def nan_reward(path, random):
  reward = make_episode(LENGTH)['reward']
  reward[random.integers(1, LENGTH)] = np.nan
  changed(reward=reward)(path, random)


# Ways to damage a file, and a pattern of the reason.
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
    'the name says 8',
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
    'the name says 7 frames',
  ),
  'invalid name': (renamed, 'not named <index>-<length>'),
}


@pytest.fixture
def valid_dataset(tmp_path):
  """A dataset of three episodes."""
  fill(tmp_path, [6, 9, 7])
  dataset.write_metadata(tmp_path, 'x', {'method': 'm'}, DESCRIPTION, True)
  return tmp_path


def test_two_hundred_damaged_files(valid_dataset, capsys):
  random = np.random.default_rng(0)
  names = list(DAMAGE)
  kinds = {}
  for number in range(200):
    kind = names[number % len(names)]
    path = valid_dataset / 'episodes' / f'{number + 10:06d}-{LENGTH}.npz'
    before = set(path.parent.iterdir())
    DAMAGE[kind][0](path, random)
    (new,) = set(path.parent.iterdir()) - before
    kinds[new.name] = kind
  invalid = quarantine.find_invalid(valid_dataset)
  assert {path.name for path in invalid} == set(kinds)
  assert main(['validate', str(valid_dataset)]) == 0
  assert f'3 episodes are valid, {len(kinds)} were' in capsys.readouterr().out
  reasons = quarantine.read_reasons(valid_dataset)
  assert set(reasons) == set(kinds)
  for name, kind in kinds.items():
    assert (valid_dataset / 'quarantine' / name).is_file()
    match = re.search(DAMAGE[kind][1], reasons[name])
    assert match, (kind, reasons[name])
  # Valid episodes are unchanged and can be sampled.
  assert [f.index for f in eps.list_episodes(valid_dataset)] == [0, 1, 2]
  replays, metadata = sources.load_sources([valid_dataset], 1e9, 0)
  assert metadata[0]['episodes'] == replays[0].num_episodes == 3
  assert replays[0].sample(0, 4, 6)['image'].shape == (4, 6, 4, 4, 3)


def test_valid_dataset_is_unchanged(valid_dataset, capsys):
  before = {p: p.read_bytes() for p in valid_dataset.rglob('*.npz')}
  assert main(['validate', str(valid_dataset)]) == 0
  assert '3 episodes are valid, 0 were' in capsys.readouterr().out
  assert {p: p.read_bytes() for p in valid_dataset.rglob('*.npz')} == before
  assert not (valid_dataset / 'quarantine').exists()


def test_dry_run_moves_nothing(valid_dataset, capsys):
  path = valid_dataset / 'episodes' / '000001-9.npz'
  path.write_bytes(path.read_bytes()[:99])
  assert main(['validate', '--dry-run', str(valid_dataset)]) == 1
  assert '000001-9.npz: damaged' in capsys.readouterr().out
  assert path.exists()


def test_training_error_names_the_command(valid_dataset):
  path = valid_dataset / 'episodes' / '000001-9.npz'
  path.write_bytes(path.read_bytes()[:99])
  with pytest.raises(UserError, match='000001-9.npz.*data validate DATASET'):
    sources.load_sources([valid_dataset], 1e9, 0)


def test_wrong_metadata_moves_nothing(valid_dataset, capsys):
  description = {**DESCRIPTION, 'action_dim': 5}
  dataset.write_metadata(valid_dataset, 'x', {'method': 'm'}, description, True)
  assert main(['validate', str(valid_dataset)]) == 1
  err = capsys.readouterr().err
  assert 'metadata.json: contradicts every valid episode' in err
  assert "'action' has 2 dimensions, should have 5" in err
  assert len(eps.list_episodes(valid_dataset)) == 3


def test_no_dataset(tmp_path, capsys):
  assert main(['validate', str(tmp_path / 'nowhere')]) == 1
  assert 'nowhere/metadata.json: missing' in capsys.readouterr().err
  assert not (tmp_path / 'nowhere').exists()
