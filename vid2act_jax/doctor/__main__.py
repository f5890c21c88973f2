"""What this machine has, what it lacks, and what to type about it.

  python -m vid2act_jax.doctor
  python -m vid2act_jax.doctor --only gl suites
  python -m vid2act_jax.doctor --json --folder /scratch/runs

The exit status is for scripts: 0, no problem (there may be notes); 1, at least
one problem; 2, a command line that cannot be understood.
"""

import argparse
import dataclasses
import json
import os
import sys

from vid2act_jax.doctor import checks, rows


def _parser():
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.doctor',
    description='Tells what works on this machine, and how to mend the rest.',
    epilog='Exit status: 0 no problem, 1 a problem, 2 wrong usage.',
  )
  parser.add_argument(
    '--only',
    nargs='+',
    choices=checks.CHECKS,
    metavar='NAME',
    help='these checks alone, of: ' + ', '.join(checks.CHECKS),
  )
  parser.add_argument('--list', action='store_true', help='name the checks')
  parser.add_argument(
    '--folder',
    default='.',
    help='where runs are to be kept (default: the current one)',
  )
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object'
  )
  return parser


def _list():
  for name, check in checks.CHECKS.items():
    print(f'{name:<12}{check.__doc__.splitlines()[0]}')


def main(arguments: list[str] | None = None) -> int:
  """Runs the checks and tells what they found.

  Args:
    arguments: of the command line; None: this process's.

  Returns:
    The exit status: 0, or 1 when there is a problem.

  Raises:
    SystemExit: with 2, for a command line that cannot be understood.
  """
  args = _parser().parse_args(arguments)
  if args.list:
    _list()
    return 0
  names = [n for n in checks.CHECKS if not args.only or n in args.only]
  picked = {name: checks.CHECKS[name] for name in names}
  found = []
  for row in rows.collect(picked, os.path.expanduser(args.folder)):
    found.append(row)
    if not args.json:
      print(row, flush=True)  # At once: some checks take a while.
  counts = {s: [r.status for r in found].count(s) for s in rows.STATUSES}
  ok = not counts['problem']
  if args.json:
    listed = [dataclasses.asdict(row) for row in found]
    print(json.dumps({'checks': listed, 'ok': ok}, indent=2))
  else:
    print('\n' + ', '.join(f'{n} {status}' for status, n in counts.items()))
  return 0 if ok else 1


if __name__ == '__main__':
  try:
    sys.exit(main())
  except KeyboardInterrupt:
    sys.exit(130)
