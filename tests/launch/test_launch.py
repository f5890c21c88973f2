"""The launchers, and the page that tells which one to take."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import scaling
from vid2act_jax.loops import runs
from vid2act_jax.loops.logger import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'


def write_program(path, text):
  """Makes an executable of a shell script."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\n{text}\n')
  path.chmod(0o755)


def run(*command, **environment):
  """A command's (status, words, complaints)."""
  done = subprocess.run(
    [str(part) for part in command],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


def wait_for(condition, seconds=60):
  """The condition's value, once it has one."""
  deadline = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  return value


# Several processes on one machine.


@pytest.fixture
def several(tmp_path, monkeypatch):
  """multiprocess.sh, told that this Python is the environment it set up."""
  script = tmp_path / 'launch' / 'multiprocess.sh'
  write_program(tmp_path / 'bin' / 'python', f'exec {sys.executable} "$@"')
  (tmp_path / 'launch').mkdir()
  script.write_text((LAUNCH / script.name).read_text())
  (tmp_path / 'launch' / 'setup.sh').write_text(
    f'root={shlex.quote(str(ROOT))} venv={shlex.quote(str(tmp_path))}\n'
  )
  monkeypatch.setenv('MODULE', 'tests.launch_worker')
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  return script


def test_processes_join(several):
  status, out, err = run('bash', several, 2, '--do', 'sum', DEVICES='2')
  assert status == 0, err
  # Four devices, and 1 + 2 by gloo.
  for i in range(2):
    assert f'[{i}] sum 3, 4 devices' in out.splitlines()


def test_gpus_are_shared_out(several):
  arguments = 'bash', several, 2, '--do', 'env'
  status, out, _ = run(*arguments, CUDA_VISIBLE_DEVICES='4,5,6,7')
  assert status == 0
  assert '[0] CUDA_VISIBLE_DEVICES=4,5\n' in out
  assert '[1] CUDA_VISIBLE_DEVICES=6,7\n' in out
  status, _, err = run(*arguments, CUDA_VISIBLE_DEVICES='4,5,6')
  assert status == 1 and '3 GPUs cannot be shared out evenly' in err
  status, out, _ = run(*arguments, CUDA_VISIBLE_DEVICES='4,5', DEVICES='3')
  assert '[1] JAX_PLATFORMS=cpu\n' in out
  assert out.count('device_count=3\n') == 2


def test_when_one_fails_the_others_end(several):
  started = time.monotonic()
  status, out, err = run(
    'bash', several, 3, '--do', 'stay', 'fail', 'save', GRACE='1'
  )
  assert status == 3
  assert '[1] failing\n[1] ended with status 3\n' in err
  # Killed, for it took no notice; or asked before it could do so.
  assert re.search(r'\[0\] ended with status (137|143)', err)
  assert re.search(r'\[2\] ended with status (75|143)', err)
  assert time.monotonic() - started < 20


def start_several(script, *do):
  process = subprocess.Popen(
    ['bash', script, '2', '--do', *do],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )
  told = sorted(process.stdout.readline() for _ in range(2))
  assert told == ['[0] waiting\n', '[1] waiting\n']
  return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_saves_when_asked_to_stop(several, number):
  process = start_several(several, 'save')
  process.send_signal(number)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 75
  assert sorted(out.splitlines()) == ['[0] got SIGTERM', '[1] got SIGTERM']


def test_second_ctrl_c_kills(several):
  process = start_several(several, 'stay')
  process.send_signal(signal.SIGINT)
  told = sorted(process.stdout.readline() for _ in range(2))
  assert told == ['[0] got SIGTERM\n', '[1] got SIGTERM\n']
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=20)
  assert process.returncode == 137


@pytest.mark.parametrize('arguments', [(), ('0',), ('--config=x',)])
def test_number_of_processes_is_asked_for(several, arguments):
  status, _, err = run('bash', several, *arguments)
  assert status == 1 and 'usage:' in err


# Slurm.

TINY = (
  '--config.variant=dreamerv2',
  '--config.stages=("finetune",)',
  '--config.evaluate.every=0',
  '--config.evaluate.episodes=1',
  '--config.finetune.video_every=0',
  '--config.finetune.update_every=20',
  '--config.finetune.batch=2',
  '--config.finetune.length=8',
)


def slurm(*arguments, **environment):
  script = [sys.executable, LAUNCH / 'slurm.py', '--config']
  return run(*script, *arguments, **environment)


def test_slurm_dry_run(tmp_path):
  status, out, err = slurm(
    'experiments/debug.py', 'experiments/quickstart.py', '--seeds', 0, 3,
    '--folder', tmp_path, '--partition', 'gpu', '--time', '1-02:30:00',
    '--gpus', 4, '--dry-run', '--', '--config.task=probe_action', '--profile',
  )  # fmt: skip
  assert status == 0, err
  first, *commands = out.splitlines()
  for wanted in ('partition=gpu', 'time=1590', 'gpus_per_node=4',
                 'ntasks_per_node=4', 'nodes=1'):  # fmt: skip
    assert wanted in first.split()
  assert [shlex.split(command)[1:] for command in commands] == [
    [
      '-m',
      'experiments.run',
      f'--config=experiments/{name}.py',
      f'--config.seed={seed}',
      '--config.task=probe_action',
      '--profile',
      f'--workdir={tmp_path}/{name}-{seed}',
    ]
    for name in ('debug', 'quickstart')
    for seed in (0, 3)
  ]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['experiments/no.py'], 'experiments/no.py: there is no such file'),
    (
      ['experiments/debug.py', '--', '--config.no=1'],
      "--config.no=1: the config has no key 'no'",
    ),
    (
      ['experiments/debug.py', '--', '--config.learner.scales.discont=1'],
      "discont=1: the config has no key 'discont'; did you mean 'discount'?",
    ),
    (['experiments/debug.py', '--', '--workdir=x'], 'cannot stand behind --'),
    (['experiments/debug.py', 'experiments/debug.py'], 'would both run in'),
    (['experiments/debug.py', '--local', '--nodes', '2'], 'multiprocess.sh'),
  ],
)
def test_slurm_mistakes(arguments, message, tmp_path):
  script = [sys.executable, LAUNCH / 'slurm.py', '--dry-run']
  status, out, err = run(*script, '--folder', tmp_path, '--config', *arguments)
  assert (status, out) == (1, '')
  assert err.startswith('error: ') and message in err


def test_slurm_submits_an_array(tmp_path):
  """The commands of a cluster that is not there only note what they get."""
  write_program(tmp_path / 'bin' / 'srun', '')
  write_program(
    tmp_path / 'bin' / 'sbatch',
    f'cp "$1" {tmp_path}/script; echo Submitted batch job 12',
  )
  status, out, err = slurm(
    'experiments/debug.py', '--seeds', '0', '1', '--folder', tmp_path / 'runs',
    PATH=f'{tmp_path}/bin:{os.environ["PATH"]}',
  )  # fmt: skip
  assert status == 0, err
  told = [line.split(',')[0] for line in out.splitlines()]
  assert told == [f'12_{i}: {tmp_path}/runs/debug-{i}' for i in range(2)]
  script = (tmp_path / 'script').read_text()
  for wanted in ('--array=0-1', '--requeue', '--signal=USR2@150',
                 '--gpus-per-node=1', '--kill-on-bad-exit=1'):  # fmt: skip
    assert wanted in script
  jobs = list((tmp_path / 'runs' / 'slurm').glob('12_?_submitted.pkl'))
  assert len(jobs) == 2


def children(pid):
  return pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


def test_preempted_run_goes_on_here(tmp_path, monkeypatch):
  """By submitit's own road: USR2, checkpoint, and the same job once more."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'compiled'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
  command = [
    'experiments/debug.py', '--local', '--folder', str(tmp_path), '--', *TINY,
    '--config.finetune.env_steps=300',
  ]  # fmt: skip
  process = subprocess.Popen(
    [sys.executable, LAUNCH / 'slurm.py', '--config', *command],
    stdout=subprocess.PIPE,
    text=True,
  )
  log = pathlib.Path(process.stdout.readline().split(' says ')[1].strip())
  workdir = tmp_path / 'debug-0'
  told = workdir / 'metrics.jsonl'
  wait_for(lambda: told.exists() and 'train/kl' in told.read_text())
  controller = log.name.split('_')[0]
  os.kill(int(children(controller)[0]), signal.SIGUSR2)
  out, _ = process.communicate(timeout=100)
  said = log.read_text()
  assert process.returncode == 0 and out == f'finished: {workdir}\n', said
  assert 'finetune: going on after update' in said
  assert len(runs.read_starts(workdir)) == 2
  # Nothing is told twice, and nothing is missing.
  told = [m for m in read_metrics(workdir, 'finetune') if 'train/kl' in m]
  done = json.loads((workdir / runs.STUDENT / 'DONE.json').read_text())
  assert len(told) == done['step'] // 2
  # Once more: there is nothing to do, unless it is to be longer.
  status, out, _ = slurm(*command)
  assert (status, out) == (0, f'finished: {workdir}\n')
  _, out, _ = slurm('experiments/debug.py', '--dry-run', *command[1:-1],
                    '--config.finetune.env_steps=301')  # fmt: skip
  assert 'experiments.run' in out


def test_failed_run_is_told_here(tmp_path):
  status, out, _ = slurm(
    'experiments/debug.py', '--local', '--folder', tmp_path, '--',
    '--config.env.size=32',
  )  # fmt: skip
  assert status == 1
  assert f'{tmp_path}/debug-0: failed with exit status 1' in out


# A TPU pod.

POD = (
  '--name=pod', '--zone', 'z', '--project=p', '--type=v4-32', '--version=v',
  '--folder=/mnt/my runs/a',
)  # fmt: skip
GCLOUD = ['gcloud', 'compute', 'tpus', 'tpu-vm']


def pod(*arguments, **environment):
  return run('bash', LAUNCH / 'tpu_pod.sh', *arguments, **environment)


def commands_of(*arguments):
  """What a dry run prints, each command in words."""
  status, out, err = pod(*POD, '--dry-run', *arguments)
  assert status == 0, err
  # Bash unquotes what bash has quoted, $'...' too.
  told = 'f() { printf "%s\\0" "$@"; printf "\\n\\0"; }\n'
  told += ''.join(f'f {line}\n' for line in out.splitlines())
  _, words, _ = run('bash', '-c', told)
  return [c.split('\0')[:-1] for c in words.removesuffix('\n\0').split('\n\0')]


def test_pod_dry_run():
  here = ['--zone=z', '--project=p']
  [create] = commands_of('--spot', 'create')
  assert create == [*GCLOUD, 'create', 'pod', '--accelerator-type=v4-32',
                    '--version=v', '--spot', *here]  # fmt: skip
  archive, copy, install = commands_of('install')
  assert archive[:1] + archive[-1:] == ['git', 'HEAD']
  assert copy == [*GCLOUD, 'scp', archive[-2], 'pod:vid2act_jax.tar.gz',
                  '--worker=all', *here]  # fmt: skip
  assert 'launch/setup.sh' in install[-3] and "'.[tpu]'" in install[-3]
  [delete] = commands_of('delete')
  assert delete == [*GCLOUD, 'delete', 'pod', '--quiet', *here]
  [make, fetch] = commands_of('fetch', '/here')
  assert make == ['mkdir', '-p', '/here']
  assert fetch == [*GCLOUD, 'scp', 'pod:/mnt/my runs/a', '/here', '--worker=0',
                   '--recurse', *here]  # fmt: skip
  for verb in ('status', 'stop'):
    [command] = commands_of(verb)
    assert command[4:7] == ['ssh', 'pod', '--worker=all']
  *check, start = commands_of('run', '--config=a b.py')
  assert [c[6] for c in check] == ['--worker=0', '--worker=all', '--worker=0']
  assert start[6] == '--worker=all' and 'nohup' in start[7]
  assert r'--config=a\ b.py --workdir=/mnt/my\ runs/a' in start[7]


def test_pod_commands_do_what_they_should(tmp_path):
  """On one host, which is this one: gcloud's ssh only runs what it is given."""
  write_program(
    tmp_path / 'bin' / 'gcloud',
    f'cd {tmp_path}; for a in "$@"; do case $a in\n'
    '--command=*) exec bash -c "${a#*=}" ;; esac; done',
  )
  write_program(
    tmp_path / 'vid2act_jax' / '.venv' / 'bin' / 'python',
    'printf "<%s>" "${@:4}"; exec '
    f'env PYTHONPATH={ROOT} {sys.executable} -u -m tests.launch_worker'
    ' --process_id=0 --do save',
  )
  options = '--zone=z', f'--folder={tmp_path}/my runs'
  path = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
  status, _, err = pod(*options, 'run', "--config.task=it's", **path)
  assert status == 0, err
  log = tmp_path / 'vid2act_jax' / 'run.log'
  wait_for(lambda: 'waiting' in log.read_text())
  said = log.read_text()
  assert said.startswith(f"<--config.task=it's><--workdir={tmp_path}/my runs>")
  status, _, err = pod(*options, 'run', **path)
  assert status == 1 and 'a run is under way' in err
  assert ': running\n' in pod(*options, 'status', **path)[1]
  assert pod(*options, 'stop', **path)[0] == 0
  wait_for((tmp_path / 'vid2act_jax' / 'run.status').exists)
  assert 'ended with status 75\n' in pod(*options, 'status', **path)[1]
  assert not list((tmp_path / 'my runs').iterdir())


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['create'], '--type is missing (or TPU_TYPE)'),
    (['run', '--config=x'], '--folder is missing (or TPU_FOLDER)'),
    (['--folder=gs://x', 'run'], 'must be mounted'),
    (['status'], '--zone is missing'),
    ([], 'what to do?'),
    (['start'], 'start: not create'),
  ],
)
def test_pod_mistakes(arguments, message):
  status, out, err = pod('--dry-run', *arguments)
  assert (status, out) == (1, '')
  assert message in err


# The page.


def test_all_reduce():
  machine = scaling.Machine('', 1.0, bandwidth=100.0, latency=2.0)
  assert scaling.all_reduce(1, 1000, machine) == 0
  # 1.5 times the bytes, and two messages one after the other.
  assert scaling.all_reduce(4, 1000, machine) == pytest.approx(15 + 4)
  assert scaling.all_reduce(4, 1000, machine, 3) == pytest.approx(15 + 12)
  assert [scaling.batch_kept(n) for n in (1, 8, 64)] == [50, 56, 64]


def test_the_page_has_what_the_script_computes():
  page = (ROOT / 'docs' / 'scaling.md').read_text()
  assert scaling.report() in page
  for stage, size in scaling.BYTES.items():
    c = scaling.COLLECTIVES[stage]
    found = rf'{size / 1e6:.1f} MB in {stage[:7]}\w*ing \(c = {c}\)'
    assert re.search(found, page)
  for name in re.findall(r'launch/(\w+\.\w+)', page):
    assert (LAUNCH / name).exists()
