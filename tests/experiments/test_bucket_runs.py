"""Runs in a bucket: killed, resumed on another machine, on several hosts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import kill_runs
from tests.experiments import test_hosts
from tests.gcs import is_file_upload
from vid2act_jax.data import mirror as mirror_lib
from vid2act_jax.data.bucket import Bucket
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint

URL = 'gs://bucket/runs/one'


@pytest.fixture(autouse=True)
def copies(monkeypatch, tmp_path):
  """The folder of the local copies, which can be lost."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'vid2act_jax'


def fetch(folder):
  warnings = []
  mirror_lib.Mirror(Bucket(URL), folder).fetch(warnings.append)
  assert not warnings
  return folder


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that is not killed."""
  folder = tmp_path_factory.mktemp('reference')
  kill_runs.finish(kill_runs.start(folder))
  return folder


def kill(process, gcs):
  """Kills a run; returns the manifest that it leaves."""
  os.killpg(process.pid, signal.SIGKILL)
  return gcs.read(f'runs/one/{mirror_lib.MANIFEST}')


def resume_elsewhere(gcs, copies, tmp_path, reference):
  """Resumes a killed run; returns what it printed."""
  shutil.rmtree(copies)
  resumed = start(URL)
  assert resumed.returncode == 0, resumed.stderr
  out = resumed.stdout + resumed.stderr
  assert 'took over from process' in out
  fetched = fetch(tmp_path / 'fetched')
  assert kill_runs.differences(reference, fetched) == []
  # Nothing is left of the killed process.
  objects = {
    e[0]
    for e in json.loads(gcs.read(f'runs/one/{mirror_lib.MANIFEST}')).values()
  }
  listed = {name.removeprefix('runs/one/') for name in gcs.names('runs/one/')}
  assert listed - objects == {mirror_lib.MANIFEST}
  return out


def start(workdir, *flags):
  command = [sys.executable, '-m', 'experiments.run', f'--workdir={workdir}']
  command += ['--config=experiments/debug.py', *flags]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_while_uploading_and_resumed_on_another_machine(
  gcs, copies, tmp_path, reference
):
  process = kill_runs.start(URL)
  committed = []

  def kill_once(method, url):
    """Between two objects of the checkpoint of update 10."""
    if process.poll() is None and gcs.names('runs/one/student/10/'):
      committed.append(kill(process, gcs))

  gcs.fail = kill_once
  process.wait(300)
  gcs.fail = lambda method, url: None
  assert process.returncode == -signal.SIGKILL, process.stderr.read()
  names = json.loads(committed[0])
  assert any(name.startswith('student/5/') for name in names)
  assert not any(name.startswith('student/10/') for name in names)
  out = resume_elsewhere(gcs, copies, tmp_path, reference)
  assert 'finetune: resuming after update 5' in out


@pytest.mark.slow
def test_killed_after_training_went_on_during_an_upload(
  gcs, copies, tmp_path, reference
):
  process = kill_runs.start(URL)
  committed, lines = [], []

  def kill_later(method, url):
    """Lets the upload of the checkpoint of update 5 wait for training."""
    saved = list(copies.rglob('one-*/student/5'))
    if committed or not saved or not is_file_upload(url):
      return
    folder, deadline = saved[0].parents[1], time.monotonic() + 60
    lines.append(kill_runs.num_lines(folder))
    while kill_runs.num_lines(folder) < lines[0] + 2:
      if process.poll() is not None or time.monotonic() > deadline:
        break
      time.sleep(0.01)
    lines.append(kill_runs.num_lines(folder))
    committed.append(kill(process, gcs))

  gcs.fail = kill_later
  process.wait(300)
  gcs.fail = lambda method, url: None
  assert process.returncode == -signal.SIGKILL, process.stderr.read()
  assert lines[1] >= lines[0] + 2
  names = json.loads(committed[0])
  assert any(name.startswith('teacher/') for name in names)
  assert not any(name.startswith('student/') for name in names)
  resume_elsewhere(gcs, copies, tmp_path, reference)


@pytest.mark.slow
def test_the_teacher_and_the_sources_of_another_run(
  gcs, copies, tmp_path, reference
):
  gcs.commit(reference, URL)
  url = 'gs://bucket/runs/two'
  flags = ['--config.stages=("collect","finetune")']
  there = [f'--config.teacher_from={URL}', f'--config.source_dir={URL}/sources']
  planned = start(url, *flags, *there, '--dry_run')
  assert planned.returncode == 0, planned.stderr
  assert f'run folder: {url}\n' in planned.stdout
  assert f' episodes in {URL}/sources/' in planned.stdout
  assert not [x for x in planned.stdout.split() if 'vid2act_jax-' in x]
  assert gcs.names('runs/two') == []
  done = start(url, *flags, *there)
  assert done.returncode == 0, done.stderr
  assert f'fetching {URL}\n' in done.stdout
  mirror_lib.Mirror(Bucket(url), tmp_path / 'two').fetch(pytest.fail)
  config = json.loads((tmp_path / 'two/config.json').read_text())
  assert config['teacher_from'] == URL
  assert config['source_dir'] == f'{URL}/sources'
  left, right = (
    Checkpoint(folder / runs.STUDENT).restore_raw()[0]
    for folder in (reference, tmp_path / 'two')
  )
  jax.tree.map(np.testing.assert_array_equal, left, right)
  again = start(url, *flags, *there, '--config.finetune.batch=3')
  assert again.returncode == 1
  assert f'error: {url} holds a run of another config' in again.stderr
  missing = start(url, *flags, there[0], f'--config.source_dir={URL}/none')
  assert missing.returncode == 1
  assert f'{URL}/none/' in missing.stderr
  assert 'no complete dataset' in missing.stderr


@pytest.mark.nightly
def test_two_hosts(gcs, copies, tmp_path):
  cache, port = tmp_path / 'compiled', test_hosts.free_port()
  collect = '--config.stages=("collect",)'
  one = test_hosts.start(URL, cache, 1, 0, port, collect)
  out = one.communicate(timeout=300)[0]
  assert one.returncode == 0, out
  pair = [test_hosts.start(URL, cache, 2, i, port) for i in range(2)]
  try:
    while not gcs.names('runs/one/student/10/'):
      if any(process.poll() is not None for process in pair):
        pytest.fail('\n'.join(p.communicate(timeout=60)[0] for p in pair))
      time.sleep(0.05)
    for process in pair:
      process.send_signal(signal.SIGTERM)
    outs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [75, 75], outs
  finally:
    for process in pair:
      process.kill()
  shutil.rmtree(copies)
  first = fetch(tmp_path / 'first')
  step = Checkpoint(first / runs.STUDENT).latest()
  assert len(list(first.glob('replay/?-of-2/episodes/*.npz'))) >= 2
  pair = [test_hosts.start(URL, cache, 2, i, port) for i in range(2)]
  outs = [process.communicate(timeout=300)[0] for process in pair]
  assert [process.returncode for process in pair] == [0, 0], outs
  assert f'finetune: resuming after update {step}' in outs[0]
  last = fetch(tmp_path / 'last')
  done = Checkpoint(last / runs.STUDENT).finished()
  assert done['env_steps'] >= test_hosts.config().finetune.env_steps
  for process in range(2):
    assert (last / 'replay' / f'{process}-of-2' / 'metadata.json').exists()
