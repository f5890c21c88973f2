"""What works on this machine, what is missing, and how to fix it.

python -m vid2act_jax.doctor
python -m vid2act_jax.doctor --only gl suites
python -m vid2act_jax.doctor --json --folder /scratch/runs
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import json
import os
import sys

from vid2act_jax.doctor import checks, results


def main(arguments: list[str] | None = None) -> int:
  """Runs the checks named by command-line arguments; returns the exit status.

  Raises:
    SystemExit: with 2, for wrong usage.
  """
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.doctor',
    description='Reports what works on this machine, and how to fix the rest.',
    epilog='Exit status: 0 no problem (perhaps notes), 1 a problem, 2 wrong'
    ' usage.',
  )
  groups = [name for name in checks.CHECKS if '/' not in name]
  names = {'nargs': '+', 'choices': groups, 'metavar': 'NAME'}
  text = f'these checks alone, of: {", ".join(groups)}'
  parser.add_argument('--only', default=groups, help=text, **names)
  parser.add_argument('--list', action='store_true', help='name the checks')
  text = 'where runs are to be kept (default: the current folder)'
  parser.add_argument('--folder', default='.', help=text)
  text = 'print one JSON object'
  parser.add_argument('--json', action='store_true', help=text)
  args = parser.parse_args(arguments)
  if args.list:
    for name in groups:
      print(f'{name:<12}{checks.CHECKS[name].find.__doc__.splitlines()[0]}')
    return 0
  found = []
  for name in checks.CHECKS:
    if name.partition('/')[0] in args.only:
      rows = checks.run(name, os.path.expanduser(args.folder))
      found += rows
      if rows and not args.json:
        print(*rows, sep='\n', flush=True)  # Some checks take a while.
  statuses = [row.status for row in found]
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
