"""Command line for datasets.

  python -m vid2act_jax.data import SRC DST
  python -m vid2act_jax.data export --format minari DATASET DST
  python -m vid2act_jax.data inspect DATASET
  python -m vid2act_jax.data validate DATASET
  python -m vid2act_jax.data collect --task metaworld_door_close \
    --policy scripted:0.5,noisy:0.3,random:0.2 --episodes 50 DST
  python -m vid2act_jax.data collect --task dmc_walker_walk \
    --policy state:expert:0.5,state:medium:0.3,random:0.2 --episodes 50 DST

An entry point: it may import every part of the package. An interrupted command
resumes when it is run again.
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import io
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
from vid2act_jax.data.formats import notes
from vid2act_jax.loops.progress import ProgressLine
from vid2act_jax.types import UserError


def _import(args):
  values = {key: getattr(args, key) for key in formats.Options().to_dict()}
  options = formats.make_options(**{**values, 'flips': tuple(args.flips)})
  with _Line('import') as line:
    metadata = importing.import_dataset(
      args.format or formats.recognise(args.source),
      args.source,
      args.dataset,
      options,
      args.task,
      args.action_repeat,
      line.episodes,
    )
  print(f'{args.dataset}: {metadata["episodes"]} episodes')
  if not dataset.has_rewards(metadata):
    print('no rewards: zeros are stored, and no reward head learns from them')
  about = metadata['collected']['about']
  for text in about.get('dropped', []):
    print(f'not imported: {text}')
  for text in notes.describe(about):
    print(f'warning: {text}')
  if left_out := metadata['collected']['left_out']:
    reason = next(iter(quarantine.read_reasons(args.dataset).values()), '')
    print(
      f'{left_out} episodes are invalid and were skipped; the reasons are in '
      f'{args.dataset / quarantine.FOLDER}, the first: {reason}'
    )


def _export(args):
  with _Line('export') as line:
    result = formats.export(
      args.format, args.dataset, args.destination, line.episodes
    )
  print(f'{args.destination}: {result["episodes"]} episodes')
  for text in result['lost']:
    print(f'lost: {text}')


def _inspect(args):
  info = inspect.inspect(args.dataset)
  text = inspect.describe(info)
  # Drawn first: a reader of the text, such as head, may close the pipe.
  if len(info['lengths']):
    sheet = args.sheet or args.dataset / 'contact_sheet.png'
    inspect.contact_sheet(args.dataset, sheet)
    text += f'\ncontact sheet: {sheet}\n'
  print(text, end='')


def _validate(args):
  dataset.read_metadata(args.dataset, partial=True)  # Raises without one.
  with files.lock(args.dataset), _Line('validate') as line:
    invalid = quarantine.find_invalid(args.dataset, line.episodes)
    if not args.dry_run:
      quarantine.move(args.dataset, invalid)
  for reason in invalid.values():
    print(reason)
  num_valid = len(eps.list_episodes(args.dataset))
  if args.dry_run:
    print(f'{len(invalid)} files are invalid')
  else:
    print(
      f'{num_valid} episodes are valid, {len(invalid)} were moved to '
      f'{args.dataset / quarantine.FOLDER}'
    )
  return 1 if invalid and args.dry_run else 0


def _collect(args):
  # Imported only for this command: JAX and the suites take seconds to import.
  from vid2act_jax import envs
  from vid2act_jax.loops import collect, policies

  settings = envs.Settings(
    args.size, args.action_repeat, args.time_limit, args.camera, args.quality
  )
  policy = policies.resolve(args.policy, args.task)
  plan = collect.Plan(
    args.task, settings, policy, args.episodes, args.noise, args.seed
  )
  with _Line('collect') as line:

    def on_episode(done, played):
      values = {
        'last': played.behaviour,
        'last_return': played.summary['return'],
      }
      line.show(done, args.episodes, 'episodes', values)

    collect.collect(
      plan, args.dataset, args.workers or os.cpu_count(), on_episode
    )
  print(f'{args.dataset}: {collect.describe(plan, args.dataset)}')


class _Line(ProgressLine):
  """A progress line that is closed when its `with` block is left."""

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def episodes(self, done, total):
    self.show(done, total, 'episodes', {})


def _add_import_options(command):
  command.add_argument(
    '--format', choices=formats.FORMATS, help='default: recognised'
  )
  command.add_argument(
    '--task', default='', help="default: the source's name, or the folder's"
  )
  command.add_argument('--action-repeat', type=int, help='env steps per action')
  command.add_argument('--size', type=int, help='resize frames to this')
  command.add_argument(
    '--align',
    # With the names of 0.2.
    type=lambda name: {'led': 'prev', 'at': 'next'}.get(name, name),
    choices=('prev', 'next'),
    help='prev: the action preceded the frame; next: it was taken at it; '
    "default: the format's own alignment",
  )
  command.add_argument('--image-key', help='the camera, if there are several')
  command.add_argument(
    '--action-key', help="the actions' name in the source; A,B joins two"
  )
  command.add_argument('--reward-key', help="the rewards' name")
  command.add_argument('--state-key', help="the states' name; A,B joins two")
  command.add_argument(
    '--flip',
    dest='flips',
    action='append',
    default=[],
    choices=('vertical', 'horizontal'),
  )
  command.add_argument(
    '--scale-actions',
    action='store_true',
    help='map the bounds that the source declares to [-1, 1]',
  )
  command.add_argument(
    '--clip-actions', action='store_true', help='clip actions to [-1, 1]'
  )
  command.add_argument(
    '--discrete-actions',
    type=int,
    metavar='N',
    help='the actions are numbers from 0 to N - 1 of a Discrete',
  )
  command.add_argument(
    '--keep-last-reward',
    action='store_true',
    help='add the reward of a last action, which no frame follows, to the '
    'last frame',
  )
  command.add_argument(
    '--count-frames',
    action='store_true',
    help='lerobot: find frames by the lengths of the episodes where '
    'from_timestamp contradicts them',
  )
  command.add_argument(
    'source', help='a path, or a name if the format has names'
  )
  command.add_argument('dataset', type=pathlib.Path)


def _parser():
  parser = argparse.ArgumentParser(
    'python -m vid2act_jax.data',
    description='Import, export, inspect, validate and collect datasets.',
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  def add(run, text, **kwargs):
    command = commands.add_parser(
      run.__name__[1:], help=text, description=text, **kwargs
    )
    command.set_defaults(run=run)
    return command

  path = pathlib.Path
  _add_import_options(add(_import, 'Imports a dataset of another program.'))
  command = add(_export, 'Writes a dataset in the format of another program.')
  command.add_argument('--format', required=True, choices=formats.EXPORTS)
  command.add_argument('dataset', type=path)
  command.add_argument('destination', type=path)
  command = add(
    _inspect, 'Prints statistics of a dataset and draws a contact sheet.'
  )
  command.add_argument('--sheet', type=path, help='path of the contact sheet')
  command.add_argument('dataset', type=path)
  command = add(
    _validate, 'Moves invalid episodes to quarantine, with the reason.'
  )
  command.add_argument(
    '--dry-run',
    action='store_true',
    help='move nothing; exit with 1 if invalid',
  )
  command.add_argument('dataset', type=path)
  command = add(
    _collect, 'Collects episodes of a task; resumes when run again.'
  )
  command.add_argument('--task', required=True)
  command.add_argument(
    '--policy',
    default='random',
    help='auto, checkpoint:RUN, or scripted, noisy, random, state:LEVEL and '
    'state:FILE.npz with weights',
  )
  command.add_argument('--episodes', type=int, required=True)
  command.add_argument(
    '--noise',
    type=float,
    default=0.5,
    help="standard deviation of 'noisy' and '+noise'",
  )
  command.add_argument('--seed', type=int, default=0)
  command.add_argument('--workers', type=int, default=0, help='0: one per core')
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
    arguments: of the command line; None: those of this process.

  Returns:
    The exit status: 0, or 1 after an error that the user can fix.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      # A terminal without UTF-8 must not end a command for a path's name.
      stream.reconfigure(errors='backslashreplace')
  args = _parser().parse_args(arguments)
  try:
    status = args.run(args) or 0
    sys.stdout.flush()
    return status
  except BrokenPipeError:
    # The reader, such as head, has seen enough, and the work is done: results
    # are printed last. Python would complain when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted; run the same command to resume', file=sys.stderr)
    return 130


if __name__ == '__main__':
  sys.exit(main())
