"""Where runs are kept: the life of a run folder in a bucket."""

import contextlib
import threading

import pytest

from tests.gcs import is_file_upload
from vid2act_jax.data import lease
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.files import Locked
from vid2act_jax.data.mirror import MANIFEST, Mirror
from vid2act_jax.loops import run_storage
from vid2act_jax.types import UserError

URL = 'gs://bucket/runs/one'


def fetched(folder, name=''):
  Mirror(Bucket(URL + name), folder).fetch(pytest.fail)
  return {p.name for p in folder.rglob('*') if p.is_file()}


def test_a_run_is_committed_also_after_an_error(gcs, tmp_path):
  folder = tmp_path / 'copy'
  with run_storage.open_storage(URL, folder, [folder]) as storage:
    assert not storage.shared
    assert storage.named(f'{folder}/a/b: {folder}.') == f'{URL}/a/b: {URL}.'
    with pytest.raises(KeyError), storage.keep(folder):
      (folder / 'first').write_text('')
      storage.commit(folder)
      storage.wait(folder)
      assert fetched(tmp_path / '1') == {'first'}
      (folder / 'second').write_text('')
      raise KeyError
    assert f'runs/one/{lease.NAME}' in gcs.names()
  assert gcs.names() == [
    f'runs/one/{name}' for name in (MANIFEST, 'first', 'second')
  ]
  # Another machine.
  folder = tmp_path / 'other'
  with run_storage.open_storage(URL, folder, [folder], writes=False):
    assert {path.name for path in folder.iterdir()} == {'first', 'second'}
    assert f'runs/one/{lease.NAME}' not in gcs.names()


def test_a_failing_bucket_does_not_hide_the_error_of_the_run(
  gcs, tmp_path, capsys
):
  folder = tmp_path / 'copy'
  with (
    run_storage.open_storage(URL, folder, [folder]) as storage,
    pytest.raises(KeyError),
    storage.keep(folder),
  ):
    (folder / 'first').write_text('')
    gcs.fail = lambda method, url: 403
    raise KeyError
  assert f'warning: {URL}: no permission' in capsys.readouterr().err


def test_seeds_are_committed_one_by_one(gcs, tmp_path):
  folders = [tmp_path / 'copy' / f'seed_{seed}' for seed in range(2)]
  with run_storage.open_storage(URL, tmp_path / 'copy', folders) as storage:
    for folder in folders:
      (folder / 'sources').mkdir()
      (folder / folder.name).write_text('')
    storage.commit(folders[1] / 'sources')
    storage.wait(folders[1])
    assert fetched(tmp_path / '0', '/seed_0') == set()
    assert fetched(tmp_path / '1', '/seed_1') == {'seed_1'}
    assert storage.named(str(folders[1])) == f'{URL}/seed_1'


def test_processes_write_seeds_of_the_same_folder(gcs, tmp_path, monkeypatch):
  monkeypatch.setattr(lease, '_SECONDS', 1.0)

  def opened(process, seed):
    copy = tmp_path / process
    return run_storage.open_storage(URL, copy, [copy / f'seed_{seed}'])

  with opened('a', 0), opened('b', 1):
    with pytest.raises(Locked), opened('c', 1):
      pass
    leased = [name for name in gcs.names() if name.endswith(lease.NAME)]
    assert leased == [f'runs/one/seed_{i}/{lease.NAME}' for i in range(2)]
  assert not gcs.names()


def test_logs_are_uploaded_between_commits(gcs, tmp_path, monkeypatch):
  monkeypatch.setattr(run_storage, '_FLUSH_SECONDS', 0.05)
  folder = tmp_path / 'copy'
  with run_storage.open_storage(URL, folder, [folder]) as storage:
    storage.commit(folder)
    storage.wait(folder)
    (folder / 'metrics.jsonl').write_text('')
    for _ in range(100):
      if 'runs/one/metrics.jsonl' in gcs.names():
        break
      storage._ended.wait(0.05)
    assert 'runs/one/metrics.jsonl' in gcs.names()


@pytest.fixture
def uploads(gcs):
  """Events: an upload of a file has begun; it may end."""
  begun, allowed = threading.Event(), threading.Event()

  def wait(method, url):
    if is_file_upload(url):
      begun.set()
      allowed.wait(30)

  gcs.fail = wait
  yield begun, allowed
  allowed.set()


def save(folder, step):
  """Writes a checkpoint, and removes the one before."""
  for old in (folder / 'student').glob('*'):
    (old / 'array').unlink()
    old.rmdir()
  (folder / 'student' / str(step)).mkdir(parents=True)
  (folder / 'student' / str(step) / 'array').write_text(str(step))


@contextlib.contextmanager
def uploading(folder, begun):
  """The storage of a run whose checkpoint of step 5 is being uploaded."""
  with run_storage.open_storage(URL, folder, [folder]) as storage:
    save(folder, 5)
    storage.commit(folder)
    assert begun.wait(30)
    yield storage


def test_a_run_goes_on_while_its_checkpoint_is_uploaded(gcs, uploads, tmp_path):
  begun, allowed = uploads
  folder = tmp_path / 'copy'
  with uploading(folder, begun) as storage:
    # The next one replaces it, while nothing is committed.
    save(folder, 10)
    assert f'runs/one/{MANIFEST}' not in gcs.names()
    allowed.set()
    storage.wait(folder)
    Mirror(Bucket(URL), tmp_path / '1').fetch(pytest.fail)
    assert (tmp_path / '1/student/5/array').read_text() == '5'
    assert not (tmp_path / '1/student/10').exists()
    with storage.keep(folder):
      pass
    assert gcs.names('runs/one/student/') == ['runs/one/student/10/array']


def test_a_commit_waits_for_the_one_before(gcs, uploads, tmp_path):
  begun, allowed = uploads
  folder = tmp_path / 'copy'
  with uploading(folder, begun) as storage:
    save(folder, 10)
    second = threading.Thread(target=storage.commit, args=[folder])
    second.start()
    second.join(0.3)
    assert second.is_alive()
    allowed.set()
    second.join(30)
    storage.wait(folder)
  assert fetched(tmp_path / '1') == {'array'}
  assert (tmp_path / '1/student/10/array').read_text() == '10'


def test_an_error_of_an_upload_is_raised_by_the_next_commit(
  gcs, tmp_path, capsys
):
  folder = tmp_path / 'copy'
  fail = lambda method, url: 403 if is_file_upload(url) else None
  with run_storage.open_storage(URL, folder, [folder]) as storage:
    save(folder, 5)
    gcs.fail = fail
    with pytest.raises(UserError, match='no permission'), storage.keep(folder):
      storage.commit(folder)
      storage.commit(folder)
    # At its end, a run tries once more, and warns.
    assert 'no permission' in capsys.readouterr().err
    assert f'runs/one/{MANIFEST}' not in gcs.names()
    with pytest.raises(UserError, match='no permission'), storage.keep(folder):
      storage.commit(folder)
    # The last commit also has what earlier ones failed to upload.
    with storage.keep(folder):
      storage.commit(folder)
      gcs.fail = lambda method, url: None
  assert gcs.names('runs/one/student/') == ['runs/one/student/5/array']


def test_commits_without_hard_links(gcs, tmp_path, monkeypatch):
  monkeypatch.setattr(Mirror, 'snapshot', lambda self: None)
  folder = tmp_path / 'copy'
  with run_storage.open_storage(URL, folder, [folder]) as storage:
    save(folder, 5)
    storage.commit(folder)
    assert fetched(tmp_path / '1') == {'array'}


def test_a_missing_bucket(gcs, tmp_path):
  opened = run_storage.open_storage('gs://missing/a', tmp_path, [tmp_path])
  with pytest.raises(UserError, match='there is no bucket gs://missing'):
    opened.__enter__()
