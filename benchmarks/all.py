"""Runs all benchmarks of one kind of machine and writes a file of results.

  python -m benchmarks.all cpu
  python -m benchmarks.all gpu
  python -m benchmarks.all gpu --limit 540
  python -m benchmarks.all gpu --beside "python time_public_code.py"

Runs them one after another, each in a separate process. After each one it
updates benchmarks/results/<kind>.json with the command, the figures and the
commit. `--only` repeats some of them and keeps the other results. `--beside`
also runs the command of another program that prints a line of JSON, so that
both are measured in the same run. `--limit` is for a machine that is lent for a
short time: a benchmark that is not done by then is stopped, and its old result
stays.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from vid2act_jax.loops import runs

RESULTS = pathlib.Path(__file__).parent / 'results'
_UPDATE = 'benchmarks.update'
_PARITY = 'tests.check_parity tests/golden'
_STOPPED = 124  # Exit status of `timeout`.
KINDS = {
  'cpu': {
    'update': f'{_UPDATE} --repeats 3',
    'update_embeddings_computed': (
      f'{_UPDATE} --repeats 3 --no-parts --embeddings none'
    ),
    'domains': 'benchmarks.domains --repeats 3',
    'envs': 'benchmarks.envs --seconds 3',
    'end_to_end': 'benchmarks.end_to_end',
    'collectives': 'benchmarks.collectives',
    'seeds': 'benchmarks.seeds --preset quickstart --seeds 1 4',
    'data': 'benchmarks.data --frames 500000',
  },
  'gpu': {
    # In order of priority; parts of the update take another compilation each.
    'parity_step_eps05': f'{_PARITY}/step_eps05.npz',
    'update_bfloat16': f'{_UPDATE} --repeats 50 --dtype bfloat16 --no-parts',
    'seeds': 'benchmarks.seeds --repeats 5 --dtype bfloat16',
    'loop': 'benchmarks.loop --config.learner.dtype=bfloat16',
    'parity_step_eps0': f'{_PARITY}/step_eps0.npz',
    'parity_three_steps': f'{_PARITY}/three_steps.npz',
    'update_bfloat16_embeddings_computed': (
      f'{_UPDATE} --repeats 50 --dtype bfloat16 --no-parts --embeddings none'
    ),
    'domains': 'benchmarks.domains --repeats 50 --dtype bfloat16',
    'update_float32': f'{_UPDATE} --repeats 50',
  },
}


def measure(command: str, commit: str, seconds: int) -> dict | None:
  """Runs a benchmark; returns its figures, or its output without figures.

  Args:
    command: a shell command.
    commit: the commit that is measured.
    seconds: after which it is stopped; 0: never. Then the result is None.
  """
  env = dict(os.environ)
  if 'check_parity' in command:
    # The tolerances need float32; the default precision of a GPU is lower.
    env['JAX_DEFAULT_MATMUL_PRECISION'] = 'float32'
  done = subprocess.run(
    f'timeout {seconds} {command}',
    shell=True,
    env=env,
    capture_output=True,
    text=True,
  )
  if done.returncode == _STOPPED:
    return None
  out = {'command': command.replace(sys.executable, 'python')}
  out['commit'] = commit
  if done.returncode:
    return {**out, 'failed': done.stderr.strip().splitlines()[-5:]}
  for line in done.stdout.splitlines():
    if line.startswith('{'):
      return {**out, 'figures': json.loads(line)}
  return {**out, 'said': done.stdout.strip().splitlines()}


def main():
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('kind', choices=KINDS)
  parser.add_argument('--only', nargs='+', default=None)
  parser.add_argument('--beside', default='')
  parser.add_argument('--limit', type=int, default=0, help='seconds; 0: none')
  args = parser.parse_args()
  python = shlex.quote(sys.executable)
  commands = {k: f'{python} -m {v}' for k, v in KINDS[args.kind].items()}
  if unknown := set(args.only or ()) - set(commands):
    parser.error(f'{sorted(unknown)}: choose from {sorted(commands)}')
  if args.beside:
    commands['beside'] = args.beside
  path = RESULTS / f'{args.kind}.json'
  results = json.loads(path.read_text()) if path.exists() else {}
  # Read before writing results, which would make the work tree dirty.
  failed, commit = [], runs.commit()
  start = time.monotonic()
  for name, command in commands.items():
    if args.only and name not in args.only and name != 'beside':
      continue
    left = int(start + args.limit - time.monotonic()) if args.limit else 0
    if args.limit and left < 1:
      print(f'{name}: no time left', flush=True)
      continue
    print(f'{name}: {command}', flush=True)
    result = measure(command, commit, left)
    if result is None:
      print(f'{name}: stopped after {left} s', flush=True)
      continue
    results[name] = result
    print(json.dumps(results[name]), flush=True)
    failed += [name] if 'failed' in results[name] else []
    path.write_text(json.dumps(results, indent=2) + '\n')
  if failed:
    sys.exit(f'failed: {", ".join(failed)}')


if __name__ == '__main__':
  main()
