"""Copies of runs, teachers and datasets in buckets."""

import json

import numpy as np
import pytest

from experiments import debug
from tests.episode_data import DESCRIPTION, fill
from vid2act_jax.data import bucket as bucket_lib
from vid2act_jax.data import dataset
from vid2act_jax.data import lease as lease_lib
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.lease import Lease
from vid2act_jax.data.mirror import MANIFEST
from vid2act_jax.loops import config_checks, run_copies, sources
from vid2act_jax.loops.run_copies import COPIES
from vid2act_jax.types import UserError

URL = 'gs://bucket/runs/one'
RUN = [
  'config.json',
  'metrics.jsonl',
  'environment.json',
  'tensorboard/a',
  'replay/metadata.json',
  *(f'replay/episodes/{i:06}-21.npz' for i in range(12)),
  'sources/a/metadata.json',
  'sources/a/episodes/000000-21.npz',
  'sources/a/agent/config.json',
  'sources/a/agent/student/5/x',
  'student/5/x',
  'teacher/5/x',
  'teacher/done.json',
]


@pytest.fixture(autouse=True)
def closed(monkeypatch, tmp_path):
  """Copies below a temporary folder, that end with the test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  yield
  COPIES.close()


@pytest.fixture
def one(gcs, tmp_path):
  """A run in a bucket, and its files."""
  folder = tmp_path / 'one'
  for name in RUN:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)
  gcs.commit(folder, URL)
  return folder


def names(folder):
  paths = (path for path in folder.rglob('*') if path.is_file())
  found = {path.relative_to(folder).as_posix() for path in paths}
  return {name for name in found if not name.startswith('.')}


LOGS = {'config.json', 'metrics.jsonl', 'environment.json'}
LOGS |= {'replay/metadata.json', 'sources/a/metadata.json'}
AGENT = 'sources/a/agent/config.json'
TEACHER = {'config.json', 'teacher/5/x', 'teacher/done.json'}
ACTING = {'config.json', 'environment.json', 'student/5/x'}
SOURCE = {'sources/a/metadata.json', 'sources/a/episodes/000000-21.npz'}
NEWEST = {f'replay/episodes/{i:06}-21.npz' for i in range(2, 12)}


@pytest.mark.parametrize(
  'choose, expected',
  [
    (run_copies.to_read, {*LOGS, AGENT, 'teacher/done.json'}),
    (run_copies.to_act, ACTING),
    (run_copies.to_teach, TEACHER),
    (run_copies.to_judge, TEACHER | SOURCE),
    (
      run_copies.to_diagnose,
      {*LOGS, AGENT, *TEACHER, *SOURCE, *ACTING, *NEWEST},
    ),
  ],
  ids=['read', 'act', 'teach', 'judge', 'diagnose'],
)
def test_only_what_is_needed_is_fetched(one, tmp_path, choose, expected):
  folder = run_copies.fetch_runs(URL, tmp_path / 'copies', choose)
  assert names(folder) == expected


def test_nothing_to_fetch(gcs, tmp_path):
  with pytest.raises(UserError, match=r'gs://bucket/none: no run in it'):
    run_copies.fetch_runs('gs://bucket/none', tmp_path)


def test_a_folder_in_a_run(one, gcs, tmp_path):
  """Of the commit, not of what lies there."""
  gcs.write('runs/one/sources/a/metadata.json', b'changed')
  Bucket(URL).write('sources/a/episodes/000001-21.npz', b'not committed')
  choose = lambda paths: paths
  url = f'{URL}/sources/a'
  folder = run_copies.fetch_runs(url, tmp_path / 'copies', choose)
  assert folder.name == 'a'
  assert names(folder) == {
    name.removeprefix('sources/a/') for name in RUN if name.startswith('sou')
  }


def test_a_run_is_open_for_a_block(one):
  with run_copies.open_run(one) as folder:
    assert folder == one
  with (
    pytest.raises(UserError, match=f'^{URL}/student: damaged'),
    run_copies.open_run(URL) as folder,
  ):
    assert (folder / 'student/5/x').exists()
    raise UserError(f'{folder}/student: damaged')
  assert not folder.exists()


def test_results_are_added_unless_a_process_writes(
  one, gcs, tmp_path, monkeypatch
):
  monkeypatch.setattr(lease_lib, '_SECONDS', 0.4)
  monkeypatch.setattr(lease_lib, '_POLL', 0.05)
  folder = run_copies.fetch_runs(URL, tmp_path / 'copies')
  (folder / 'diagnosis.json').write_text('{}')
  lease = Lease(Bucket(URL), str)
  for call in (
    lambda: run_copies.check_free(URL),
    lambda: run_copies.add_results(URL, folder, ['diagnosis.json']),
  ):
    with pytest.raises(UserError, match='a run is writing here, so nothing'):
      call()
  lease.release()
  run_copies.check_free(URL)
  run_copies.add_results(URL, folder, ['diagnosis.json'])
  folder = run_copies.fetch_runs(URL, tmp_path / 'again', lambda paths: paths)
  assert names(folder) == {*RUN, 'diagnosis.json'}
  # In a folder of the run.
  url = f'{URL}/teacher'
  folder = run_copies.fetch_runs(url, tmp_path / 'inner', lambda paths: paths)
  (folder / 'teacher.json').write_text('{}')
  run_copies.add_results(url, folder, ['teacher.json'])
  assert 'runs/one/teacher/teacher.json' in gcs.names()
  assert 'teacher/teacher.json' in json.loads(gcs.read(f'runs/one/{MANIFEST}'))


def test_a_copy_is_kept_and_brought_up_to_date(one, gcs, monkeypatch):
  fetched, download = [], Bucket.download

  def record(self, name, path):
    fetched.append(name)
    return download(self, name, path)

  monkeypatch.setattr(Bucket, 'download', record)
  folder = run_copies.open_teacher(URL, '')
  assert names(folder) == TEACHER
  assert len(fetched) == 3
  assert run_copies.open_teacher(f'{URL}/', '') == folder
  COPIES.close()
  (one / 'teacher/5/x').write_text('changed')
  gcs.commit(one, URL)
  assert run_copies.open_teacher(URL, '') == folder
  assert (folder / 'teacher/5/x').read_text() == 'changed'
  assert len(fetched) == 4
  assert COPIES.named(f'{folder}/teacher: x') == f'{URL}/teacher: x'


def test_processes_do_not_share_a_copy(one):
  folder = run_copies.open_teacher(URL, '')
  other = run_copies.Copies()  # Its locks are those of another process.
  second = other.open(URL, '', run_copies.to_teach)
  assert second != folder and names(second) == names(folder)
  COPIES.close()
  assert run_copies.open_teacher(URL, '') == folder
  other.close()


def make_dataset(folder, complete=True):
  fill(folder, [21, 21])
  provenance = {'method': 'collect', 'seed': 0}
  dataset.write_metadata(folder, 'a', provenance, DESCRIPTION, complete)
  return folder


def test_datasets_of_a_folder_of_a_bucket(gcs, tmp_path):
  """Without a run, as after an import."""
  bucket = Bucket('gs://bucket/data/a')
  folder = make_dataset(tmp_path / 'a')
  for name in names(folder):
    bucket.upload(folder / name, name)
  config = debug.get_config()
  config.source_dir = 'gs://bucket/data'
  copy = sources.source_folder(config, tmp_path, 'a')
  assert copy.name == 'a' and names(copy) == names(folder)
  assert dataset.read_metadata(copy)['episodes'] == 2
  message = 'gs://bucket/data/b: no complete dataset, and a run collects none'
  config.sources = ('a', 'b')
  with pytest.raises(UserError, match=message) as error:
    config_checks.check_config(config, tmp_path)
  assert 'data/a' not in str(error.value)


def test_a_dataset_that_is_being_collected(gcs, tmp_path):
  make_dataset(tmp_path / 'one/sources/a', complete=False)
  (tmp_path / 'one/config.json').write_text('{}')
  gcs.commit(tmp_path / 'one', URL)
  with pytest.raises(UserError, match='no complete dataset'):
    run_copies.open_dataset(f'{URL}/sources/a', '')


def test_public_checkpoints_in_a_bucket(gcs, tmp_path):
  path = tmp_path / 'public.npz'
  np.savez(path, x=np.ones(3))
  Bucket('gs://bucket/data').upload(path, 'public.npz')
  url = 'gs://bucket/data/public.npz'
  copy = run_copies.open_file(url, '')
  assert copy.read_bytes() == path.read_bytes()
  missing = run_copies.open_file('gs://bucket/data/other.npz', '')
  assert not missing.exists()
  assert COPIES.named(str(missing)) == 'gs://bucket/data/other.npz'


def test_copies_lie_on_a_file_system(tmp_path):
  config = debug.get_config()
  config.replay.scratch = 'gs://bucket/a'
  with pytest.raises(UserError, match='scratch=gs://bucket/a: must be on a'):
    config_checks.check_config(config, tmp_path)
  with pytest.raises(UserError, match='scratch=gs://bucket/a: must be on a'):
    bucket_lib.local_folder(URL, config.replay.scratch)
