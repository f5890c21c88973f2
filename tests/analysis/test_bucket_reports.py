"""The tools for runs read those in a bucket."""

import json
import pathlib
import shutil

import pytest

from experiments import debug, run
from tests import fake_runs
from vid2act_jax.analysis import __main__, load_runs
from vid2act_jax.data import lease as lease_lib
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.lease import Lease
from vid2act_jax.data.mirror import MANIFEST, Mirror

URL = 'gs://bucket/runs/one'


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
  """Copies below a temporary folder, and short leases."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(lease_lib, '_SECONDS', 0.4)
  monkeypatch.setattr(lease_lib, '_POLL', 0.05)


def fetch(folder, url=URL):
  Mirror(Bucket(url), folder).fetch(pytest.fail)
  return folder


def test_report_of_runs_in_a_bucket(gcs, tmp_path, capsys):
  (tmp_path / 'runs').mkdir()
  fake_runs.study(tmp_path / 'runs', seeds=2)
  folders = {p.parent for p in (tmp_path / 'runs').rglob('metrics.jsonl')}
  assert len(folders) >= 2
  for folder in folders:
    name = folder.relative_to(tmp_path).as_posix()
    gcs.commit(folder, f'gs://bucket/{name}')
  out = str(tmp_path / 'report')
  assert __main__.main(['report', 'gs://bucket/runs', '--out', out]) == 0
  text = (tmp_path / 'report' / 'results.json').read_text()
  assert 'dmc_quadruped_walk' in text
  page = (tmp_path / 'report' / 'index.html').read_text()
  for shown in text, page:
    assert 'gs://bucket/runs/00-vid2act-0' in shown
    assert '/vid2act_jax-' not in shown
  capsys.readouterr()
  for arguments, message in (
    (['report', 'gs://bucket/none', '--out', out], 'no run in it'),
    (['summary', 'gs://bucket/runs/x'], 'no run in it'),
    (['evaluate', 'gs://missing/x'], 'there is no bucket gs://missing'),
  ):
    assert __main__.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_the_summary_of_a_run_in_a_bucket(gcs, tmp_path, capsys):
  folder = tmp_path / 'one'
  config = fake_runs.config()
  fake_runs.write(folder, config, fake_runs.rows(), diagnosis=None)
  gcs.commit(folder, URL)
  assert __main__.main(['summary', URL]) == 0
  assert capsys.readouterr().out.splitlines()[-1] == f'{URL}/summary.png'
  found = fetch(tmp_path / 'first')
  picture = (found / 'summary.png').read_bytes()
  assert picture.startswith(b'\x89PNG')
  # While the run is active, it is only written elsewhere.
  lease = Lease(Bucket(URL), str)
  before = gcs.read(f'runs/one/{MANIFEST}')
  assert __main__.main(['summary', URL]) == 1
  error = capsys.readouterr().err
  assert f'error: {URL}: a run is writing here' in error
  assert 'write to a local folder (--out)' in error
  out = tmp_path / 'out' / 'page.png'
  assert __main__.main(['summary', URL, '--out', str(out)]) == 0
  assert out.read_bytes() == picture
  assert gcs.read(f'runs/one/{MANIFEST}') == before
  lease.release()


def make_run(gcs, tmp_path, stages, **overrides):
  """A small run, in a bucket with the folder of its sources."""
  config = debug.get_config()
  config.update(stages=stages, **overrides)
  config.collect.episodes = 5
  config.pretrain.update(steps=2, video_every=0)
  config.finetune.update(env_steps=45, first_updates=2, video_every=0)
  config.evaluate.update(every=0, episodes=1)
  folder = tmp_path / 'one'
  run.run(config.lock(), folder)
  gcs.commit(folder, URL)
  return folder


@pytest.mark.slow
def test_the_diagnosis_of_a_run_in_a_bucket(gcs, tmp_path, capsys):
  """Also of one that has its teacher and its sources from there."""
  stages = 'collect', 'pretrain', 'finetune'
  folder = make_run(gcs, tmp_path, stages)
  assert __main__.main(['diagnose', 'gs://bucket/runs']) == 0
  out = capsys.readouterr().out
  assert out.splitlines()[-1] == f'{URL}/{load_runs.DIAGNOSIS}'
  found = fetch(tmp_path / 'first')
  made = (found / load_runs.DIAGNOSIS).read_bytes()
  assert json.loads(made)['vae'] and json.loads(made)['prediction']['teachers']
  other = tmp_path / 'other'
  shutil.copytree(folder, other)
  for name in 'sources', 'teacher':
    shutil.rmtree(other / name)
  config = json.loads((other / 'config.json').read_text())
  config |= {'source_dir': f'{URL}/sources', 'teacher_from': URL}
  (other / 'config.json').write_text(json.dumps(config))
  url = 'gs://bucket/others/other'
  gcs.commit(other, url)
  assert __main__.main(['diagnose', url]) == 0
  found = fetch(tmp_path / 'second', url)
  assert (found / load_runs.DIAGNOSIS).read_bytes() == made


@pytest.mark.slow
def test_the_teacher_of_a_run_in_a_bucket(gcs, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  make_run(gcs, tmp_path, ('collect', 'pretrain'), sources=('probe_count',))
  capsys.readouterr()
  options = ['--sequences', '4', '--data', f'{URL}/sources/probe_count']
  assert __main__.main(['teacher', URL, *options]) == 0
  out = capsys.readouterr().out
  assert out.splitlines()[-1] == f'{URL}/teacher.html'
  assert str(tmp_path) not in out and '/vid2act_jax-' not in out
  found = fetch(tmp_path / 'found')
  results = json.loads((found / 'teacher.json').read_text())
  assert results['teacher'] == URL
  assert '/vid2act_jax-' not in (found / 'teacher.html').read_text()
  (first, *_) = results['datasets']
  assert first['name'] == 'probe_count' and first['errors']
  # Of a run that has it from there.
  other = tmp_path / 'other'
  other.mkdir()
  config = json.loads((found / 'config.json').read_text())
  config |= {'teacher_from': URL}
  (other / 'config.json').write_text(json.dumps(config))
  out = tmp_path / 'out'
  command = ['teacher', str(other), '--sequences', '4', '--out', str(out)]
  assert __main__.main(command) == 0
  again = json.loads((out / 'teacher.json').read_text())
  assert again['datasets'][0]['errors'] == first['errors']
  lines = capsys.readouterr().out.splitlines()
  assert pathlib.Path(lines[-1]) == out / 'teacher.html'
