"""What works on this machine, what is missing, and how to fix it.

python -m vid2act_jax.doctor
python -m vid2act_jax.doctor --only gl suites
python -m vid2act_jax.doctor --json --folder /scratch/runs
"""

import argparse
import json
import os
import sys

from vid2act_jax.doctor import checks, results


def _parser():
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.doctor',
    description='Reports what works on this machine, and how to fix the rest.',
    epilog='Exit status: 0 no problem (perhaps notes), 1 a problem, 2 wrong'
    ' usage.',
  )
  text = 'these checks alone, of: ' + ', '.join(checks.CHECKS)
  choices = {'choices': checks.CHECKS, 'metavar': 'NAME'}
  parser.add_argument('--only', nargs='+', help=text, **choices)
  parser.add_argument('--list', action='store_true', help='name the checks')
  text = 'where runs are to be kept (default: the current folder)'
  parser.add_argument('--folder', default='.', help=text)
  text = 'print one JSON object'
  parser.add_argument('--json', action='store_true', help=text)
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the checks named by command-line arguments; returns the exit status.

  Raises:
    SystemExit: with 2, for wrong usage.
  """
  args = _parser().parse_args(arguments)
  if args.list:
    for name, check in checks.CHECKS.items():
      print(f'{name:<12}{check.__doc__.splitlines()[0]}')
    return 0
  names = [x for x in checks.CHECKS if not args.only or x in args.only]
  chosen = {name: checks.CHECKS[name] for name in names}
  found = []
  for result in results.collect(chosen, os.path.expanduser(args.folder)):
    found.append(result)
    if not args.json:
      print(result, flush=True)  # Immediately: some checks take a while.
  statuses = [result.status for result in found]
  ok = 'problem' not in statuses
  if args.json:
    keys = {'name': 'name', 'status': 'status', 'text': 'text', 'remedy': 'fix'}
    rows = [{k: getattr(x, field) for k, field in keys.items()} for x in found]
    print(json.dumps({'checks': rows, 'ok': ok}, indent=2))
  else:
    counts = (f'{statuses.count(x)} {x}' for x in results.STATUSES)
    print('\n' + ', '.join(counts))
  return 0 if ok else 1


if __name__ == '__main__':
  try:
    sys.exit(main())
  except KeyboardInterrupt:
    sys.exit(130)
