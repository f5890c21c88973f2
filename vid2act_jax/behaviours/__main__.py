"""Command line for state policies.

  python -m vid2act_jax.behaviours list
  python -m vid2act_jax.behaviours train --task dmc_walker_walk \
    --env-steps 400000 --out DIR
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import pathlib
import sys

import numpy as np

from vid2act_jax import behaviours
from vid2act_jax.behaviours import train
from vid2act_jax.types import UserError


def table() -> str:
  """Returns the shipped policies with their returns, one a line."""
  rows = ['task, level, env steps, return by action repeat, of random actions']
  for task, levels in behaviours.shipped().items():
    for level in levels:
      rows.append(_row(behaviours.read(behaviours.find(task, level)).about))
  return '\n'.join(rows)


def _row(about):
  returns, random = (
    ', '.join(
      f'{repeat}: {r["mean"]:.0f} ± {r["std"]:.0f}'
      for repeat, r in about[key].items()
    )
    for key in ('returns', 'random_returns')
  )
  return (
    f'{about["task"]:<24} {about["level"]:<8}{about["env_steps"]:>9,}  '
    f'{returns:<28}{random}'
  )


def _list(args):
  del args
  print(table())


def _train(args):
  options = train.Options(
    args.task,
    args.env_steps,
    args.action_repeat,
    args.evaluations,
    args.hidden,
    seed=args.seed,
  )

  def show(snapshot):
    text = f'return {np.mean(snapshot.returns):.1f}'
    print(f'{args.task}: {snapshot.env_steps} env steps, {text}', flush=True)

  for path in train.train(options, args.out, show):
    print(f'{path}: {_row(behaviours.read(path).about)}')


def main(arguments: list[str] | None = None) -> int:
  """Runs a command; returns the exit status, 1 after a user's error."""
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.behaviours',
    description='State policies, which collect datasets in minutes.',
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  text = 'Prints the policies of this package and their returns.'
  command = commands.add_parser('list', help=text, description=text)
  command.set_defaults(run=_list)
  text = f'Trains policies of a task; needs the extras {train.EXTRA}.'
  command = commands.add_parser('train', help=text, description=text)
  command.set_defaults(run=_train)
  command.add_argument('--task', required=True)
  command.add_argument('--env-steps', type=int, default=400_000)
  command.add_argument('--action-repeat', type=int, default=4)
  command.add_argument(
    '--evaluations', type=int, default=24, help='checkpoints to choose from'
  )
  command.add_argument('--hidden', type=int, default=128)
  command.add_argument('--seed', type=int, default=0)
  command.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args(arguments)
  try:
    args.run(args)
    return 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1


if __name__ == '__main__':
  sys.exit(main())
