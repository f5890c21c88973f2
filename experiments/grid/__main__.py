"""Runs a study: a grid of runs that answer a question together.

  python -m experiments.grid --study=experiments/studies/ablation.py
  python -m experiments.grid --study=experiments/studies/ablation.py \
    --base=experiments/dmc_quadruped.py --out=runs/quadruped --seeds=5 --list
  python -m experiments.grid --study=experiments/studies/ablation.py \
    --index=$SLURM_ARRAY_TASK_ID -- --config.env.quality=fast

Given again, it goes on: what is done costs nothing, and what is half done is
resumed. Given at once on several machines that share the folder, they share
the points out. The studies, and how to spread one: docs/studies.md.
"""

import argparse
import collections
import pathlib
import sys

from experiments.grid import jobs
from experiments.grid.runner import Runner, describe
from vid2act_jax.types import UserError


def print_list(points: list) -> None:
  """Prints the points by index, in waves: what a wave needs is above it."""
  states = describe(points)
  kind = None
  for index, point in enumerate(points):
    if point.kind != kind:
      kind = point.kind
      last = index + sum(p.kind == kind for p in points) - 1
      print(f'{kind}, --index {index} to {last}:')
    print(f'{index:4d}  {states[point.name]:7s}  {point.name}  {point.about}')
  counts = collections.Counter(states.values())
  told = ', '.join(f'{count} {state}' for state, count in counts.items())
  print(f'{len(points)} points: {told}')


def pick(points: list, index: int) -> list:
  """The one point of an index.

  Raises:
    UserError: there is none, or what it needs is not done.
  """
  if not 0 <= index < len(points):
    raise UserError(f'--index={index}: there are 0 to {len(points) - 1}')
  point, states = points[index], describe(points)
  if states[point.name] == 'running':
    raise UserError(f'{point.name} is under way elsewhere')
  missing = [
    f'--index {i} ({other.name}, {states[other.name]})'
    for i, other in enumerate(points)
    if other.name in point.needs and states[other.name] != 'done'
  ]
  if missing and states[point.name] not in ('done', 'spare'):
    raise UserError(f'{point.name} needs first: {", ".join(missing)}')
  return [point]


def _parse(argv):
  parser = argparse.ArgumentParser(
    prog='python -m experiments.grid',
    description=__doc__.splitlines()[0],
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--study', required=True, help='file of the study')
  add('--base', default='experiments/studies/small.py', help='the experiment')
  add('--out', help="the runs' folder; by default runs/<study>")
  add('--shared', help='folder of datasets and teachers; by default --out')
  add('--seeds', type=int, default=3, help='so many: 0, 1, ...')
  add('--list', action='store_true', help='print the points alone')
  add('--index', type=int, help='run the point with this number alone')
  add('--jobs', type=int, help='so many at once; by default 1, or all GPUs')
  add('--gpus', nargs='+', help='as in --gpus 0 1 2 3: one for each job')
  add('--keep_going', action='store_true', help='when a point has failed, too')
  add('overrides', nargs='*', help='behind --: arguments of every run')
  return parser.parse_args(argv)


def main(argv=None) -> int:
  """Plans, then lists or runs."""
  args = _parse(argv)
  out = pathlib.Path(args.out or f'runs/{pathlib.Path(args.study).stem}')
  out = out.expanduser()
  shared = pathlib.Path(args.shared).expanduser() if args.shared else out
  try:
    points = jobs.make(
      args.study, args.base, args.seeds, args.overrides, out, shared
    )
    if args.list:
      print_list(points)
      return 0
    if args.index is not None:
      points = pick(points, args.index)
    status = Runner(points, _gpus(args), args.keep_going).run()
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  if not status and args.index is None:
    print(
      'the report of it: python -m vid2act_jax.analysis report'
      f' {out} --out {out}/report'
    )
  return status


def _gpus(args):
  """For each job at once, the GPU it sees, None for all."""
  jobs = len(args.gpus or [None]) if args.jobs is None else args.jobs
  if jobs < 1:
    raise UserError(f'--jobs={jobs}: there must be at least one')
  if args.gpus and jobs > len(args.gpus):
    raise UserError(
      f'--jobs={jobs} with {len(args.gpus)} GPUs: one job has a GPU to itself'
    )
  return (args.gpus or [None] * jobs)[:jobs]


if __name__ == '__main__':
  sys.exit(main())
