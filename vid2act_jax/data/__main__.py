"""Datasets from the command line.

  python -m vid2act_jax.data import --format dreamer SRC DST
  python -m vid2act_jax.data export --format minari DATASET DST
  python -m vid2act_jax.data inspect DATASET
  python -m vid2act_jax.data validate DATASET
  python -m vid2act_jax.data collect --task metaworld_door_close \
    --policy scripted:0.5,noisy:0.3,random:0.2 --episodes 50 DST

An entry point: it may use every part of the package. All commands can be
interrupted and given again: they go on.
"""

import argparse
import os
import pathlib
import sys

from vid2act_jax.data import (
  dataset,
  files,
  formats,
  importing,
  inspect,
  quarantine,
)
from vid2act_jax.data import episodes as eps
from vid2act_jax.loops.progress import ProgressLine
from vid2act_jax.types import UserError


def _import(args):
  options = formats.Options(
    size=args.size,
    align=args.align,
    image_key=args.image_key,
    flips=tuple(args.flip),
    scale_actions=args.scale_actions,
  )
  with _Line('import') as line:
    about = importing.import_dataset(
      args.format,
      args.source,
      args.dataset,
      options,
      args.task,
      args.action_repeat,
      line.episodes,
    )
  print(f'{args.dataset}: {about["episodes"]} episodes')
  for text in about['collected']['about'].get('dropped', []):
    print(f'not imported: {text}')
  if left_out := about['collected']['left_out']:
    print(
      f'{left_out} episodes will not do; the reasons are in '
      f'{args.dataset / quarantine.FOLDER}'
    )


def _export(args):
  with _Line('export') as line:
    told = formats.export(
      args.format, args.dataset, args.destination, line.episodes
    )
  print(f'{args.destination}: {told["episodes"]} episodes')
  for text in told['lost']:
    print(f'lost: {text}')


def _inspect(args):
  facts = inspect.inspect(args.dataset)
  print(inspect.describe(facts), end='')
  if len(facts['lengths']):
    sheet = args.sheet or args.dataset / 'contact_sheet.png'
    inspect.contact_sheet(args.dataset, sheet)
    print(f'\npicture: {sheet}')


def _validate(args):
  dataset.read_metadata(args.dataset, partial=True)  # Else there is none.
  with files.lock(args.dataset), _Line('validate') as line:
    broken = quarantine.find(args.dataset, line.episodes)
    if not args.dry_run:
      quarantine.move(args.dataset, broken)
  for reason in broken.values():
    print(reason)
  sound = len(eps.list_episodes(args.dataset))
  if args.dry_run:
    print(f'{len(broken)} files will not do')
  else:
    print(
      f'{sound} episodes are sound, {len(broken)} were moved to '
      f'{args.dataset / quarantine.FOLDER}'
    )
  return 1 if broken and args.dry_run else 0


def _collect(args):
  # JAX and the suites take seconds to import: for this command alone.
  from vid2act_jax import envs
  from vid2act_jax.loops import collect

  settings = envs.Settings(
    args.size, args.action_repeat, args.time_limit, args.camera, args.quality
  )
  plan = collect.Plan(
    args.task, settings, args.policy, args.episodes, args.noise, args.seed
  )
  with _Line('collect') as line:

    def tell(done, played):
      text = {'last': played.behaviour, 'last_return': played.summary['return']}
      line.show(done, args.episodes, 'episodes', text)

    collect.collect(plan, args.dataset, args.workers or os.cpu_count(), tell)
  print(f'{args.dataset}: {collect.describe(plan, args.dataset)}')


class _Line(ProgressLine):
  """A progress line that ends with its block."""

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def episodes(self, done, total):
    self.show(done, total, 'episodes', {})


def _parser():
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.data',
    description='Import, export, look at, check and collect datasets.',
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  def add(run, text, **kwargs):
    command = commands.add_parser(
      run.__name__[1:], help=text, description=text, **kwargs
    )
    command.set_defaults(run=run)
    return command

  path = pathlib.Path
  command = add(_import, "Makes a dataset of somebody else's.")
  command.add_argument('--format', required=True, choices=formats.FORMATS)
  command.add_argument(
    '--task', default='', help="default: the source's, or the folder's"
  )
  command.add_argument('--action-repeat', type=int, help='env steps an action')
  command.add_argument('--size', type=int, help='resize frames to this')
  command.add_argument(
    '--align',
    choices=('led', 'at'),
    help='actions LED TO their frame or were taken AT it, if unlike the format',
  )
  command.add_argument('--image-key', help='which camera, if there are several')
  command.add_argument(
    '--flip', action='append', default=[], choices=('vertical', 'horizontal')
  )
  command.add_argument(
    '--scale-actions',
    action='store_true',
    help='map the bounds that the source declares to [-1, 1]',
  )
  command.add_argument('source', help='path, or name where the format has them')
  command.add_argument('dataset', type=path)
  command = add(_export, 'Writes a dataset in a format of others.')
  command.add_argument('--format', required=True, choices=formats.EXPORTS)
  command.add_argument('dataset', type=path)
  command.add_argument('destination', type=path)
  command = add(_inspect, 'Tells what is in a dataset, and draws it.')
  command.add_argument('--sheet', type=path, help='where to write the picture')
  command.add_argument('dataset', type=path)
  command = add(
    _validate, 'Moves what is broken to quarantine, with the reason.'
  )
  command.add_argument(
    '--dry-run', action='store_true', help='move nothing; exit with 1 if broken'
  )
  command.add_argument('dataset', type=path)
  command = add(_collect, 'Plays a task; run again, it goes on.')
  command.add_argument('--task', required=True)
  command.add_argument(
    '--policy',
    default='random',
    help='checkpoint:RUN, or scripted, noisy and random with weights',
  )
  command.add_argument('--episodes', type=int, required=True)
  command.add_argument('--noise', type=float, default=0.5, help="of 'noisy'")
  command.add_argument('--seed', type=int, default=0)
  command.add_argument('--workers', type=int, default=0, help='0: one a core')
  command.add_argument('--size', type=int, default=64)
  command.add_argument('--action-repeat', type=int, default=1)
  command.add_argument('--time-limit', type=int, default=1000)
  command.add_argument('--camera', default='')
  command.add_argument('--quality', default='standard')
  command.add_argument('dataset', type=path)
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs a command.

  Args:
    arguments: of the command line; None: this process's.

  Returns:
    The exit status: 0, or 1 after a message about what the user can mend.
  """
  args = _parser().parse_args(arguments)
  try:
    return args.run(args) or 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted; the same command goes on', file=sys.stderr)
    return 130


if __name__ == '__main__':
  sys.exit(main())
