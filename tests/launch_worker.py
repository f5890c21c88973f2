"""What test_launch starts several of, in place of experiments.run.

  MODULE=tests.launch_worker bash launch/multiprocess.sh 2 --do sum

--do takes one word, or one for each process:
  sum: say the sum over all processes, and the devices; env: say what it was
  started with; fail: end with status 3; save: wait for SIGTERM or SIGINT and
  end with status 75; stay: wait and take no notice of signals.
"""

import argparse
import os
import signal
import sys
import time


def main():
  """Does what its process is to do."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--coordinator')
  parser.add_argument('--num_processes', type=int)
  parser.add_argument('--process_id', type=int)
  parser.add_argument('--do', nargs='+')
  args = parser.parse_args()
  do = args.do[args.process_id % len(args.do)]
  if do == 'sum':
    _sum(args)
  elif do == 'env':
    for key in ('CUDA_VISIBLE_DEVICES', 'XLA_FLAGS', 'JAX_PLATFORMS'):
      print(f'{key}={os.environ.get(key)}')
  elif do == 'fail':
    print('failing', file=sys.stderr)
    sys.exit(3)
  elif do in ('save', 'stay'):
    _wait(saves=do == 'save')


def _sum(args):
  # Behind the arguments: the others need no jax.
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  jax.distributed.initialize(
    args.coordinator, args.num_processes, args.process_id
  )
  mine = np.asarray([args.process_id + 1])
  total = multihost_utils.process_allgather(mine).sum()
  print(f'sum {total}, {jax.device_count()} devices')


def _wait(saves):
  def end(signum, _):
    print(f'got {signal.Signals(signum).name}')
    if saves:
      sys.exit(75)

  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, end)
  print('waiting')
  while True:
    time.sleep(0.1)


if __name__ == '__main__':
  main()
