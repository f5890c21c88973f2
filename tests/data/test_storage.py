"""File systems without locks, fsync, links or memory maps."""

import errno
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from vid2act_jax.analysis import load_runs
from vid2act_jax.data import files, formats, storage
from vid2act_jax.doctor import machine
from vid2act_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch):
  monkeypatch.setattr(storage, '_warned', set())


def fail_with(number):
  def fail(*unused, **options):
    raise OSError(number, os.strerror(number))

  return fail


@pytest.mark.parametrize('name', ['ENOSYS', 'ENOLCK', 'EOPNOTSUPP', 'EINVAL'])
def test_without_locks_it_warns_once(tmp_path, monkeypatch, capsys, name):
  monkeypatch.setattr(fcntl, 'flock', fail_with(getattr(errno, name)))
  for folder in 'a', 'b':
    with files.lock(tmp_path / folder):
      pass
  text = capsys.readouterr().err
  assert text.count('warning: ') == 1 and 'has no locks' in text
  assert str(tmp_path / 'a') in text


@pytest.mark.parametrize('name', ['EAGAIN', 'EACCES'])
def test_a_lock_that_is_held(tmp_path, monkeypatch, name):
  (tmp_path / '.lock').write_text('process 7 on there\n')
  monkeypatch.setattr(fcntl, 'flock', fail_with(getattr(errno, name)))
  with pytest.raises(files.Locked, match='process 7 on there.; wait'):
    with files.lock(tmp_path):
      pass


def test_a_lock_on_a_disk_that_fails(tmp_path, monkeypatch):
  monkeypatch.setattr(fcntl, 'flock', fail_with(errno.EIO))
  with pytest.raises(UserError, match='Input/output error.*doctor'):
    with files.lock(tmp_path):
      pass


@pytest.mark.parametrize('name', ['EINVAL', 'ENOSYS', 'EOPNOTSUPP'])
def test_without_fsync_it_writes_and_warns_once(
  tmp_path, monkeypatch, capsys, name
):
  monkeypatch.setattr(os, 'fsync', fail_with(getattr(errno, name)))
  for _ in range(2):
    files.atomic_write(tmp_path / 'a', lambda file: file.write(b'all'))
    files.append_line(tmp_path / 'b', 'line', durable=True)
  assert (tmp_path / 'a').read_bytes() == b'all'
  assert (tmp_path / 'b').read_text() == 'line\nline\n'
  assert capsys.readouterr().err.count('warning: ') == 1


@pytest.mark.parametrize(
  'name,advice',
  [
    ('ENOSPC', 'free disk space and run'),
    ('EDQUOT', 'free disk space and run'),
    ('EROFS', 'fix the permissions and run'),
    ('EIO', 'doctor --only disk'),
  ],
)
def test_writes_that_fail_say_what_to_do(tmp_path, monkeypatch, name, advice):
  monkeypatch.setattr(os, 'fsync', fail_with(getattr(errno, name)))
  for write in (
    lambda: files.atomic_write(tmp_path / 'a', lambda file: file.write(b'x')),
    lambda: files.append_line(tmp_path / 'a', 'x', durable=True),
  ):
    with pytest.raises(UserError, match=advice):
      write()


@pytest.fixture(scope='module')
def shim(tmp_path_factory):
  """A library that takes locks and fsync of folders away."""
  if not (compiler := shutil.which('cc') or shutil.which('gcc')):
    pytest.skip('no C compiler')
  path = tmp_path_factory.mktemp('shim') / 'unsupported.so'
  source = pathlib.Path(__file__).with_name('unsupported.c')
  flags = ['-shared', '-fPIC', '-o', str(path), str(source), '-ldl']
  subprocess.run([compiler, *flags], check=True)
  return path


_RUN = """
import pathlib, sys
import numpy as np
from experiments import debug, run
from vid2act_jax.loops.checkpoint import Checkpoint

config = debug.get_config()
config.update(stages=('collect',), sources=('probe_count',))
config.collect.update(episodes=1, workers=1)
workdir = pathlib.Path(sys.argv[1])
run.run(config.lock(), workdir)
saver = Checkpoint(workdir / 'student')
for step in 1, 2, 2:
  saver.save(step, {'w': np.full((9, 9), step)}, {'n': step})
state, extra, step = Checkpoint(workdir / 'student').restore_raw()
assert (state['w'] == 2).all() and extra == {'n': 2} and step == 2
"""


def test_a_run_without_locks_and_fsync_of_folders(tmp_path, shim):
  """Also the checkpoints, which TensorStore writes."""
  done = subprocess.run(
    [sys.executable, '-c', _RUN, str(tmp_path / 'run')],
    cwd=ROOT,
    env={**os.environ, 'LD_PRELOAD': str(shim)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  lines = [x for x in done.stderr.splitlines() if 'warning: ' in x]
  assert len(lines) == 2
  assert 'has no locks' in lines[0] and 'has no fsync' in lines[1]


def test_the_doctor_tries_the_folder(tmp_path, monkeypatch):
  found = {row.name: row for row in machine.disk(str(tmp_path))}
  names = {f'disk/{x}' for x in ('locks', 'fsync', 'links', 'mmap')}
  assert names < set(found)
  assert {found[name].status for name in names} == {'ok'}
  monkeypatch.setattr(fcntl, 'flock', fail_with(errno.ENOLCK))
  monkeypatch.setattr(os, 'fsync', fail_with(errno.EINVAL))
  monkeypatch.setattr(os, 'link', fail_with(errno.EPERM))
  monkeypatch.setattr(storage.mmap, 'mmap', fail_with(errno.ENODEV))
  found = {row.name: row for row in machine.disk(str(tmp_path))}
  status = {name: found[name].status for name in names}
  assert status.pop('disk/mmap') == 'problem'
  assert set(status.values()) == {'note'}
  assert 'No locks available' in found['disk/locks'].text
  assert not list(tmp_path.iterdir())


def test_linked_folders_are_read(tmp_path):
  (tmp_path / 'disk' / 'inner').mkdir(parents=True)
  (tmp_path / 'data').mkdir()
  length = 4
  arrays = {
    'image': np.zeros((length, 64, 64, 3), np.uint8),
    'action': np.zeros((length, 2), np.float32),
    'reward': np.zeros(length, np.float32),
    'discount': np.ones(length, np.float32),
  }
  np.savez(tmp_path / 'disk' / 'inner' / f'a-{length}.npz', **arrays)
  (tmp_path / 'data' / 'part').symlink_to('../disk')
  (tmp_path / 'data' / 'loop').symlink_to('.')
  (tmp_path / 'data' / 'again').symlink_to('part')
  for format in 'dreamer', 'vd4rl':
    source = formats.open_source(
      format, str(tmp_path / 'data'), formats.Options()
    )
    assert len(source) == 1


def test_linked_runs_are_found_once(tmp_path):
  (tmp_path / 'disk' / 'study' / 'a').mkdir(parents=True)
  (tmp_path / 'disk' / 'study' / 'a' / 'metrics.jsonl').touch()
  folder = tmp_path / 'runs'
  folder.mkdir()
  for name, target in (
    ('study', '../disk/study'),
    ('loop', '.'),
    ('same', '../disk/study/a'),
    ('gone', '../nowhere'),
  ):
    (folder / name).symlink_to(target)
  found, problems = load_runs.find([folder])
  assert found == [folder / 'same']
  (problem,) = problems
  assert problem.endswith('gone: links to ../nowhere, which is missing')
  with pytest.raises(UserError, match='a link to ../nowhere'):
    files.make_folder(folder / 'gone')


def test_linked_folders_are_removed_without_what_they_link_to(tmp_path):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'link').symlink_to('real')
  storage.remove_tree(tmp_path / 'link')
  assert [x.name for x in tmp_path.iterdir()] == ['real']
  for _ in range(2):
    storage.remove_tree(tmp_path / 'real')
  assert not list(tmp_path.iterdir())
