"""Folders in a bucket: manifests, leases, errors; with an emulator."""

import errno
import json
import os
import types

import pytest

from vid2act_jax.data import bucket as bucket_lib
from vid2act_jax.data import lease as lease_lib
from vid2act_jax.data import mirror as mirror_lib
from vid2act_jax.data.bucket import Bucket, Changed
from vid2act_jax.data.files import Locked
from vid2act_jax.data.lease import Lease
from vid2act_jax.data.mirror import MANIFEST, Mirror
from vid2act_jax.types import UserError

URL = 'gs://bucket/runs/one'
FILES = {
  'config.json': '{}',
  'metrics.jsonl': 'line\n',
  'replay/episodes/000000-21.npz': 'first',
  'student/5/state/d/1': 'weights',
}


def write(folder, contents):
  for name, text in contents.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def read(folder):
  paths = (path for path in folder.rglob('*') if path.is_file())
  return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


def open_mirror(folder, process=0, num_processes=1):
  """A mirror that has fetched, and its warnings."""
  mirror, warnings = Mirror(Bucket(URL), folder, process, num_processes), []
  mirror.fetch(warnings.append)
  return mirror, warnings


def objects(gcs):
  names = gcs.names('runs/one/')
  return {name.removeprefix('runs/one/') for name in names} - {MANIFEST}


@pytest.fixture
def one(gcs, tmp_path):
  """A committed folder, and its mirror."""
  mirror, _ = open_mirror(tmp_path / 'one')
  write(tmp_path / 'one', FILES)
  mirror.commit(mirror.upload())
  return mirror


def test_a_commit_is_fetched_elsewhere(gcs, one, tmp_path):
  caches = {'embeddings/x/1.npz': '', '.lock': '', 'student/6.tmp': ''}
  write(one.folder, {'new': '1', **caches})
  one.commit(one.upload())
  write(tmp_path / 'other', {'old': 'removed', 'config.json': 'replaced'})
  _, warnings = open_mirror(tmp_path / 'other')
  assert read(tmp_path / 'other') == {**FILES, 'new': '1'}
  assert not warnings
  (one.folder / 'new').unlink()
  one.commit(one.upload())
  assert objects(gcs) == set(FILES)


def test_only_commits_count(gcs, one, tmp_path):
  """A process that is killed while it uploads changes nothing."""
  write(one.folder, {
    'student/5/state/d/1': 'replaced', 'student/9/state/d/1': 'new',
    'metrics.jsonl': 'line\nline\n',
  })  # fmt: skip
  (one.folder / 'replay/episodes/000000-21.npz').unlink()
  one.upload()
  # Of another run, below.
  Bucket(URL).write('two/student/5/state/d/1', b'x')
  other, warnings = open_mirror(tmp_path / 'other')
  # Logs may be newer: a resumed run cuts them back.
  assert read(tmp_path / 'other') == {**FILES, 'metrics.jsonl': 'line\nline\n'}
  assert not warnings
  other.remove_uncommitted()
  assert objects(gcs) == {*FILES, 'two/student/5/state/d/1'}


def test_a_replaced_episode_that_was_not_committed(gcs, one, tmp_path):
  write(one.folder, {'replay/episodes/000000-21.npz': 'replaced'})
  one.upload()
  assert len(objects(gcs)) == len(FILES) + 1
  other, _ = open_mirror(tmp_path / 'other')
  assert read(tmp_path / 'other') == FILES
  other.remove_uncommitted()
  assert objects(gcs) == set(FILES)


def test_replaced_checkpoints_have_new_objects(gcs, one, tmp_path):
  write(one.folder, {'student/5/state/d/1': 'replaced'})
  one.commit(one.upload())
  open_mirror(tmp_path / 'other')
  text = (tmp_path / 'other/student/5/state/d/1').read_text()
  assert text == 'replaced' and len(objects(gcs)) == len(FILES)


def test_logs_and_episodes_between_commits(gcs, one, tmp_path):
  write(one.folder, {
    'metrics.jsonl': 'line\nline\n',
    'replay/episodes/000000-9.npz': 'again, shorter',
    'replay/metadata.json': '{}',
    'student/9/state/d/1': 'new',
  })  # fmt: skip
  (one.folder / 'replay/episodes/000000-21.npz').unlink()
  one.flush()
  open_mirror(tmp_path / 'other')
  expected = {**read(one.folder)}
  del expected['student/9/state/d/1']
  assert read(tmp_path / 'other') == expected


def test_files_of_several_processes(gcs, tmp_path):
  mirrors = [open_mirror(tmp_path / str(i), i, 2)[0] for i in range(2)]
  for i, mirror in enumerate(mirrors):
    write(mirror.folder, {
      'config.json': f'{i}', f'replay/{i}-of-2/episodes/000000-21.npz': f'{i}'
    })  # fmt: skip
  mirrors[1].share(mirrors[1].upload())
  mirrors[0].commit(mirrors[0].upload())
  episodes = [f'replay/{i}-of-2/episodes/000000-21.npz' for i in range(2)]
  open_mirror(tmp_path / 'second', 1, 2)
  assert read(tmp_path / 'second') == {'config.json': '0', episodes[1]: '1'}
  # With another number of processes each has all episodes.
  open_mirror(tmp_path / 'third', 0, 3)
  expected = {'config.json': '0', episodes[0]: '0', episodes[1]: '1'}
  assert read(tmp_path / 'third') == expected


def test_removed_and_damaged_objects(gcs, one, tmp_path):
  gcs.remove('runs/one/replay/episodes/000000-21.npz')
  gcs.write('runs/one/student/5/state/d/1', b'half')
  _, warnings = open_mirror(tmp_path / 'other')
  assert sorted(read(tmp_path / 'other')) == ['config.json', 'metrics.jsonl']
  removed, damaged = sorted(warnings)
  assert f'{URL}/replay/episodes/000000-21.npz was removed' in removed
  assert f'{URL}/student/5/state/d/1 is damaged or not whole' in damaged


def test_a_removed_or_damaged_manifest(gcs, one, tmp_path):
  data = gcs.read(f'runs/one/{MANIFEST}')
  for content, message in (
    (b'{"a": ', 'is damaged'),
    (b'{"../a": ["a", 1, ""]}', "it names '../a'"),
    (b'[]', 'is damaged'),
  ):
    gcs.write(f'runs/one/{MANIFEST}', content)
    with pytest.raises(UserError, match=message):
      open_mirror(tmp_path / 'other')
  gcs.remove(f'runs/one/{MANIFEST}')
  with pytest.raises(UserError, match='holds a run without .vid2act/manifest'):
    open_mirror(tmp_path / 'other')
  assert objects(gcs) == set(FILES) and data
  # To read, what is there is taken.
  assert mirror_lib.find_runs(Bucket('gs://bucket/runs')) == ['one']
  mirror = Mirror(Bucket(URL), tmp_path / 'copy')
  names = ['config.json', 'metrics.jsonl']
  mirror.fetch(print, lambda paths: names, resumes=False)
  assert sorted(read(tmp_path / 'copy')) == names


def test_a_snapshot_is_committed_while_the_folder_changes(gcs, one, tmp_path):
  write(one.folder, {'student/9/state/d/1': 'new'})
  before = read(one.folder)
  snapshot = one.snapshot()
  # Later checkpoints replace it, and episodes are forgotten.
  write(one.folder, {'student/12/state/d/1': 'newest'})
  (one.folder / 'student/9/state/d/1').unlink()
  (one.folder / 'replay/episodes/000000-21.npz').unlink()
  one.commit_snapshot(snapshot, lambda: None)
  open_mirror(tmp_path / 'other')
  assert read(tmp_path / 'other') == before
  assert not list(one.folder.glob('.snapshot-*'))
  one.commit(one.upload())
  open_mirror(tmp_path / 'other')
  assert read(tmp_path / 'other') == read(one.folder)


def test_snapshots_that_are_not_committed(gcs, one, monkeypatch):
  """A refused one is removed at once, that of a killed process at its start."""

  def refuse():
    raise UserError('refused')

  write(one.folder, {'student/9/state/d/1': 'new'})
  before = gcs.read(f'runs/one/{MANIFEST}')
  with pytest.raises(UserError, match='refused'):
    one.commit_snapshot(one.snapshot(), refuse)
  assert gcs.read(f'runs/one/{MANIFEST}') == before
  assert not list(one.folder.glob('.snapshot-*'))
  one.snapshot()
  assert list(one.folder.glob('.snapshot-*'))
  one.fetch(pytest.fail)
  assert not list(one.folder.glob('.snapshot-*'))

  def link(source, target):
    raise OSError(errno.EPERM, 'not permitted')

  monkeypatch.setattr(os, 'link', link)
  assert one.snapshot() is None
  assert not list(one.folder.glob('.snapshot-*'))


def test_a_commit_while_a_reader_fetches(gcs, one, tmp_path):
  """What was read of the manifest is removed before it is fetched."""
  commits = []

  def choose(paths):
    if not commits:
      write(one.folder, {'student/9/state/d/1': 'new'})
      (one.folder / 'student/5/state/d/1').unlink()
      one.commit(one.upload())
    commits.append(paths)
    return paths

  Mirror(Bucket(URL), tmp_path / 'other').fetch(pytest.fail, choose)
  assert read(tmp_path / 'other') == read(one.folder)
  assert len(commits) == 2


def test_results_are_added_to_what_is_there(gcs, one, tmp_path):
  other, _ = open_mirror(tmp_path / 'other')
  write(one.folder, {'student/9/state/d/1': 'new'})
  one.commit(one.upload())
  write(other.folder, {'diagnosis.json': '{}'})
  other.add(['diagnosis.json'])
  open_mirror(tmp_path / 'last')
  expected = {**read(one.folder), 'diagnosis.json': '{}'}
  assert read(tmp_path / 'last') == expected


def test_the_run_that_a_folder_is_in(gcs, one):
  for url, found in (
    (URL, (URL, '')),
    (f'{URL}/sources/a', (URL, 'sources/a')),
    ('gs://bucket/runs', ('gs://bucket/runs', '')),
    ('gs://bucket/data/a', ('gs://bucket/data/a', '')),
  ):
    owner, name = mirror_lib.find_owner(Bucket(url))
    assert (owner.url, name) == found


def test_names_of_copies(tmp_path):
  text = f'{tmp_path}: {tmp_path}/a, {tmp_path}-1/a, {tmp_path}1'
  assert bucket_lib.rename(text, tmp_path, URL) == (
    f'{URL}: {URL}/a, {tmp_path}-1/a, {tmp_path}1'
  )


def test_another_writer(gcs, one, tmp_path):
  other, _ = open_mirror(tmp_path / 'other')
  write(other.folder, {'config.json': 'other'})
  other.commit(other.upload())
  write(one.folder, {'student/9/state/d/1': 'new'})
  with pytest.raises(UserError, match='another process writes here'):
    one.commit(one.upload())


@pytest.fixture
def seconds(monkeypatch):
  """Short leases."""
  monkeypatch.setattr(lease_lib, '_SECONDS', 0.4)
  monkeypatch.setattr(lease_lib, '_POLL', 0.05)


def test_a_lease_is_held_and_released(gcs, seconds):
  lines = []
  lease = Lease(Bucket(URL), lines.append)
  content = json.loads(gcs.read(f'runs/one/{lease_lib.NAME}'))
  assert content['owner'].startswith('process ') and not lines
  with pytest.raises(Locked, match=r'is writing here \(process \d+ on'):
    Lease(Bucket(URL), lines.append)
  lease.check()
  lease.release()
  assert gcs.names('runs/one/') == []
  Lease(Bucket(URL), lines.append).release()


def test_the_lease_of_a_dead_process(gcs, seconds):
  lines = []
  dead = Lease(Bucket(URL), lines.append)
  dead._ended.set()  # As if it had been killed.
  dead._thread.join()
  lease = Lease(Bucket(URL), lines.append)
  waiting, taken = lines
  assert 'waiting up to 0 s for process' in waiting
  assert 'took over from process' in taken
  # If it was only slow, it stops.
  dead._ended.clear()
  dead._renew()
  with pytest.raises(UserError, match='another process has taken over'):
    dead.check()
  dead.release()
  lease.check()
  lease.release()


@pytest.fixture
def dead(gcs, seconds, monkeypatch):
  """Folders of a process that has died."""
  monkeypatch.setattr(lease_lib, '_SECONDS', 1.5)
  buckets = [Bucket(f'{URL}/seed_{seed}') for seed in range(3)]
  for lease in lease_lib.take_all(buckets, str):
    lease._ended.set()
    lease._thread.join()
  return buckets


def test_several_leases_are_waited_for_at_the_same_time(gcs, dead):
  lines = []
  leases = lease_lib.take_all(dead, lines.append)
  assert all('waiting up to' in line for line in lines[:3])
  assert all('took over from' in line for line in lines[3:])
  assert len(lines) == 6
  for lease, bucket in zip(leases, dead, strict=True):
    lease.check()
    assert lease._bucket is bucket
    lease.release()
  assert gcs.names() == []


def test_all_leases_or_none(gcs, dead):
  dead[1].remove([lease_lib.NAME])
  active = Lease(dead[1], str)
  free = Bucket(f'{URL}/seed_9')
  # The others would be waited for.
  for bucket in dead[0], dead[2]:
    content = {'owner': 'process 1', 'time': '', 'id': '', 'seconds': 600}
    bucket.write(lease_lib.NAME, bucket_lib.to_json(content))
  with pytest.raises(Locked, match='seed_1: another process is writing here'):
    lease_lib.take_all([free, *dead], str)
  active.release()
  assert gcs.names() == [
    f'runs/one/seed_{seed}/{lease_lib.NAME}' for seed in (0, 2)
  ]


def test_a_damaged_lease(gcs, seconds, monkeypatch):
  bucket, lines = Bucket(URL), []
  bucket.write(lease_lib.NAME, b'x')
  Lease(bucket, lines.append).release()
  assert 'an unknown process' in lines[1]


def test_errors_of_a_bucket(gcs, tmp_path):
  missing = Bucket('gs://missing/a')
  (tmp_path / 'file').write_text('x')
  for call in (
    missing.list,
    lambda: missing.read('x'),
    lambda: missing.write('x', b'x'),
    lambda: missing.upload(tmp_path / 'file', 'x'),
  ):
    with pytest.raises(UserError, match='there is no bucket gs://missing'):
      call()
  gcs.fail = lambda method, url: 403
  for call in (
    Bucket(URL).list,
    lambda: Bucket(URL).read('x'),
    lambda: Bucket(URL).write('x', b'x', 0),
    lambda: Bucket(URL).upload(tmp_path / 'file', 'x'),
    lambda: Bucket(URL).remove(['x']),
  ):
    with pytest.raises(UserError, match='no permission .* storage.objectAdmin'):
      call()


@pytest.mark.parametrize('content', [b'', b'a\r', b'\r\n', b'\n--==0==--\n'])
def test_files_arrive_as_they_are(gcs, tmp_path, content):
  (tmp_path / 'file').write_bytes(content)
  Bucket(URL).upload(tmp_path / 'file', 'file')
  assert gcs.read('runs/one/file') == content
  assert Bucket(URL).download('file', tmp_path / 'copy')
  assert (tmp_path / 'copy').read_bytes() == content


def test_conditional_writes(gcs):
  bucket = Bucket(URL)
  assert bucket.read('a') is None
  first = bucket.write('a', b'1', 0)
  second = bucket.write('a', b'2', first)
  assert bucket.read('a') == (b'2', second)
  for generation in 0, first:
    with pytest.raises(Changed):
      bucket.write('a', b'3', generation)
  with pytest.raises(Changed):
    bucket.remove_generation('a', first)
  assert list(bucket.list()) == ['a']


@pytest.mark.parametrize(
  'url', ['gs://', 'gs://b', 'gs://bucket', 'gs://Bu/a', 'gs://bucket/a//b']
)
def test_urls_that_are_not_valid(url):
  with pytest.raises(UserError, match='write it as gs://BUCKET/FOLDER'):
    Bucket(url)


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(bucket_lib, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '.\[gcs\]'"):
    Bucket(URL)


def test_local_folders(tmp_path):
  folders = [
    bucket_lib.local_folder(url, str(tmp_path), label)
    for url in (URL, URL + '/', 'gs://bucket/other/one')
    for label in ('', '-0-of-2')
  ]
  assert len(set(folders)) == 4
  assert all(folder.name.startswith('one-') for folder in folders)
  with pytest.raises(UserError, match='scratch=gs://b/a: must be on a file'):
    bucket_lib.local_folder(URL, 'gs://b/a')


def test_a_host_that_cannot_be_reached(gcs, monkeypatch, caplog):
  """By name or by number, and without a traceback in the log."""
  from gcsfs import retry
  from gcsfs.core import GCSFileSystem

  async def sleep(seconds):  # Half a minute between its six attempts.
    del seconds

  monkeypatch.setattr(retry, 'asyncio', types.SimpleNamespace(sleep=sleep))
  for host in ('http://127.0.0.1:9', 'http://nowhere.invalid'):
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', host)
    GCSFileSystem.clear_instance_cache()
    with pytest.raises(UserError, match='cannot be used .*check the network'):
      Bucket('gs://bucket/a').list()
  assert not [x for x in caplog.records if x.name.startswith('gcsfs')]
