"""Submits experiments times seeds to Slurm, or runs them here, by submitit.

  python launch/slurm.py --config experiments/dmc_quadruped.py \
    experiments/metaworld.py --seeds 0 1 2 --partition gpu --time 24:00:00 \
    -- --config.env.num=4
  python launch/slurm.py --config experiments/quickstart.py --seeds 0 1 --local
  python launch/slurm.py --config experiments/quickstart.py --dry-run

What follows -- goes to every run. Each has the folder FOLDER/<name>-<seed>;
those that are finished there are left out, so the same command given again
starts what is missing. A run that is preempted, or whose time is over, saves
and is put into the queue again. Needs `pip install -e '.[slurm]'`.

Paths that are not absolute start at the project's folder.
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
sys.path.insert(0, str(ROOT))  # A script's own folder is there instead.

from experiments.grid.configs import is_finished, load  # noqa: E402
from vid2act_jax.loops.preemption import EXIT_STATUS  # noqa: E402
from vid2act_jax.types import UserError  # noqa: E402

_OWN = ('--config', '--config.seed', '--workdir')
_REQUEUES = 1_000  # A run ends by its config, not by how often it began.
_YEAR = 365 * 24 * 60  # Minutes.


@dataclasses.dataclass
class Run:
  """One run, as a job: a process, which is told when the job has to end.

  Attributes:
    command: program and arguments.
    workdir: the run's folder, for what is told.
    save_s: seconds it has to save in; then it is killed and goes on later from
      its last checkpoint.
  """

  command: list[str]
  workdir: str
  save_s: int

  def __call__(self) -> int:
    """Runs it, as one task of the job.

    Returns:
      Its exit status, 0 or 75. When it is to be put into the queue again, the
      first task does not come back.

    Raises:
      RuntimeError: it failed.
    """
    asked = []
    requeue = signal.getsignal(signal.SIGUSR2)  # As submitit set it.
    child = subprocess.Popen(
      self.command,
      cwd=ROOT,
      # Signals come to it from here alone. It must outlive those that Slurm
      # sends to every process of a job.
      start_new_session=True,
      preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )

    def ask(number, _):
      if not asked:
        child.terminate()
        signal.alarm(self.save_s)
      asked.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
      signal.signal(number, ask)
    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    status = child.wait()
    signal.alarm(0)
    # Killed by what asked it to stop, it was not ready to listen or too slow.
    killed = asked and status in (-signal.SIGTERM, -signal.SIGKILL)
    if status and status != EXIT_STATUS and not killed:
      raise RuntimeError(f'{self.workdir}: failed with exit status {status}')
    # USR2 says that time is over, or that another job wants the place. TERM
    # alone comes of scancel, too; if it is a preemption, Slurm requeues.
    if status and (signal.SIGUSR2 in asked or not asked):
      requeue(signal.SIGUSR2, None)
    return EXIT_STATUS if status else 0

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """What submitit puts into the queue again: the run goes on by itself."""
    return submitit.helpers.DelayedSubmission(self)


def plan(configs, seeds, folder, overrides, save_s) -> tuple[list, list]:
  """The runs to start, and the folders of those that are finished.

  Args:
    configs: files of experiments.
    seeds: each is run with.
    folder: of the runs' folders.
    overrides: arguments of every run.
    save_s: as of `Run`.

  Raises:
    UserError: an argument is not of a run, or two runs have one folder.
  """
  for argument in overrides:
    if argument.split('=')[0] in _OWN:
      raise UserError(f'{argument} cannot stand behind --: it is given here')
  todo, done, seen = [], [], {}
  for path in configs:
    if not pathlib.Path(path).is_file():
      raise UserError(f'{path}: there is no such file')
    for seed in seeds:
      arguments = [f'--config={path}', f'--config.seed={seed}', *overrides]
      config = load(arguments)
      workdir = folder / f'{config.name}-{seed}'
      if workdir in seen:
        raise UserError(
          f'{seen[workdir]} and {path} would both run in {workdir}; give them'
          ' folders of their own (--folder), or other names (config.name)'
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
  """Slurm's [days-]hours:minutes:seconds, or minutes, as minutes."""
  days, _, rest = text.rpartition('-')
  parts = [int(part) for part in rest.split(':')]
  if len(parts) == 1 and not days:
    return parts[0]
  hours, minute, second = (*parts, 0, 0)[:3]
  return (int(days or 0) * 24 + hours) * 60 + minute + -(-second // 60)


def parameters(args) -> dict:
  """Slurm's parameters, as submitit names them."""
  tasks = args.tasks_per_node
  if tasks is None:  # JAX gives each task of a job one GPU.
    tasks = max(1, args.gpus) if args.nodes * args.gpus > 1 else 1
  wanted = {
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
    # Of a preempted job, Slurm itself takes care then.
    'additional_parameters': {'requeue': True},
    # When one task is gone, the others would wait for it.
    'srun_args': ['--kill-on-bad-exit=1'],
  }
  return {key: value for key, value in wanted.items() if value is not None}


def submit(todo: list[Run], log: pathlib.Path, wanted: dict) -> None:
  """Puts runs into Slurm's queue, as an array.

  Args:
    todo: the runs.
    log: folder for what they say, and for submitit's files.
    wanted: of `parameters`.
  """
  try:
    executor = submitit.SlurmExecutor(log, max_num_timeout=_REQUEUES)
  except RuntimeError as error:
    raise UserError(f'{error} Use --local to run here') from error
  executor.update_parameters(**wanted)
  with executor.batch():
    jobs = [executor.submit(run) for run in todo]
  for run, job in zip(todo, jobs, strict=True):
    print(f'{job.job_id}: {run.workdir}, says {job.paths.stdout}')


def run_here(todo: list[Run], log: pathlib.Path, gpus: int, most: int) -> int:
  """Runs all on this machine.

  Args:
    todo: the runs.
    log: as of `submit`.
    gpus: for each of those that run at once.
    most: how many run at once.

  Returns:
    The exit status: 0, 1 when one failed, 75 when it was asked to stop.
  """
  waiting, slots, failed, asked = list(todo), {}, False, []
  # A Ctrl-C comes to this process; the others are told by it.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))
  while slots or (waiting and not asked):
    for slot in range(most):
      if slot not in slots and waiting and not asked:
        run = waiting.pop(0)
        slots[slot] = run, _start_here(run, log, gpus, slot)
    time.sleep(0.5)
    for slot, (run, job) in list(slots.items()):
      if asked and asked[-1] is not None:
        os.kill(int(job.job_id), signal.SIGTERM)
      if job.done():
        failed |= _tell_end(run, job)
        del slots[slot]
    asked += [None] if asked else []  # Told.
  if asked:
    return EXIT_STATUS
  return 1 if failed else 0


def _start_here(run, log, gpus, slot):
  executor = submitit.LocalExecutor(log)
  executor.update_parameters(
    timeout_min=_YEAR,
    gpus_per_node=gpus,
    visible_gpus=list(range(slot * gpus, (slot + 1) * gpus)),
  )
  # What it starts inherits this: a Ctrl-C is not for them.
  handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
  job = executor.submit(run)
  signal.signal(signal.SIGINT, handler)
  print(f'started: {run.workdir}, says {job.paths.stdout}', flush=True)
  return job


def _tell_end(run, job):
  """Tells how a run ended here; whether it failed."""
  error = job.exception()
  if error is None:
    saved = job.result() == EXIT_STATUS
    print(f'{"saved" if saved else "finished"}: {run.workdir}', flush=True)
    return False
  reason = str(error).strip().splitlines()
  told = [line for line in reason if line.startswith('RuntimeError:')]
  print(f'failed: {(told or reason)[0]}; see {job.paths.stderr}', flush=True)
  return True


def _parse(argv):
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--config', nargs='+', required=True, help='files of experiments')
  add('--seeds', nargs='+', type=int, default=[0])
  add('--folder', default='runs', help="of the runs' folders, on every node")
  add('--local', action='store_true', help='run on this machine')
  add('--parallel', type=int, help='so many at once; here, one by default')
  add('--dry-run', action='store_true', help='print the commands alone')
  add('--gpus', type=int, default=1, help='for each node; here, for each run')
  add('--save-seconds', type=int, default=120, help='to save and stop in')
  slurm = parser.add_argument_group('Slurm')
  for name in ('partition', 'account', 'qos', 'constraint'):
    slurm.add_argument(f'--{name}')
  add = slurm.add_argument
  add('--name', default='vid2act', help="the job's")
  add('--time', type=minutes, default='24:00:00', help='[days-]hh:mm:ss')
  add('--nodes', type=int, default=1, help='for each run')
  add('--tasks-per-node', type=int, help='by default one for each GPU')
  add('--cpus', type=int, help='for each task')
  add('--mem', help='for each node, as in 32GB')
  add('overrides', nargs='*', help='behind --: arguments of every run')
  return parser.parse_args(argv)


def main(argv=None) -> int:
  """Plans, tells, and submits or runs."""
  args = _parse(argv)
  os.chdir(ROOT)
  folder = pathlib.Path(args.folder).expanduser().absolute()
  log = folder / 'slurm'
  try:
    todo, done = plan(
      args.config, args.seeds, folder, args.overrides, args.save_seconds
    )
    if args.local and (args.nodes > 1 or (args.tasks_per_node or 1) > 1):
      raise UserError(
        '--local runs each experiment as one process; for several, take'
        ' launch/multiprocess.sh'
      )
    tasks = args.tasks_per_node or args.gpus
    if args.nodes > 1 and tasks < args.gpus:
      raise UserError(
        f'--tasks-per-node {tasks} with --gpus {args.gpus} on several nodes:'
        ' JAX gives each task one GPU there, and the others would do nothing;'
        ' leave --tasks-per-node out'
      )
    for workdir in done:
      print(f'finished: {workdir}')
    if args.dry_run:
      if not args.local:
        told = parameters(args).items()
        print('slurm: ' + ' '.join(f'{key}={value}' for key, value in told))
      for run in todo:
        print(shlex.join(run.command))
    elif todo and args.local:
      return run_here(todo, log, args.gpus, args.parallel or 1)
    elif todo:
      submit(todo, log, parameters(args))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
