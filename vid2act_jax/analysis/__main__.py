"""Tools for runs: compare many, diagnose or evaluate one, draw its page.

python -m vid2act_jax.analysis report RUNS... --out report/
python -m vid2act_jax.analysis findings report/
python -m vid2act_jax.analysis teacher RUN_OR_FILE --data DATASETS...
python -m vid2act_jax.analysis diagnose RUNS...
python -m vid2act_jax.analysis evaluate RUN --episodes 100
python -m vid2act_jax.analysis summary RUN

Folders of runs may be in a bucket, gs://BUCKET/FOLDER: copies are read.
"""

from vid2act_jax import startup

if __name__ == '__main__':
  startup.install()

import argparse
import contextlib
import json
import pathlib
import sys
import tempfile

from vid2act_jax.analysis import load_runs, report, summary
from vid2act_jax.data import bucket
from vid2act_jax.types import UserError


def _report(args):
  """Compares runs, on one page."""
  print(report.write_report(args.runs, args.out, args.title, args.baseline))


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
    found += report.load_results(folders, args.baseline)['findings']
  for row in found:
    print('{name}: {run}\n  {text}\n  try: {hint}'.format(**row))
  print(f'{len(found)} findings')


def _teacher(args):
  """Judges a pretrained teacher on held-out episodes and other datasets."""
  from vid2act_jax.analysis import teacher, teacher_page  # Imports the learner.

  path, data, config = args.run_or_file, args.data, args.config
  results, pictures = teacher.judge(
    path, data, config, args.sequences, args.seed
  )
  for problem in results['problems']:
    print(f'warning: {problem}', file=sys.stderr)
  print(teacher_page.describe(results))
  folder = path if path.is_dir() else pathlib.Path()
  print(f'\n{teacher_page.write(results, pictures, args.out or folder)}')


def _diagnose(args):
  """Measures what the models of runs have learned."""
  from vid2act_jax.analysis import diagnose  # Imports the learner.

  runs, problems = load_runs.find(args.runs)
  done = 0
  for run in runs:
    try:
      print(diagnose.write(run), flush=True)
      done += 1
    except UserError as error:  # Only a teacher, or one of many is damaged.
      problems.append(f'{run}: not diagnosed ({error})')
  for problem in problems:
    print(f'warning: {problem}', file=sys.stderr)
  if not done:
    folders = ', '.join(map(str, args.runs))
    raise UserError(f'no run in {folders} could be diagnosed')


def _evaluate(args):
  """Plays episodes with a run's newest policy."""
  from vid2act_jax.analysis import evaluate  # Imports the learner.

  options = args.episodes, args.task, args.seed, args.video
  print(json.dumps(evaluate.evaluate(args.run_folder, *options)))


def _summary(args):
  """Draws the page of a run again."""
  print(summary.write_summary(args.run_folder))


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
  add[_teacher]('run_or_file', type=path, help=text)
  text = 'more datasets: the one that is named, or of the target'
  add[_teacher]('--data', type=path, nargs='+', default=[], help=text)
  text = "of a file: an experiment's .py or the folder of a run, for its sizes"
  add[_teacher]('--config', type=path, help=text)
  text = 'folder of the page (default: the run, or the current folder)'
  add[_teacher]('--out', type=path, help=text)
  text = 'of each dataset'
  add[_teacher]('--sequences', type=int, default=64, help=text)
  add[_teacher]('--seed', type=int, default=0, help='of the sequences')
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


def _fetch(args, stack):
  """Replaces URLs by folders with copies, which end with the stack."""
  acts = args.run is _evaluate
  if args.run not in (_report, _findings, _evaluate):
    acts = None

  def fetch(value):
    if not bucket.is_url(value):
      return value
    if acts is None:
      raise UserError(
        f'{value}: only report, findings and evaluate read runs in a bucket;'
        ' copy it (gcloud storage cp --recursive)'
      )
    from vid2act_jax.loops import run_storage

    temporary = tempfile.TemporaryDirectory(prefix='vid2act_jax-')
    folder = pathlib.Path(stack.enter_context(temporary))
    return run_storage.fetch_runs(value, folder, acts)

  for key in 'runs', 'run_folder':
    value = getattr(args, key, None)
    if isinstance(value, list):
      setattr(args, key, [fetch(item) for item in value])
    elif value:
      setattr(args, key, fetch(value))


def main(arguments: list[str] | None = None) -> int:
  """Runs a command, by default that of this process.

  Returns:
    The exit status: 0, or 1 after a message about what the user can fix.
  """
  args = _parser().parse_args(arguments)
  try:
    with contextlib.ExitStack() as stack:
      _fetch(args, stack)
      args.run(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
