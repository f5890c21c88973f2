"""Tools for runs: compare many, diagnose or evaluate one, draw its page.

python -m vid2act_jax.analysis report RUNS... --out report/
python -m vid2act_jax.analysis findings report/
python -m vid2act_jax.analysis teacher RUN_OR_FILE --data DATASETS...
python -m vid2act_jax.analysis diagnose RUNS...
python -m vid2act_jax.analysis evaluate RUN --episodes 100
python -m vid2act_jax.analysis summary RUN

Runs and datasets may be in a bucket, gs://BUCKET/FOLDER: copies are read, and
results are added to the run there, while no process writes to it.
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import contextlib
import json
import pathlib
import sys

from vid2act_jax.analysis import load_runs, report, summary
from vid2act_jax.analysis.places import Places
from vid2act_jax.data import bucket, files
from vid2act_jax.loops import run_copies
from vid2act_jax.types import UserError


def _report(args):
  """Compares runs, on one page."""
  options = args.title, args.baseline, args.places.named
  print(report.write_report(args.runs, args.out, *options))


def _findings(args):
  """Lists what is wrong with runs or with those of reports."""
  found, folders = [], []
  for folder in args.runs:
    path = folder / report.RESULTS
    if path.is_file():
      found += report.read_findings(path)
    else:
      folders.append(folder)
  if folders:
    found += report.load_results(folders, args.baseline, args.places.named)[
      'findings'
    ]
  for row in found:
    print('{name}: {run}\n  {text}\n  try: {hint}'.format(**row))
  print(f'{len(found)} findings')


def _teacher(args):
  """Judges a pretrained teacher on held-out episodes and other datasets."""
  from vid2act_jax.analysis import teacher, teacher_page  # Imports the learner.

  path, data, config = args.run_or_file, args.data, args.config
  own = None if args.out or not path.is_dir() else path
  args.places.check_free(own)
  results, pictures = teacher.judge(
    path, data, config, args.sequences, args.seed
  )
  results['teacher'] = args.places.named(results['teacher'])
  results['problems'] = list(map(args.places.named, results['problems']))
  for problem in results['problems']:
    args.places.show(f'warning: {problem}', sys.stderr)
  args.places.show(teacher_page.describe(results))
  page = teacher_page.write(
    results, pictures, args.out or own or pathlib.Path()
  )
  args.places.add(own, page.name, teacher_page.RESULTS)
  args.places.show(f'\n{page}')


def _diagnose(args):
  """Measures what the models of runs have learned."""
  from vid2act_jax.analysis import diagnose  # Imports the learner.

  runs, problems = load_runs.find(args.runs)
  done = 0
  for run in runs:
    try:
      args.places.check_free(run)
      path = diagnose.write(run)
      args.places.add(run, path.name)
      args.places.show(path)
      done += 1
    except UserError as error:  # Only a teacher, or one of many is damaged.
      problems.append(f'{run}: not diagnosed ({error})')
  for problem in problems:
    args.places.show(f'warning: {problem}', sys.stderr)
  if not done:
    folders = ', '.join(map(str, args.runs))
    raise UserError(f'no run in {folders} could be diagnosed')


def _evaluate(args):
  """Plays episodes with a run's newest policy."""
  from vid2act_jax.analysis import evaluate  # Imports the learner.

  options = args.episodes, args.task, args.seed, args.video
  args.places.show(json.dumps(evaluate.evaluate(args.run_folder, *options)))


def _summary(args):
  """Draws the page of a run again."""
  own = None if args.out else args.run_folder
  args.places.check_free(own)
  if args.out:
    files.make_folder(args.out.absolute().parent)
  path = summary.write_summary(args.run_folder, path=args.out)
  args.places.add(own, path.name)
  args.places.show(path)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m vid2act_jax.analysis', description=__doc__.splitlines()[0]
  )
  commands = parser.add_subparsers(required=True, metavar='command')
  path, add = pathlib.Path, {}
  for run in (_report, _findings, _teacher, _diagnose, _evaluate, _summary):
    text = {'help': run.__doc__, 'description': run.__doc__}
    command = commands.add_parser(run.__name__.strip('_'), **text)
    command.set_defaults(run=run)
    add[run] = command.add_argument
  for run in (_report, _findings, _diagnose):
    text = 'folders of runs, or folders of those'
    add[run]('runs', type=_folder, nargs='+', help=text)
  for run in (_evaluate, _summary):
    add[run]('run_folder', type=_folder)
  add[_report]('--out', type=path, required=True, help='folder of the report')
  add[_report]('--title', default='Comparison of runs')
  text = 'variant that the others are compared with'
  for run in (_report, _findings):
    add[run]('--baseline', default='dreamerv2', help=text)
  text = 'folder of a run, or file of a public checkpoint'
  add[_teacher]('run_or_file', type=_folder, help=text)
  text = 'more datasets: the one that is named, or of the target'
  add[_teacher]('--data', type=_folder, nargs='+', default=[], help=text)
  text = "of a file: an experiment's .py or the folder of a run, for its sizes"
  add[_teacher]('--config', type=path, help=text)
  text = 'folder of the page (default: the run, or the current folder)'
  add[_teacher]('--out', type=path, help=text)
  text = 'of each dataset'
  add[_teacher]('--sequences', type=int, default=64, help=text)
  add[_teacher]('--seed', type=int, default=0, help='of the sequences')
  text = 'the image (default: summary.png in the run)'
  add[_summary]('--out', type=path, help=text)
  add[_evaluate]('--episodes', type=int, default=100)
  text = "a task other than the run's, with as many actions"
  add[_evaluate]('--task', default='', help=text)
  add[_evaluate]('--seed', type=int, default=0, help='of the episodes')
  text = 'FILE.mp4 or FILE.gif to write one episode to'
  add[_evaluate]('--video', type=path, help=text)
  return parser


def _folder(text):
  """A path, or the URL of a folder in a bucket."""
  return text if bucket.is_url(text) else pathlib.Path(text)


def _choice(run):
  """What a command reads of a run."""
  special = {
    _teacher: run_copies.to_judge,
    _diagnose: run_copies.to_diagnose,
    _evaluate: run_copies.to_act,
  }
  return special.get(run, run_copies.to_read)


def main(arguments: list[str] | None = None) -> int:
  """Runs a command, by default that of this process.

  Returns:
    The exit status: 0, or 1 after a message about what the user can fix.
  """
  args = _parser().parse_args(arguments)
  with contextlib.ExitStack() as stack:
    args.places = Places(stack)
    try:
      args.places.fetch(args, _choice(args.run))
      args.run(args)
    except UserError as error:
      args.places.show(f'error: {error}', sys.stderr)
      return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
