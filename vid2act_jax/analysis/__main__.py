"""Tools for runs: compare many, look into one, evaluate it, draw its page.

python -m vid2act_jax.analysis report RUNS... --out report/
python -m vid2act_jax.analysis diagnose RUNS...
python -m vid2act_jax.analysis evaluate RUN --episodes 100
python -m vid2act_jax.analysis summary RUN
"""

import argparse
import json
import pathlib
import sys

from vid2act_jax.analysis import reading, report, summary
from vid2act_jax.types import UserError


def _report(args):
  print(report.write_report(args.runs, args.out, args.title, args.baseline))


def _diagnose(args):
  # Brings the learner with it, which the others do without.
  from vid2act_jax.analysis import diagnose

  runs, problems = reading.find(args.runs)
  done = 0
  for run in runs:
    try:
      print(diagnose.write(run), flush=True)
      done += 1
    except UserError as error:  # Of a teacher alone, or one of many damaged.
      problems.append(f'{run}: not diagnosed ({error})')
  for problem in problems:
    print(f'note: {problem}', file=sys.stderr)
  if not done:
    given = ', '.join(map(str, args.runs))
    raise UserError(f'no run in {given} could be diagnosed')


def _evaluate(args):
  from vid2act_jax.analysis import evaluate

  found = evaluate.evaluate(
    args.run_folder, args.episodes, args.task, args.seed, args.video
  )
  print(json.dumps(found))


def _summary(args):
  print(summary.draw_again(args.run_folder))


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m vid2act_jax.analysis', description=__doc__.splitlines()[0]
  )
  commands = parser.add_subparsers(required=True, metavar='command')

  def add(run, text):
    command = commands.add_parser(
      run.__name__.strip('_'), help=text, description=text
    )
    command.set_defaults(run=run)
    return command

  path = pathlib.Path
  command = add(_report, 'Compares runs, on one page.')
  command.add_argument(
    'runs', type=path, nargs='+', help='folders of runs, or folders of those'
  )
  command.add_argument('--out', type=path, required=True, help='its folder')
  command.add_argument('--title', default='What the runs show')
  command.add_argument(
    '--baseline', default='dreamerv2', help='variant that is compared with'
  )
  command = add(_diagnose, 'Looks into the models of runs.')
  command.add_argument(
    'runs', type=path, nargs='+', help='folders of runs, or folders of those'
  )
  command = add(_evaluate, "Plays episodes with a run's newest policy.")
  command.add_argument('run_folder', type=path)
  command.add_argument('--episodes', type=int, default=100)
  command.add_argument(
    '--task', default='', help='another one than its own, with as many actions'
  )
  command.add_argument('--seed', type=int, default=0, help='of the episodes')
  command.add_argument('--video', type=path, help='one episode, FILE.gif')
  command = add(_summary, 'Draws the page of a run again.')
  command.add_argument('run_folder', type=path)
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
    args.run(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
