"""A worker process that test_launch starts in place of experiments.run.

  MODULE=tests.launch_worker bash launch/multiprocess.sh 2 --do sum

--do takes one value, or one for each process:
  sum: print the sum over all processes, and the number of devices;
  env: print environment variables;
  fail: exit with status 3;
  save: wait for SIGTERM or SIGINT and exit with status 75;
  stay: wait and ignore signals.
"""

import argparse
import os
import signal
import sys
import time


def main():
  """Runs the action of this process."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--coordinator')
  parser.add_argument('--num_processes', type=int)
  parser.add_argument('--process_id', type=int)
  parser.add_argument('--do', nargs='+')
  args = parser.parse_args()
  action = args.do[args.process_id % len(args.do)]
  if action == 'sum':
    _sum(args)
  elif action == 'env':
    for key in ('CUDA_VISIBLE_DEVICES', 'XLA_FLAGS', 'JAX_PLATFORMS'):
      print(f'{key}={os.environ.get(key)}')
  elif action == 'fail':
    print('failing', file=sys.stderr)
    sys.exit(3)
  elif action in ('save', 'stay'):
    _wait(exit_on_signal=action == 'save')


def _sum(args):
  # Imported late: the other actions need no jax.
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  jax.distributed.initialize(
    args.coordinator, args.num_processes, args.process_id
  )
  value = np.asarray([args.process_id + 1])
  total = multihost_utils.process_allgather(value).sum()
  print(f'sum {total}, {jax.device_count()} devices')


def _wait(exit_on_signal):
  def on_signal(signum, _):
    print(f'got {signal.Signals(signum).name}')
    if exit_on_signal:
      sys.exit(75)

  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, on_signal)
  print('waiting')
  while True:
    time.sleep(0.1)


if __name__ == '__main__':
  main()
