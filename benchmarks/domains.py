"""The cost of more source domains: updates with N = 1, 2, 4, 8, 16.

  python -m benchmarks.domains
  python -m benchmarks.domains --preset quickstart --repeats 20

Takes the arguments of benchmarks.update. Each N runs in a separate process, so
that peak memory is measured separately.
"""

import json
import subprocess
import sys

from benchmarks import measure

DOMAINS = (1, 2, 4, 8, 16)


def main():
  """Runs each N and reports its cost relative to N = 1."""
  rows = {}
  for n in DOMAINS:
    command = [sys.executable, '-m', 'benchmarks.update', *sys.argv[1:]]
    command += ['--domains', str(n), '--no-parts']
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      sys.exit(f'N = {n}: {done.stderr}')
    rows[n] = json.loads(done.stdout.splitlines()[0])
    print(f'N = {n}: {rows[n]["update_s"]:.4g} s an update', flush=True)
  first = rows[DOMAINS[0]]['update_s']
  added = {
    f'added_domain_share_to_{n}': (row['update_s'] / first - 1) / (n - 1)
    for n, row in rows.items()
    if n > 1
  }
  for key in ('update_s', 'peak_memory_bytes', 'compilations'):
    added[key] = {n: row[key] for n, row in rows.items()}
  measure.report({**added, **measure.machine()})


if __name__ == '__main__':
  main()
