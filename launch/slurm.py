"""Runs experiments with several seeds on Slurm or locally, with submitit.

  python launch/slurm.py --config experiments/dmc_quadruped.py \
    experiments/metaworld.py --seeds 0 1 2 --partition gpu --time 24:00:00 \
    -- --config.env.quality=fast
  python launch/slurm.py --config experiments/quickstart.py --seeds 0 1 --local
  python launch/slurm.py --config experiments/quickstart.py --dry-run

Arguments after -- go to every run. The run folder is FOLDER/<name>-<seed>.
Finished runs are skipped, so the same command starts only the missing ones. A
run that is preempted or reaches its time limit saves and is requeued. Requires
`pip install -e '.[slurm]'`.

Relative paths are relative to the project folder.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import submitit

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # By default it is the script's folder.

from experiments.grid.configs import is_finished, load  # noqa: E402
from vid2act_jax.loops.preemption import EXIT_STATUS  # noqa: E402
from vid2act_jax.types import UserError  # noqa: E402

_RESERVED_FLAGS = ('--config', '--config.seed', '--workdir')
_MAX_REQUEUES = 1_000  # Effectively unlimited.
_YEAR_MINUTES = 365 * 24 * 60


@dataclasses.dataclass
class Run:
  """A job with one run, in a subprocess that saves when the job must end.

  Attributes:
    command: program and arguments.
    workdir: the run folder, for messages.
    save_s: seconds to save; then the run is killed and resumes later from its
      last checkpoint.
  """

  command: list[str]
  workdir: str
  save_s: int

  def __call__(self) -> int:
    """Executes the run, as one task of the job.

    Returns:
      Its exit status, 0 or 75. If the job is requeued, the first task does not
      return.

    Raises:
      RuntimeError: the run failed.
    """
    signals = []
    requeue = signal.getsignal(signal.SIGUSR2)  # As submitit set it.
    # It only gets the signals sent below, not those that Slurm sends to every
    # process of a job. A shell ignores USR2 for it, without a fork of this
    # process, which has JAX's threads.
    child = subprocess.Popen(
      ['sh', '-c', 'trap "" USR2; exec "$@"', 'sh', *self.command],
      cwd=ROOT,
      start_new_session=True,
    )

    def on_signal(number, _):
      if not signals:
        child.terminate()
        signal.alarm(self.save_s)
      signals.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
      signal.signal(number, on_signal)
    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    status = child.wait()
    signal.alarm(0)
    # Killed by a stop request: its handler was not set yet, or it was too slow.
    stops = -signal.SIGTERM, -signal.SIGKILL, -signal.SIGUSR2
    killed = signals and status in stops
    if status and status != EXIT_STATUS and not killed:
      raise RuntimeError(f'{self.workdir}: failed with exit status {status}')
    # USR2: time limit or preemption. TERM alone may come from scancel; if it is
    # a preemption, Slurm requeues the job.
    if status and (signal.SIGUSR2 in signals or not signals):
      requeue(signal.SIGUSR2, None)
    return EXIT_STATUS if status else 0

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Returns the job that submitit requeues: the same run, which resumes."""
    return submitit.helpers.DelayedSubmission(self)


def make_runs(configs, seeds, folder, overrides, save_s) -> tuple[list, list]:
  """Returns the runs to start, and the folders of finished runs.

  Args:
    configs: experiment files.
    seeds: seeds of each experiment.
    folder: parent of the run folders.
    overrides: arguments of every run.
    save_s: see `Run`.

  Raises:
    UserError: an argument is invalid, or two runs have the same folder.
  """
  for argument in overrides:
    if argument.split('=')[0] in _RESERVED_FLAGS:
      raise UserError(
        f'{argument} is not allowed after --: this script sets it'
      )
  todo, done, seen = [], [], {}
  for path in configs:
    if not pathlib.Path(path).is_file():
      raise UserError(f'{path}: no such file')
    for seed in seeds:
      arguments = [f'--config={path}', f'--config.seed={seed}', *overrides]
      config = load(arguments)
      workdir = folder / f'{config.name}-{seed}'
      if workdir in seen:
        raise UserError(
          f'{seen[workdir]} and {path} would both run in {workdir}; use'
          ' different folders (--folder) or names (config.name)'
        )
      seen[workdir] = path
      if is_finished(config, workdir):
        done.append(workdir)
        continue
      command = [sys.executable, '-m', 'experiments.run', *arguments]
      command.append(f'--workdir={workdir}')
      todo.append(Run(command, str(workdir), save_s))
  return todo, done


def minutes(text: str) -> int:
  """Converts Slurm's [days-]hours:minutes:seconds, or minutes, to minutes."""
  days, _, rest = text.rpartition('-')
  parts = [int(part) for part in rest.split(':')]
  if len(parts) == 1 and not days:
    return parts[0]
  hours, minute, second = (*parts, 0, 0)[:3]
  return (int(days or 0) * 24 + hours) * 60 + minute + -(-second // 60)


def log_folder(folder: pathlib.Path) -> pathlib.Path:
  """Folder of the logs of runs in this folder.

  submitit and Slurm always replace patterns such as %j in its name. So it is in
  the closest parent without a percent sign.
  """
  if '%' not in str(folder):
    return folder / 'slurm'
  parent = next(x for x in folder.parents if '%' not in str(x))
  name = '-'.join(folder.relative_to(parent).parts).replace('%', '_')
  return parent / f'slurm-{name}'


def parameters(args) -> dict:
  """Returns Slurm's parameters with submitit's names."""
  tasks = args.tasks_per_node
  if tasks is None:  # JAX uses one GPU per task of a job.
    tasks = max(1, args.gpus) if args.nodes * args.gpus > 1 else 1
  params = {
    'job_name': args.name,
    'partition': args.partition,
    'account': args.account,
    'qos': args.qos,
    'constraint': args.constraint,
    'time': args.time,
    'nodes': args.nodes,
    'ntasks_per_node': tasks,
    'gpus_per_node': args.gpus or None,
    'cpus_per_task': args.cpus,
    'mem': args.mem,
    'signal_delay_s': args.save_seconds + 30,
    'array_parallelism': args.parallel or 256,
    # Slurm requeues preempted jobs.
    'additional_parameters': {'requeue': True},
    # Otherwise the other tasks would wait for one that has ended.
    'srun_args': ['--kill-on-bad-exit=1'],
  }
  return {key: value for key, value in params.items() if value is not None}


def submit(todo: list[Run], log: pathlib.Path, params: dict) -> None:
  """Submits runs to Slurm as a job array.

  Args:
    todo: the runs.
    log: folder of their logs and submitit's files.
    params: from `parameters`.
  """
  try:
    executor = submitit.SlurmExecutor(log, max_num_timeout=_MAX_REQUEUES)
  except RuntimeError as error:
    raise UserError(f'{error} Use --local to run on this machine') from error
  executor.update_parameters(**params)
  with executor.batch():
    jobs = [executor.submit(run) for run in todo]
  for run, job in zip(todo, jobs, strict=True):
    print(f'{job.job_id}: {run.workdir}, log: {job.paths.stdout}')


def run_local(
  todo: list[Run], log: pathlib.Path, gpus: int, max_parallel: int
) -> int:
  """Runs all jobs on this machine.

  Args:
    todo: the runs.
    log: see `submit`.
    gpus: number of GPUs per run.
    max_parallel: number of parallel runs.

  Returns:
    The exit status: 0; 1 if a run failed; 75 if it was asked to stop.
  """
  waiting, slots, failed, signals = list(todo), {}, False, []
  # Only this process gets a Ctrl-C; it forwards the signal.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: signals.append(number))
  while slots or (waiting and not signals):
    for slot in range(max_parallel):
      if slot not in slots and waiting and not signals:
        run = waiting.pop(0)
        slots[slot] = run, _start_local(run, log, gpus, slot)
    time.sleep(0.5)
    for slot, (run, job) in list(slots.items()):
      if signals and signals[-1] is not None:
        os.kill(int(job.job_id), signal.SIGTERM)
      if job.done():
        failed |= _report_end(run, job)
        del slots[slot]
    signals += [None] if signals else []  # Forwarded.
  if signals:
    return EXIT_STATUS
  return 1 if failed else 0


def _start_local(run, log, gpus, slot):
  executor = submitit.LocalExecutor(log)
  executor.update_parameters(
    timeout_min=_YEAR_MINUTES,
    gpus_per_node=gpus,
    visible_gpus=list(range(slot * gpus, (slot + 1) * gpus)),
  )
  # Child processes inherit this handler and ignore a Ctrl-C.
  handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
  job = executor.submit(run)
  signal.signal(signal.SIGINT, handler)
  print(f'started: {run.workdir}, log: {job.paths.stdout}', flush=True)
  return job


def _report_end(run, job):
  """Prints the result of a local run; returns whether it failed."""
  error = job.exception()
  if error is None:
    saved = job.result() == EXIT_STATUS
    print(f'{"saved" if saved else "finished"}: {run.workdir}', flush=True)
    return False
  lines = str(error).strip().splitlines()
  errors = [line for line in lines if line.startswith('RuntimeError:')]
  print(f'failed: {(errors or lines)[0]}; see {job.paths.stderr}', flush=True)
  return True


def _parse(argv):
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--config', nargs='+', required=True, help='experiment files')
  add('--seeds', nargs='+', type=int, default=[0])
  add(
    '--folder',
    default='runs',
    help='parent of the run folders; shared by all nodes',
  )
  add('--local', action='store_true', help='run on this machine')
  add(
    '--parallel',
    type=int,
    help='number of parallel runs; default with --local: 1',
  )
  add('--dry-run', action='store_true', help='only print the commands')
  add('--gpus', type=int, default=1, help='per node; with --local: per run')
  add('--save-seconds', type=int, default=120, help='time limit for saving')
  slurm = parser.add_argument_group('Slurm')
  for name in ('partition', 'account', 'qos', 'constraint'):
    slurm.add_argument(f'--{name}')
  add = slurm.add_argument
  add('--name', default='vid2act', help='job name')
  add('--time', type=minutes, default='24:00:00', help='[days-]hh:mm:ss')
  add('--nodes', type=int, default=1, help='per run')
  add('--tasks-per-node', type=int, help='default: one per GPU')
  add('--cpus', type=int, help='per task')
  add('--mem', help='per node, for example 32GB')
  add('overrides', nargs='*', help='after --: arguments of every run')
  return parser.parse_args(argv)


def main(argv=None) -> int:
  """Makes the runs, then prints, submits or executes them."""
  args = _parse(argv)
  os.chdir(ROOT)
  folder = pathlib.Path(args.folder).expanduser().absolute()
  log = log_folder(folder)
  try:
    if not args.folder:
      raise UserError('--folder is empty; name a folder')
    todo, done = make_runs(
      args.config, args.seeds, folder, args.overrides, args.save_seconds
    )
    if args.local and (args.nodes > 1 or (args.tasks_per_node or 1) > 1):
      raise UserError(
        '--local runs each experiment as one process; for several, use'
        ' launch/multiprocess.sh'
      )
    tasks = args.tasks_per_node or args.gpus
    if args.nodes > 1 and tasks < args.gpus:
      raise UserError(
        f'--tasks-per-node {tasks} with --gpus {args.gpus} on several nodes:'
        ' JAX uses one GPU per task, so the other GPUs would be idle; remove'
        ' --tasks-per-node'
      )
    for workdir in done:
      print(f'finished: {workdir}')
    if args.dry_run:
      if not args.local:
        params = parameters(args).items()
        print('slurm: ' + ' '.join(f'{key}={value}' for key, value in params))
      for run in todo:
        print(shlex.join(run.command))
    elif todo and args.local:
      return run_local(todo, log, args.gpus, args.parallel or 1)
    elif todo:
      submit(todo, log, parameters(args))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
