"""Runs a study: a grid of runs that answers one question.

  python -m experiments.grid --study=experiments/studies/ablation.py
  python -m experiments.grid --study=experiments/studies/ablation.py \
    --base=experiments/dmc_quadruped.py --out=runs/quadruped --seeds=5 --list
  python -m experiments.grid --study=experiments/studies/ablation.py \
    --index=$SLURM_ARRAY_TASK_ID -- --config.env.quality=fast

The same command resumes a study: finished jobs are skipped, and partial ones
resumed. Several machines that share the folder can run the same command and
split the jobs between them. See docs/studies.md.
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import collections
import pathlib
import sys

from experiments.grid.jobs import make_jobs
from experiments.grid.runner import Runner, job_states
from vid2act_jax.types import UserError


def print_jobs(jobs: list) -> None:
  """Prints the jobs by index and kind; dependencies come first."""
  states = job_states(jobs)
  kind = None
  for index, job in enumerate(jobs):
    if job.kind != kind:
      kind = job.kind
      last = index + sum(j.kind == kind for j in jobs) - 1
      print(f'{kind}, --index {index} to {last}:')
    print(f'{index:4d}  {states[job.name]:8s}  {job.name}  {job.description}')
  counts = collections.Counter(states.values())
  summary = ', '.join(f'{count} {state}' for state, count in counts.items())
  print(f'{len(jobs)} jobs: {summary}')


def select_job(jobs: list, index: int) -> list:
  """Returns a list with the job of an index.

  Raises:
    UserError: there is no such job, it is running, or a dependency is not done.
  """
  if not 0 <= index < len(jobs):
    raise UserError(f'--index={index}: must be 0 to {len(jobs) - 1}')
  job, states = jobs[index], job_states(jobs)
  if states[job.name] == 'running':
    raise UserError(f'{job.name} is already running in another process')
  missing = [
    f'--index {i} ({other.name}, {states[other.name]})'
    for i, other in enumerate(jobs)
    if other.name in job.deps and states[other.name] != 'done'
  ]
  if missing and states[job.name] not in ('done', 'unneeded'):
    raise UserError(f'run first for {job.name}: {", ".join(missing)}')
  return [job]


def _parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m experiments.grid',
    description=__doc__.splitlines()[0],
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--study', required=True, help='study file')
  add('--base', default='experiments/studies/small.py', help='experiment file')
  add('--out', help='folder of the runs; default: runs/<study>')
  add('--shared', help='folder of datasets and teachers; default: --out')
  add('--seeds', type=int, default=3, help='number of seeds: 0, 1, ...')
  add(
    '--only',
    nargs='+',
    default=(),
    metavar='PATTERN',
    help='only runs with such a name, without the seed: walker* *dreamerv2',
  )
  add(
    '--together',
    action='store_true',
    help='all seeds of a run in one process; its folder holds theirs',
  )
  add('--list', action='store_true', help='only print the jobs')
  add('--index', type=int, help='only run the job with this index')
  add(
    '--jobs',
    type=int,
    help='number of parallel jobs; default: 1, or one per GPU',
  )
  add('--gpus', nargs='+', help='GPU ids, for example 0 1 2 3; one per job')
  add('--keep_going', action='store_true', help='continue after a failed job')
  add('overrides', nargs='*', help='after --: arguments of every run')
  return parser.parse_args(argv)


def main(argv=None) -> int:
  """Makes the jobs, then lists or runs them."""
  args = _parse(argv)
  empty = [name for name in ('out', 'shared') if vars(args)[name] == '']
  if empty:
    print(f'error: --{empty[0]} is empty; name a folder', file=sys.stderr)
    return 1
  out = pathlib.Path(args.out or f'runs/{pathlib.Path(args.study).stem}')
  out = out.expanduser()
  shared = pathlib.Path(args.shared).expanduser() if args.shared else out
  try:
    jobs = make_jobs(
      args.study,
      args.base,
      args.seeds,
      args.overrides,
      out,
      shared,
      args.only,
      args.together,
    )
    if args.list:
      print_jobs(jobs)
      return 0
    if args.index is not None:
      jobs = select_job(jobs, args.index)
    status = Runner(jobs, _gpus(args), args.keep_going).run()
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  if not status and args.index is None:
    print(
      'to write a report: python -m vid2act_jax.analysis report'
      f' {out} --out {out}/report'
    )
  return status


def _gpus(args):
  """Returns the GPU of each parallel job; None: all GPUs."""
  num = len(args.gpus or [None]) if args.jobs is None else args.jobs
  if num < 1:
    raise UserError(f'--jobs={num}: must be at least 1')
  if args.gpus and num > len(args.gpus):
    raise UserError(
      f'--jobs={num} with {len(args.gpus)} GPUs: each job needs its own GPU'
    )
  return (args.gpus or [None] * num)[:num]


if __name__ == '__main__':
  sys.exit(main())
