"""Two processes of two devices each: training, a crash, and a restart."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import debug, run
from tests import small
from vid2act_jax.data import episodes as eps
from vid2act_jax.data import shards
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint

ROOT = pathlib.Path(__file__).parents[2]
HEARTBEAT = 10
# All that several processes share: batches of the sources, and a generator that
# is trained on the finished teacher.
FIELDS = (
  '--config.learner.transfer.direction=to_teacher',
  '--config.learner.transfer.generator_start=pretrained',
)
BATCH = 8  # Of each source and of the target: two rows a device.
# Messages of the surviving process, whichever comes first.
CRASH_MESSAGES = (
  'another task died',  # JAX: the heartbeat timed out.
  'cannot continue',  # Ours: an all-reduce has failed.
  # Gloo, in a thread where it cannot be caught: the message does not match the
  # one expected, after an all-reduce has failed on one device only.
  'gloo::EnforceNotMet',
)


def config(**changes):
  """debug.py with batches that divide over four devices."""
  config = debug.get_config()
  config.pretrain.batch = 2 * BATCH
  config.finetune.batch = BATCH
  config.update_from_flattened_dict(changes)
  return config.lock()


def start(workdir, cache, processes, process, port, *overrides):
  """Starts one of several processes, with two simulated devices."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
  env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  env['JAX_COMPILATION_CACHE_DIR'] = str(cache)
  command = [sys.executable, '-m', 'experiments.run', f'--workdir={workdir}']
  command += ['--config=experiments/debug.py']
  command += [f'--config.pretrain.batch={2 * BATCH}']
  command += [f'--config.finetune.batch={BATCH}', *overrides]
  command += [f'--heartbeat_seconds={HEARTBEAT}']
  if processes > 1:
    command += [f'--coordinator=localhost:{port}', f'--process_id={process}']
    command += [f'--num_processes={processes}']
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def free_port():
  with socket.socket() as server:
    server.bind(('localhost', 0))
    return server.getsockname()[1]


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  """Datasets and a teacher from one process on one device."""
  workdir = tmp_path_factory.mktemp('single') / 'run'
  run.run(config(stages=('collect', 'pretrain')), workdir)
  return workdir


@pytest.mark.slow
def test_two_processes_train_and_one_resumes(single, tmp_path):
  workdir, cache = tmp_path / 'run', tmp_path / 'compiled'
  shutil.copytree(single / 'sources', workdir / 'sources')
  port = free_port()
  pair = [start(workdir, cache, 2, i, port, *FIELDS) for i in range(2)]
  try:
    while not (workdir / runs.STUDENT / '5').exists():
      ended = [p.communicate()[0] for p in pair if p.poll() is not None]
      assert not ended, ended
      time.sleep(0.05)
    # Rows, sources and noise are those of one process.
    one, two = (Checkpoint(w / runs.TEACHER) for w in (single, workdir))
    params = [x.restore_raw()[0]['params'] for x in (two, one)]
    small.assert_close(*(x['model'] for x in params), 1e-5)
    small.assert_close(*(x['generator'] for x in params), 1e-3)
    pair[1].send_signal(signal.SIGKILL)
    start_time = time.monotonic()
    out = pair[0].communicate(timeout=60)[0]
    # Another heartbeat, and time for the crash report.
    assert time.monotonic() - start_time < 3 * HEARTBEAT + 15
    assert pair[0].returncode not in (0, None)
    assert any(text in out for text in CRASH_MESSAGES), out
  finally:
    for process in pair:
      process.kill()
  assert len(list((workdir / 'replay').glob('?-of-2/episodes/*.npz'))) >= 2
  _, extra, step = Checkpoint(workdir / runs.STUDENT).restore_raw()
  written = extra['total_episodes']
  assert len(written) == 2 and step >= 5
  # One process, with another number of devices, resumes the run.
  process = start(workdir, cache, 1, 0, port, *FIELDS)
  out = process.communicate(timeout=300)[0]
  assert process.returncode == 0, out
  assert f'finetune: resuming after update {step}' in out
  checkpoint = Checkpoint(workdir / runs.STUDENT)
  assert checkpoint.finished()['env_steps'] >= config().finetune.env_steps
  episodes = eps.list_episodes(workdir / 'replay')
  assert len(episodes) > sum(written)
  state = checkpoint.restore_raw()[0]
  for leaf in (x for x in _leaves(state) if x.dtype.kind == 'f'):
    assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_two_processes_share_the_seeds_out(tmp_path):
  workdir, cache, port = tmp_path / 'run', tmp_path / 'compiled', free_port()
  flags = (
    '--config.seeds=3',
    '--config.variant=dreamerv2',
    '--config.sources=()',
    '--config.mesh.data=1',
  )
  pair = [start(workdir, cache, 2, i, port, *flags) for i in range(2)]
  try:
    out = [process.communicate(timeout=400)[0] for process in pair]
  finally:
    for process in pair:
      process.kill()
  assert [process.returncode for process in pair] == [0, 0], out
  for index, (own, other) in enumerate([((0, 2), (1,)), ((1,), (0, 2))]):
    assert f'process {index} of 2: seeds ' in out[index]
    for seed in own:
      folder = workdir / f'seed_{seed}'
      assert f'summary: {folder}' in out[index]
      found = runs.read_config_dict(folder)
      assert (found['seed'], tuple(found['seeds'])) == (seed, ())
      assert Checkpoint(folder / runs.STUDENT).finished()
    for seed in other:
      assert f'seed_{seed}' not in out[index]


def _leaves(tree):
  if isinstance(tree, dict):
    return [leaf for value in tree.values() for leaf in _leaves(value)]
  if isinstance(tree, list):
    return [leaf for value in tree for leaf in _leaves(value)]
  return [] if tree is None else [tree]


def _write_episodes(folder, total):
  """Writes `total` episodes of distinct lengths."""
  (folder / eps.FOLDER).mkdir(parents=True, exist_ok=True)
  for index in range(total):
    (folder / eps.FOLDER / f'{index:06d}-{index + 10}.npz').write_text('x')


@pytest.mark.parametrize('before, now', [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_episodes_are_resharded(tmp_path, before, now):
  for process in range(before):
    _write_episodes(shards.folder_of(tmp_path, process, before), 3 + process)
  # Each has one more than the checkpoint has recorded.
  written = [2 + process for process in range(before)]
  _write_episodes(shards.folder_of(tmp_path, 0, now), 1 if now != 1 else 0)
  totals = shards.reshard(tmp_path, now, written)
  assert sum(totals) == sum(written) and len(totals) == now
  assert max(totals) - min(totals) <= 1
  lengths = []
  for process, total in enumerate(totals):
    folder = shards.folder_of(tmp_path, process, now)
    episodes = eps.list_episodes(folder)
    assert [e.index for e in episodes] == list(range(total))
    lengths += [e.length for e in episodes]
  assert sorted(lengths) == sorted(
    index + 10 for total in written for index in range(total)
  )
  shards.clean(tmp_path, now)
  folders = {p.parent.parent for p in tmp_path.rglob('*.npz')}
  assert folders == {shards.folder_of(tmp_path, i, now) for i in range(now)}


def test_nothing_to_reshard(tmp_path):
  assert shards.reshard(tmp_path, 2, []) == [0, 0]
  assert shards.reshard(tmp_path, 2, [4, 5]) == [4, 5]
