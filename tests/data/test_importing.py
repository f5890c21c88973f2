"""Imports as a user meets them, and looking at what came of them."""

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
  np.savez(folder / f'20260101T0000{number:02d}-abc-{length}.npz', **arrays)


def run(source, folder, **options):
  return importing.import_dataset(
    'dreamer', str(source), folder, formats.Options(**options)
  )


def load(folder):
  return [eps.load(file.path) for file in eps.list_episodes(folder)]


class TestImport:
  def test_command(self, source, tmp_path, capsys):
    to = tmp_path / 'my_task'
    command = ['import', '--format', 'dreamer', '--action-repeat', '2']
    assert main([*command, str(source), str(to)]) == 0
    assert f'{to}: 4 episodes' in capsys.readouterr().out
    about = dataset.read_metadata(to)
    assert (about['task'], about['episodes']) == ('my_task', 4)
    assert (about['size'], about['action_dim']) == (4, 2)
    assert about['env_steps'] == 2 * (sum(LENGTHS) - 4)
    assert about['collected']['format'] == 'dreamer'
    for number, (length, episode) in enumerate(
      zip(LENGTHS, load(to), strict=True)
    ):
      assert_same(episode, make_episode(length, number))

  def test_goes_on(self, source, tmp_path, monkeypatch):
    """Killed at any episode, run again: the same, and nothing twice."""
    run(source, tmp_path / 'whole')
    save = eps.save
    for kill in range(4):
      folder = tmp_path / f'killed{kill}'
      written = []

      def die(directory, index, episode, kill=kill, written=written):
        if index == kill and kill not in written:
          written.append(index)
          raise KeyboardInterrupt
        written.append(index)
        return save(directory, index, episode)

      monkeypatch.setattr(eps, 'save', die)
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

  def test_what_will_not_do_is_left_out(self, source, tmp_path, capsys):
    reward = make_episode(9)['reward']
    reward[4] = np.nan
    write(source, 1, 9, reward=reward)
    broken = source / '20260101T000003-abc-8.npz'
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    to = tmp_path / 'to'
    assert main(['import', '--format', 'dreamer', str(source), str(to)]) == 0
    out = capsys.readouterr().out
    assert '2 episodes' in out and '2 episodes will not do' in out
    assert [len(e['reward']) for e in load(to)] == [6, 7]
    reasons = {p.name: p.read_text() for p in (to / 'quarantine').glob('*.txt')}
    assert len(reasons) == 2
    assert any("'reward' is not finite" in text for text in reasons.values())
    # Mended at its source, it comes in by the next import.
    broken.write_bytes(whole)
    about = run(source, to)
    assert about['episodes'] == 3 and about['collected']['left_out'] == 1
    assert [len(e['reward']) for e in load(to)] == [6, 7, 8]
    assert len(list((to / 'quarantine').iterdir())) == 1

  def test_source_that_grows(self, source, tmp_path):
    run(source, tmp_path / 'to')
    new = source / '20250101T000000-older-5.npz'  # First by its name.
    write(source, 7, 5)
    (source / '20260101T000007-abc-5.npz').rename(new)
    assert run(source, tmp_path / 'to')['episodes'] == 5
    for number, (length, episode) in enumerate(
      zip([*LENGTHS, 5], load(tmp_path / 'to'), strict=True)
    ):
      wanted = make_episode(length, 7 if number == 4 else number)
      assert_same(episode, wanted)

  def test_other_sizes(self, source, tmp_path):
    write(source, 4, 5, image=np.zeros((5, 8, 8, 3), np.uint8))
    about = run(source, tmp_path / 'mixed')
    assert about['collected']['left_out'] == 1
    (reason,) = (tmp_path / 'mixed' / 'quarantine').iterdir()
    assert 'is 8x8, should be 4x4' in reason.read_text()
    about = run(source, tmp_path / 'resized', size=4)
    assert (about['episodes'], about['size']) == (5, 4)

  def test_other_actions(self, source, tmp_path):
    write(source, 4, 5, action=np.zeros((5, 3), np.float32))
    run(source, tmp_path / 'to')
    (reason,) = (tmp_path / 'to' / 'quarantine').iterdir()
    assert "'action' has 3 dimensions, should have 2" in reason.read_text()

  def test_folder_of_something_else(self, source, tmp_path):
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

  def test_nothing_there(self, tmp_path, capsys):
    command = ['import', '--format', 'dreamer', str(tmp_path / 'no')]
    assert main([*command, str(tmp_path / 'to')]) == 1
    assert f'error: {tmp_path / "no"}' in capsys.readouterr().err
    assert not (tmp_path / 'to').exists()

  def test_nothing_that_will_do(self, tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    write(source, 0, 4, reward=np.full(4, np.nan, np.float32))
    with pytest.raises(UserError, match='no episode of it will do.*not finite'):
      run(source, tmp_path / 'to')

  def test_source_that_vanishes(self, source, tmp_path):
    def vanish(done, total):
      if done == 2:
        source.rename(tmp_path / 'away')

    options = formats.Options()
    to = tmp_path / 'to'
    with pytest.raises(UserError, match='vanished at .*bring it back'):
      importing.import_dataset(
        'dreamer', str(source), to, options, progress=vanish
      )
    assert not (to / 'quarantine').exists() and len(load(to)) == 2
    (tmp_path / 'away').rename(source)
    assert run(source, to)['episodes'] == 4

  def test_full_disk(self, source, tmp_path, monkeypatch):
    to, fsync, calls = tmp_path / 'to', os.fsync, []

    def full(descriptor):
      calls.append(descriptor)
      if len(calls) == 8:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left.*already is kept'):
      run(source, to)
    monkeypatch.undo()
    assert 0 < len(load(to)) < 4
    assert not list(to.rglob('*' + files.TEMPORARY))
    assert run(source, to)['episodes'] == 4


class TestLook:
  def make(self, folder, lengths=(6, 9, 7)):
    fill(folder, lengths)
    dataset.write_metadata(
      folder, 'dmc_x', {'method': 'collect'}, DESCRIPTION, True
    )
    return folder

  def test_facts(self, tmp_path):
    facts = inspect.inspect(self.make(tmp_path))
    np.testing.assert_array_equal(facts['lengths'], [6, 9, 7])
    np.testing.assert_allclose(facts['returns'], [15, 8036, 12021])
    np.testing.assert_allclose(facts['action_high'], [8 / 256] * 2)
    assert facts['bytes_held'] == 22 * (4 * 4 * 3 + 2 * 4 + 4 + 1 + 4)
    assert facts['successes'] is None and facts['problems'] == []

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
    picture = np.array(Image.open(folder / 'contact_sheet.png'))
    # A row an episode, worst return first; first and last frames at the ends.
    assert picture.shape == (3 * 6, 10 * 6, 3)
    for row, length in enumerate((6, 9, 7)):
      assert picture[6 * row, 0].tolist() == [row, 0, 0]
      assert picture[6 * row, 54].tolist() == [row, length - 1, 0]

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
    about = json.loads((folder / dataset.FILE).read_text())
    about['complete'] = False
    (folder / dataset.FILE).write_text(json.dumps(about))
    assert main(['inspect', str(folder)]) == 0
    assert 'problem: unfinished; run what made it' in capsys.readouterr().out

  def test_no_dataset(self, tmp_path, capsys):
    assert main(['inspect', str(tmp_path)]) == 1
    assert 'metadata.json: missing' in capsys.readouterr().err
