"""The launchers, and docs/scaling.md."""

import json
import os
import pathlib
import re
import runpy
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
  """Writes an executable shell script."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\n{text}\n')
  path.chmod(0o755)


def run(*command, **environment):
  """Returns a command's (status, stdout, stderr)."""
  completed = subprocess.run(
    [str(part) for part in command],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )
  return completed.returncode, completed.stdout, completed.stderr


def wait_for(condition, seconds=60):
  """Waits until the condition is true; returns its value."""
  deadline = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  return value


# Multiple processes on one machine.


@pytest.fixture
def multiprocess(tmp_path, monkeypatch):
  """multiprocess.sh with a setup.sh that uses this Python."""
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


def test_processes_connect(multiprocess):
  status, out, err = run('bash', multiprocess, 2, '--do', 'sum', DEVICES='2')
  assert status == 0, err
  # Four devices; the sum is 1 + 2, by gloo.
  for i in range(2):
    assert f'[{i}] sum 3, 4 devices' in out.splitlines()


def test_gpus_are_split_evenly(multiprocess):
  arguments = 'bash', multiprocess, 2, '--do', 'env'
  status, out, _ = run(*arguments, CUDA_VISIBLE_DEVICES='4,5,6,7')
  assert status == 0
  assert '[0] CUDA_VISIBLE_DEVICES=4,5\n' in out
  assert '[1] CUDA_VISIBLE_DEVICES=6,7\n' in out
  status, _, err = run(*arguments, CUDA_VISIBLE_DEVICES='4,5,6')
  assert status == 1 and '3 GPUs cannot be split evenly' in err
  status, out, _ = run(*arguments, CUDA_VISIBLE_DEVICES='4,5', DEVICES='3')
  assert '[1] JAX_PLATFORMS=cpu\n' in out
  assert out.count('device_count=3\n') == 2


def test_failure_ends_all_processes(multiprocess):
  started = time.monotonic()
  status, out, err = run(
    'bash', multiprocess, 3, '--do', 'stay', 'fail', 'save', GRACE='1'
  )
  assert status == 3
  assert '[1] failing\n[1] ended with status 3\n' in err
  # Killed, since it ignores signals, or terminated before its handler was set.
  assert re.search(r'\[0\] ended with status (137|143)', err)
  assert re.search(r'\[2\] ended with status (75|143)', err)
  assert time.monotonic() - started < 20


def start_processes(script, *do):
  # A shell inherits an ignored signal and cannot reset it. Not by preexec_fn:
  # that forks, and this process has JAX's threads.
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  process = subprocess.Popen(
    # A background job may have been started with SIGINT ignored.
    ['env', '--default-signal=INT', 'bash', script, '2', '--do', *do],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  signal.signal(signal.SIGINT, handler)
  lines = sorted(process.stdout.readline() for _ in range(2))
  assert lines == ['[0] waiting\n', '[1] waiting\n']
  return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_saves(multiprocess, number):
  process = start_processes(multiprocess, 'save')
  process.send_signal(number)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 75
  assert sorted(out.splitlines()) == ['[0] got SIGTERM', '[1] got SIGTERM']


def test_second_ctrl_c_kills(multiprocess):
  process = start_processes(multiprocess, 'stay')
  process.send_signal(signal.SIGINT)
  lines = sorted(process.stdout.readline() for _ in range(2))
  assert lines == ['[0] got SIGTERM\n', '[1] got SIGTERM\n']
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=20)
  assert process.returncode == 137


@pytest.mark.parametrize('arguments', [(), ('0',), ('--config=x',)])
def test_number_of_processes_is_required(multiprocess, arguments):
  status, _, err = run('bash', multiprocess, *arguments)
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
  for expected in ('partition=gpu', 'time=1590', 'gpus_per_node=4',
                 'ntasks_per_node=4', 'nodes=1'):  # fmt: skip
    assert expected in first.split()
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
    (['experiments/no.py'], 'experiments/no.py: no such file'),
    (
      ['experiments/debug.py', '--', '--config.no=1'],
      "--config.no=1: the config has no key 'no'",
    ),
    (
      ['experiments/debug.py', '--', '--config.learner.scales.discont=1'],
      "'learner.scales.discont'; did you mean config.learner.scales.discount",
    ),
    (['experiments/debug.py', '--', '--workdir=x'], 'is not allowed after --'),
    (['experiments/debug.py', 'experiments/debug.py'], 'would both run in'),
    (['experiments/debug.py', '--local', '--nodes', '2'], 'multiprocess.sh'),
  ],
)
def test_slurm_errors(arguments, message, tmp_path):
  script = [sys.executable, LAUNCH / 'slurm.py', '--dry-run']
  status, out, err = run(*script, '--folder', tmp_path, '--config', *arguments)
  assert (status, out) == (1, '')
  assert err.startswith('error: ') and message in err


def test_slurm_submits_an_array(tmp_path):
  """With fake cluster commands that only record their arguments."""
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
  lines = [line.split(',')[0] for line in out.splitlines()]
  assert lines == [f'12_{i}: {tmp_path}/runs/debug-{i}' for i in range(2)]
  script = (tmp_path / 'script').read_text()
  for expected in ('--array=0-1', '--requeue', '--signal=USR2@150',
                 '--gpus-per-node=1', '--kill-on-bad-exit=1'):  # fmt: skip
    assert expected in script
  jobs = list((tmp_path / 'runs' / 'slurm').glob('12_?_submitted.pkl'))
  assert len(jobs) == 2


def children(pid):
  return pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


@pytest.mark.slow
def test_preempted_local_run_resumes(tmp_path, monkeypatch):
  """As submitit does it: USR2, checkpoint, and the same job again."""
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
  log = pathlib.Path(process.stdout.readline().split(' log: ')[1].strip())
  workdir = tmp_path / 'debug-0'
  metrics = workdir / 'metrics.jsonl'
  wait_for(lambda: metrics.exists() and 'train/kl' in metrics.read_text())
  controller = log.name.split('_')[0]
  os.kill(int(children(controller)[0]), signal.SIGUSR2)
  out, _ = process.communicate(timeout=100)
  text = log.read_text()
  assert process.returncode == 0 and out == f'finished: {workdir}\n', text
  assert 'finetune: resuming after update' in text
  assert len(runs.read_starts(workdir)) == 2
  # No row is duplicated or missing.
  rows = [m for m in read_metrics(workdir, 'finetune') if 'train/kl' in m]
  done = json.loads((workdir / runs.STUDENT / 'DONE.json').read_text())
  assert len(rows) == done['step'] // 2
  # A finished run is not started again, unless its length increases.
  status, out, _ = slurm(*command)
  assert (status, out) == (0, f'finished: {workdir}\n')
  _, out, _ = slurm('experiments/debug.py', '--dry-run', *command[1:-1],
                    '--config.finetune.env_steps=301')  # fmt: skip
  assert 'experiments.run' in out


def test_failed_local_run(tmp_path):
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
QUEUE = ['gcloud', 'compute', 'tpus', 'queued-resources']


def pod(*arguments, **environment):
  return run('bash', LAUNCH / 'tpu_pod.sh', *arguments, **environment)


def commands_of(*arguments):
  """Returns the commands of a dry run, each as a list of arguments."""
  status, out, err = pod(*POD, '--dry-run', *arguments)
  assert status == 0, err
  # Bash parses its own quoting, including $'...'.
  code = 'f() { printf "%s\\0" "$@"; printf "\\n\\0"; }\n'
  code += ''.join(f'f {line}\n' for line in out.splitlines())
  _, text, _ = run('bash', '-c', code)
  return [c.split('\0')[:-1] for c in text.removesuffix('\n\0').split('\n\0')]


def test_pod_dry_run():
  location = ['--zone=z', '--project=p']
  create, describe = commands_of('--spot', 'create')
  assert create == [*QUEUE, 'create', 'pod', '--node-id=pod',
                    '--accelerator-type=v4-32', '--runtime-version=v', '--spot',
                    *location]  # fmt: skip
  assert describe[:6] == [*QUEUE, 'describe', 'pod']
  archive, copy, install = commands_of('install')
  assert archive[:1] + archive[-1:] == ['git', 'HEAD']
  assert copy == [*GCLOUD, 'scp', archive[-2], 'pod:vid2act_jax.tar.gz',
                  '--worker=all', *location]  # fmt: skip
  assert 'launch/setup.sh' in install[-3] and "'.[tpu,gcs]'" in install[-3]
  [delete] = commands_of('delete')
  assert delete == [*QUEUE, 'delete', 'pod', '--force', '--quiet', *location]
  [make, fetch] = commands_of('fetch', '/copy')
  assert make == ['mkdir', '-p', '/copy']
  assert fetch == [*GCLOUD, 'scp', 'pod:/mnt/my runs/a', '/copy', '--worker=0',
                   '--recurse', *location]  # fmt: skip
  for subcommand in ('status', 'logs', 'stop'):
    [command] = commands_of(subcommand)
    assert command[4:7] == ['ssh', 'pod', '--worker=all']
  *check, start = commands_of('run', '--config=a b.py')
  assert [c[6] for c in check] == ['--worker=0', '--worker=all', '--worker=0']
  assert start[6] == '--worker=all' and 'nohup' in start[7]
  assert r'--config=a\ b.py --workdir=/mnt/my\ runs/a' in start[7]
  assert 'JAX_COMPILATION_CACHE_DIR' not in start[7]


def test_pod_with_a_bucket():
  [start] = commands_of('--folder=gs://b/runs/one', 'run', '--config=a.py')
  assert 'JAX_COMPILATION_CACHE_DIR=gs://b/runs/cache nohup' in start[7]
  assert '--config=a.py --workdir=gs://b/runs/one' in start[7]
  cache = '--cache', 'gs://other/c'
  [start] = commands_of('--folder=gs://b/runs/one', *cache, 'run')
  assert 'JAX_COMPILATION_CACHE_DIR=gs://other/c nohup' in start[7]
  seeds = commands_of('--folder=gs://b/runs/one', 'run', '--config.seeds=8')
  assert seeds[0][:6] == [*GCLOUD, 'describe', 'pod']
  assert '--num_processes=HOSTS --process_id=$worker' in seeds[1][7]
  [make, fetch] = commands_of('--folder=gs://b/runs/one', 'fetch', '/copy')
  assert make == ['mkdir', '-p', '/copy']
  assert fetch == ['gcloud', 'storage', 'cp', '--recursive', 'gs://b/runs/one',
                   '/copy']  # fmt: skip


def test_pod_shares_seeds_out(tmp_path):
  """With a fake gcloud: ssh runs the command on this host, as worker 2."""
  path = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
  write_program(tmp_path / 'bin' / 'hostname', 'echo t1v-n-1-w-2')
  write_program(
    tmp_path / 'bin' / 'gcloud',
    f'cd {tmp_path}; if test "$4" = describe; then echo $HOSTS; exit; fi\n'
    'for a in "$@"; do case $a in\n'
    '--command=*) exec bash -c "${a#*=}" ;; esac; done',
  )
  write_program(
    tmp_path / 'vid2act_jax' / '.venv' / 'bin' / 'python',
    'echo "${@:4}" bounds $TPU_PROCESS_BOUNDS',
  )
  log = tmp_path / 'vid2act_jax' / 'run.log'

  def log_of(hosts, *arguments):
    log.unlink(missing_ok=True)
    options = '--zone=z', f'--folder={tmp_path}/runs'
    status, _, err = pod(*options, 'run', *arguments, HOSTS=hosts, **path)
    assert status == 0, err
    wait_for((log.parent / 'run.status').exists)
    return log.read_text().replace(f' --workdir={tmp_path}/runs', '')

  own = '--num_processes=4 --process_id=2'
  for seeds in (['--config.seeds=8'], ['--config.seeds', '8']):
    text = ' '.join(seeds)
    assert log_of('4', *seeds) == f'{text} {own} bounds 1,1,1\n'
    assert log_of('1', *seeds) == f'{text} bounds\n'
  assert log_of('4', '--config.seed=8') == '--config.seed=8 bounds\n'


@pytest.mark.parametrize(
  'accelerator, version',
  [
    ('v3-32', 'tpu-ubuntu2204-base'),
    ('v4-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v5p-16', 'v2-alpha-tpuv5'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ],
)
def test_pod_runtime_version(accelerator, version):
  options = '--dry-run', '--zone=z', f'--type={accelerator}'
  status, out, err = pod(*options, 'create')
  assert status == 0, err
  assert f"'--runtime-version={version}'" in out and '--spot' not in out


@pytest.mark.parametrize('last', ['ACTIVE', 'FAILED'])
def test_pod_waits_for_the_slice(tmp_path, last):
  """With a fake gcloud, whose request goes through three states."""
  states = tmp_path / 'states'
  states.write_text(f'WAITING_FOR_RESOURCES\nPROVISIONING\n{last}\n')
  write_program(
    tmp_path / 'bin' / 'gcloud',
    f'if test "$4" = describe; then head -n 1 {states}; sed -i 1d {states}; fi',
  )
  path = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
  path['TPU_POLL_SECONDS'] = '0'
  status, _, err = pod('--zone=z', '--type=v6e-8', 'create', **path)
  assert status == (last != 'ACTIVE'), err
  assert 'vid2act: PROVISIONING\n' in err
  assert ('the slice is FAILED' in err) == (last == 'FAILED')


def test_pod_commands_on_this_host(tmp_path):
  """With a fake gcloud whose ssh runs the command on this host."""
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
  text = log.read_text()
  assert text.startswith(f"<--config.task=it's><--workdir={tmp_path}/my runs>")
  status, _, err = pod(*options, 'run', **path)
  assert status == 1 and 'already running' in err
  assert ': running\n' in pod(*options, 'status', **path)[1]
  assert '] <--config.task' in pod(*options, 'logs', **path)[1]
  assert pod(*options, 'stop', **path)[0] == 0
  wait_for((tmp_path / 'vid2act_jax' / 'run.status').exists)
  assert 'ended with status 75\n' in pod(*options, 'status', **path)[1]
  assert not list((tmp_path / 'my runs').iterdir())


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['create'], '--type is missing (or TPU_TYPE)'),
    (['run', '--config=x'], '--folder is missing (or TPU_FOLDER)'),
    (['--zone=z', '--type=v9-8', 'create'], 'name its runtime version with'),
    (['--folder=gs://x', 'run'], 'or be gs://BUCKET/FOLDER'),
    (['--folder=runs/x', 'run'], 'must begin with /'),
    (['status'], '--zone is missing'),
    ([], 'no command'),
    (['start'], 'unknown command start'),
  ],
)
def test_pod_errors(arguments, message):
  status, out, err = pod('--dry-run', *arguments)
  assert (status, out) == (1, '')
  assert message in err


# docs/scaling.md.


def test_all_reduce():
  machine = scaling.Machine('', 1.0, bandwidth=100.0, latency=2.0)
  assert scaling.all_reduce(1, 1000, machine) == 0
  # 1.5 times the bytes, and two messages in sequence.
  assert scaling.all_reduce(4, 1000, machine) == pytest.approx(15 + 4)
  assert scaling.all_reduce(4, 1000, machine, 3) == pytest.approx(15 + 12)
  assert [scaling.batch_kept(n) for n in (1, 8, 64)] == [50, 56, 64]


def test_docs_match_computed_report():
  text = (ROOT / 'docs' / 'scaling.md').read_text()
  assert scaling.report() in text
  for stage, size in scaling.BYTES.items():
    c = scaling.COLLECTIVES[stage]
    pattern = rf'{size / 1e6:.1f} MB in {stage[:7]}\w*ing \(c = {c}\)'
    assert re.search(pattern, text)
  for name in re.findall(r'launch/(\w+\.\w+)', text):
    assert (LAUNCH / name).exists()


def test_percent_signs_in_the_folder_are_not_patterns(tmp_path):
  """The runs' folders keep them, and those of the logs have none."""
  script = runpy.run_path(str(LAUNCH / 'slurm.py'))
  log_folder, make_runs = script['log_folder'], script['make_runs']
  assert log_folder(tmp_path / 'runs') == tmp_path / 'runs' / 'slurm'
  folder = tmp_path / 'a-%j' / 'b%t'
  assert log_folder(folder) == tmp_path / 'slurm-a-_j-b_t'
  todo, _ = make_runs(['experiments/debug.py'], [0], folder, [], 1)
  assert todo[0].command[-1] == f'--workdir={folder}/debug-0'
