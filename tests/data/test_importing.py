"""Tests of importing and inspecting datasets from the command line."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.episode_data import (
  DESCRIPTION,
  assert_same,
  fill,
  make_episode,
)
from vid2act_jax.data import dataset, files, formats, importing, inspect
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.__main__ import main
from vid2act_jax.types import UserError

LENGTHS = [6, 9, 7, 8]


@pytest.fixture
def source(tmp_path):
  """Four Dreamer-style episodes."""
  folder = tmp_path / 'source'
  folder.mkdir()
  for number, length in enumerate(LENGTHS):
    write(folder, number, length)
  return folder


def write(folder, number, length, **changes):
  episode = make_episode(length, number)
  keys = ('image', 'action', 'reward', 'discount')
  arrays = {key: episode[key] for key in keys} | changes
  arrays = {key: value for key, value in arrays.items() if value is not None}
  np.savez(folder / f'20260101T0000{number:02d}-abc-{length}.npz', **arrays)


def run(source, folder, **options):
  return importing.import_dataset(
    'dreamer', str(source), folder, formats.Options(**options)
  )


def load(folder):
  return [eps.load(file.path) for file in eps.list_episodes(folder)]


class TestImport:
  def test_command(self, source, tmp_path, capsys):
    target = tmp_path / 'my_task'
    command = ['import', '--format', 'dreamer', '--action-repeat', '2']
    assert main([*command, str(source), str(target)]) == 0
    assert f'{target}: 4 episodes' in capsys.readouterr().out
    metadata = dataset.read_metadata(target)
    assert (metadata['task'], metadata['episodes']) == ('my_task', 4)
    assert (metadata['size'], metadata['action_dim']) == (4, 2)
    assert metadata['env_steps'] == 2 * (sum(LENGTHS) - 4)
    assert metadata['collected']['format'] == 'dreamer'
    for number, (length, episode) in enumerate(
      zip(LENGTHS, load(target), strict=True)
    ):
      assert_same(episode, make_episode(length, number))

  def test_resumes(self, source, tmp_path, monkeypatch):
    """Killed at any episode and run again, it gives the same episodes."""
    run(source, tmp_path / 'whole')
    save = eps.save
    for kill in range(4):
      folder = tmp_path / f'killed{kill}'
      written = []

      def interrupted_save(
        directory, index, episode, kill=kill, written=written
      ):
        if index == kill and kill not in written:
          written.append(index)
          raise KeyboardInterrupt
        written.append(index)
        return save(directory, index, episode)

      monkeypatch.setattr(eps, 'save', interrupted_save)
      with pytest.raises(KeyboardInterrupt):
        run(source, folder)
      with pytest.raises(UserError, match='not complete'):
        dataset.read_metadata(folder)
      run(source, folder)
      monkeypatch.undo()
      assert sorted(set(written)) == [0, 1, 2, 3]
      for left, right in zip(
        load(tmp_path / 'whole'), load(folder), strict=True
      ):
        assert_same(left, right)

  def test_invalid_episodes_are_skipped(self, source, tmp_path, capsys):
    reward = make_episode(9)['reward']
    reward[4] = np.nan
    write(source, 1, 9, reward=reward)
    broken = source / '20260101T000003-abc-8.npz'
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    target = tmp_path / 'to'
    assert (
      main(['import', '--format', 'dreamer', str(source), str(target)]) == 0
    )
    out = capsys.readouterr().out
    assert '2 episodes' in out and '2 episodes are invalid' in out
    assert [len(e['reward']) for e in load(target)] == [6, 7]
    reasons = {
      p.name: p.read_text() for p in (target / 'quarantine').glob('*.txt')
    }
    assert len(reasons) == 2
    assert any("'reward' is not finite" in text for text in reasons.values())
    # Fixed in the source, it is added by the next import.
    broken.write_bytes(whole)
    metadata = run(source, target)
    assert metadata['episodes'] == 3
    assert metadata['collected']['left_out'] == 1
    assert [len(e['reward']) for e in load(target)] == [6, 7, 8]
    assert len(list((target / 'quarantine').iterdir())) == 1

  def test_new_episodes_in_the_source(self, source, tmp_path):
    run(source, tmp_path / 'to')
    new = source / '20250101T000000-older-5.npz'  # First by its name.
    write(source, 7, 5)
    (source / '20260101T000007-abc-5.npz').rename(new)
    assert run(source, tmp_path / 'to')['episodes'] == 5
    for number, (length, episode) in enumerate(
      zip([*LENGTHS, 5], load(tmp_path / 'to'), strict=True)
    ):
      expected = make_episode(length, 7 if number == 4 else number)
      assert_same(episode, expected)

  def test_other_sizes(self, source, tmp_path):
    write(source, 4, 5, image=np.zeros((5, 8, 8, 3), np.uint8))
    metadata = run(source, tmp_path / 'mixed')
    assert metadata['collected']['left_out'] == 1
    (reason,) = (tmp_path / 'mixed' / 'quarantine').iterdir()
    assert 'is 8x8, should be 4x4' in reason.read_text()
    metadata = run(source, tmp_path / 'resized', size=4)
    assert (metadata['episodes'], metadata['size']) == (5, 4)

  def test_other_actions(self, source, tmp_path):
    write(source, 4, 5, action=np.zeros((5, 3), np.float32))
    run(source, tmp_path / 'to')
    (reason,) = (tmp_path / 'to' / 'quarantine').iterdir()
    assert "'action' has 3 dimensions, should have 2" in reason.read_text()

  def test_folder_with_another_dataset(self, source, tmp_path):
    run(source, tmp_path / 'to')
    with pytest.raises(UserError, match='other options; choose another'):
      run(source, tmp_path / 'to', size=8)
    other = shutil.copytree(source, tmp_path / 'other')
    with pytest.raises(UserError, match='holds another dataset'):
      run(other, tmp_path / 'to')
    (tmp_path / 'to' / dataset.FILE).unlink()
    with pytest.raises(UserError, match='but no metadata.json'):
      run(source, tmp_path / 'to')
    assert len(load(tmp_path / 'to')) == 4

  def test_metadata_of_other_types(self, source, tmp_path, capsys):
    """What a dataset says about its import is not trusted."""
    target = tmp_path / 'to'
    metadata = run(source, target)
    counts = {'clipped_actions': 'x', 'plain': [1], 'still': 2}
    for about in ('x', [1], {'counts': 3}, {'counts': counts, 'warnings': [1]}):
      metadata['collected']['about'] = about
      (target / dataset.FILE).write_text(json.dumps(metadata))
      assert main(['inspect', str(target)]) == 0
      assert run(source, target)['episodes'] == 4
    metadata['collected']['options'] = ['clip_actions']
    (target / dataset.FILE).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match='choose another folder'):
      run(source, target)

  def test_without_rewards(self, tmp_path, capsys):
    source, target, other = (tmp_path / name for name in ('from', 'to', 'out'))
    source.mkdir()
    for number, length in enumerate(LENGTHS):
      write(source, number, length, reward=None)
    command = ['import', '--format', 'dreamer', str(source), str(target)]
    for _ in range(2):  # Imported again, nothing changes.
      assert main(command) == 0
      assert 'no rewards: zeros are stored' in capsys.readouterr().out
      metadata = dataset.read_metadata(target)
      assert metadata['has_rewards'] is False and metadata['return'] is None
    assert not any(episode['reward'].any() for episode in load(target))
    assert main(['inspect', str(target)]) == 0
    out = capsys.readouterr().out
    assert 'returns    no rewards' in out and '#' not in out
    assert (target / 'contact_sheet.png').exists()
    # Exported, it still has none.
    command = ['export', '--format', 'dreamer', str(target), str(other)]
    assert main(command) == 0
    assert "lost: 'reward': the dataset has none" in capsys.readouterr().out
    assert run(other, tmp_path / 'again')['has_rewards'] is False
    for left, right in zip(load(target), load(tmp_path / 'again'), strict=True):
      assert_same(left, right)
    write(source, 9, 5)
    with pytest.raises(UserError, match='now the source has rewards.*another'):
      run(source, target)

  def test_older_imports_without_rewards_are_corrected(self, tmp_path):
    """They did not record that the source has none."""
    source, target = tmp_path / 'from', tmp_path / 'to'
    source.mkdir()
    write(source, 0, 5, reward=None)
    metadata = run(source, target)
    del metadata['has_rewards']
    (target / dataset.FILE).write_text(json.dumps(metadata))
    assert dataset.has_rewards(dataset.read_metadata(target))
    run(source, target)
    assert not dataset.has_rewards(dataset.read_metadata(target))

  def test_missing_source(self, tmp_path, capsys):
    command = ['import', '--format', 'dreamer', str(tmp_path / 'no')]
    assert main([*command, str(tmp_path / 'to')]) == 1
    assert f'error: {tmp_path / "no"}' in capsys.readouterr().err
    assert not (tmp_path / 'to').exists()

  def test_no_valid_episode(self, tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    write(source, 0, 4, reward=np.full(4, np.nan, np.float32))
    with pytest.raises(UserError, match='has no valid episode.*not finite'):
      run(source, tmp_path / 'to')

  def test_source_disappears(self, source, tmp_path):
    def remove_source(done, total):
      if done == 2:
        source.rename(tmp_path / 'away')

    options = formats.Options()
    target = tmp_path / 'to'
    with pytest.raises(UserError, match='disappeared at .*restore it'):
      importing.import_dataset(
        'dreamer', str(source), target, options, progress=remove_source
      )
    assert not (target / 'quarantine').exists() and len(load(target)) == 2
    (tmp_path / 'away').rename(source)
    assert run(source, target)['episodes'] == 4

  def test_full_disk(self, source, tmp_path, monkeypatch):
    target, fsync, calls = tmp_path / 'to', os.fsync, []

    def full(descriptor):
      calls.append(descriptor)
      if len(calls) == 8:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left.*already .* are kept'):
      run(source, target)
    monkeypatch.undo()
    assert 0 < len(load(target)) < 4
    assert not list(target.rglob('*' + files.TEMPORARY))
    assert run(source, target)['episodes'] == 4


class TestInspect:
  def make(self, folder, lengths=(6, 9, 7)):
    fill(folder, lengths)
    dataset.write_metadata(
      folder, 'dmc_x', {'method': 'collect'}, DESCRIPTION, True
    )
    return folder

  def test_statistics(self, tmp_path):
    info = inspect.inspect(self.make(tmp_path))
    np.testing.assert_array_equal(info['lengths'], [6, 9, 7])
    np.testing.assert_allclose(info['returns'], [15, 8036, 12021])
    np.testing.assert_allclose(info['action_high'], [8 / 256] * 2)
    assert info['bytes_held'] == 22 * (4 * 4 * 3 + 2 * 4 + 4 + 1 + 4)
    assert info['successes'] is None and info['problems'] == []

  def test_command(self, tmp_path, capsys):
    folder = self.make(tmp_path / 'd')
    assert main(['inspect', str(folder)]) == 0
    out = capsys.readouterr().out
    for part in (
      'episodes   3',
      'frames     22, 4x4, action repeat 2',
      '6 to 9 frames, median 7',
      'actions    2: 0.00 to 0.03, 0.00 to 0.03',
      'GB held for sampling',
      '####',
    ):
      assert part in out, part
    assert 'problem' not in out
    sheet = np.array(Image.open(folder / 'contact_sheet.png'))
    # One row per episode, lowest return first; first and last frames included.
    assert sheet.shape == (3 * 6, 10 * 6, 3)
    for row, length in enumerate((6, 9, 7)):
      assert sheet[6 * row, 0].tolist() == [row, 0, 0]
      assert sheet[6 * row, 54].tolist() == [row, length - 1, 0]

  def test_problems(self, tmp_path, capsys):
    folder = self.make(tmp_path / 'd')
    path = folder / 'episodes' / '000001-9.npz'
    path.write_bytes(path.read_bytes()[:50])
    assert main(['inspect', str(folder)]) == 0
    assert 'problem: 000001-9.npz: cannot be read' in capsys.readouterr().out
    assert main(['validate', str(folder)]) == 0
    capsys.readouterr()
    assert main(['inspect', str(folder)]) == 0
    out = capsys.readouterr().out
    assert 'problem: 1 in quarantine, the first: 000001-9.npz' in out
    metadata = json.loads((folder / dataset.FILE).read_text())
    metadata['complete'] = False
    (folder / dataset.FILE).write_text(json.dumps(metadata))
    assert main(['inspect', str(folder)]) == 0
    assert 'problem: unfinished; run the command' in capsys.readouterr().out

  def test_links(self, tmp_path, capsys):
    """Episodes behind links; one of them leads nowhere."""
    whole, folder = self.make(tmp_path / 'whole'), tmp_path / 'd'
    folder.mkdir()
    shutil.copy(whole / dataset.FILE, folder)
    (folder / 'episodes').symlink_to(whole / 'episodes')
    assert main(['inspect', str(folder)]) == 0
    assert 'problem' not in capsys.readouterr().out
    path = whole / 'episodes' / '000001-9.npz'
    path.rename(tmp_path / 'away.npz')
    path.symlink_to(tmp_path / 'gone.npz')
    assert main(['inspect', str(folder)]) == 0
    assert 'problem: 000001-9.npz: cannot be read' in capsys.readouterr().out
    assert main(['validate', str(folder)]) == 0
    assert '2 episodes are valid, 1 were moved' in capsys.readouterr().out

  def test_no_dataset(self, tmp_path, capsys):
    assert main(['inspect', str(tmp_path)]) == 1
    assert 'metadata.json: missing' in capsys.readouterr().err
