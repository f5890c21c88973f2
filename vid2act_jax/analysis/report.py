"""A report about finished runs: one HTML page, its figures, and its numbers."""

import base64
import itertools
import json
import pathlib
import re
import sys

import jinja2
import matplotlib

from vid2act_jax.analysis import (
  aggregate,
  group_runs,
  load_runs,
  plots,
  statistics,
  style,
  tables,
)
from vid2act_jax.data import files
from vid2act_jax.types import UserError

PAGE, RESULTS = 'index.html', 'results.json'
_MAX_HISTOGRAMS = 2  # Labels of a task whose actions are drawn.


def write_report(
  folders: list[pathlib.Path],
  out: pathlib.Path,
  title: str = 'Comparison of runs',
  baseline: str = 'dreamerv2',
) -> pathlib.Path:
  """Compares runs, and writes index.html, results.json and the figures.

  What is missing or wrong with runs is listed on stderr and on the page.

  Args:
    folders: runs, or folders of runs.
    out: the report's folder, created if it does not exist.
    title: of the page, whose path is returned.
    baseline: the variant that the others are compared with.

  Raises:
    UserError: there is nothing to report, or `out` cannot be written.
  """
  paths, problems = load_runs.find(folders)
  runs = [load_runs.load(path) for path in paths]
  results = aggregate.gather(runs, problems, baseline)
  for problem in results['problems']:
    print(f'warning: {problem}', file=sys.stderr)
  if not results['tasks']:
    raise UserError(
      f'no run with evaluations in {", ".join(map(str, folders))}: name folders'
      ' of runs that have finetuned (the warnings above say what was found)'
    )
  try:
    files.make_folder(out)
    page = render(results, draw(results, out), title)
    lines = (
      f'{json.dumps(key)}: {json.dumps(_round(part), allow_nan=False)}'
      for key, part in results.items()
    )
    _write(out / RESULTS, '{\n' + ',\n'.join(lines) + '\n}\n')
    _write(out / PAGE, page)
  except OSError as error:
    raise UserError(
      f'cannot write the report into {out}: {error}; choose another folder with'
      ' --out'
    ) from error
  return out / PAGE


def _round(tree):
  """Keeps six digits: more than the runs know."""
  if isinstance(tree, dict):
    return {key: _round(value) for key, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [_round(value) for value in tree]
  return float(f'{tree:.6g}') if isinstance(tree, float) else tree


def _write(path, content):
  data = content.encode('utf-8', 'replace')
  files.atomic_write(path, lambda file: file.write(data))


# Names of tasks are no formulas.
@matplotlib.rc_context({'text.parse_math': False})
def draw(results: dict, out: pathlib.Path) -> dict[tuple[str, ...], str]:
  """Saves all figures; {(kind, task, label): data URL}."""
  labels = dict.fromkeys(x for y in results['costs'].values() for x in y)
  labels = group_runs.sort_labels(labels, results['baseline'])
  styles = {label: style.line_style(i) for i, label in enumerate(labels)}
  urls, stems = {}, set()
  for name, fig in _figures(results, styles):
    stem = re.sub(r'[^A-Za-z0-9_.=-]+', '_', '-'.join(name))[:100].strip('.')
    # Two names may differ in other letters alone.
    tries = (f'{stem}-{index}' for index in itertools.count(2))
    while stem in stems:
      stem = next(tries)
    stems.add(stem)
    data = style.save(fig, out / f'{stem}.png').read_bytes()
    urls[name] = f'data:image/png;base64,{base64.b64encode(data).decode()}'
  return urls


def _figures(results, styles):
  """Yields the name and the figure of all figures."""
  scored = [
    (('learning', task), ('scores', task), task, x['metric'], x)
    for task, x in results['tasks'].items()
  ]
  if overall := results['overall']:
    names = ('overall', 'curves'), ('overall', 'scores')
    title = f'Mean over {len(overall["tasks"])} tasks'
    scored.insert(0, (*names, title, 'normalised score', overall))
  for curves, scores, title, unit, result in scored:
    args = result, title, unit, styles, results['published'].get(title, ())
    yield curves, plots.learning_curves(*args)
    if len(result['labels']) > 1:
      args = result['labels'], styles, unit, result['baseline']
      yield scores, plots.scores(*args)
  for task, labels in results['similarity'].items():
    title = f'Similarity weights, {task}'
    yield ('similarity', task), plots.weights(labels, title)
    title = f'Entropy of the weights, {task}'
    yield ('entropy', task), plots.entropies(labels, title, styles)
  title = 'Open-loop prediction'
  for task, labels in results['errors'].items():
    yield ('errors', task), plots.errors(labels, f'{title}, {task}', styles)
  for task, labels in results['predictions'].items():
    yield ('prediction', task), plots.predictions(labels, f'{title}, {task}')
  for task, labels in results['vae'].items():
    for label, (run, *_) in list(labels.items())[:_MAX_HISTOGRAMS]:
      title = f'Actions, {task}, {label}, seed {run["seed"]}'
      yield ('actions', task, label), plots.actions(run['sources'], title)


def render(results: dict, figures: dict, title: str) -> str:
  """Returns the page: one file without scripts; all text is escaped.

  Results are those of `aggregate.gather`, figures those of `draw`.
  """
  env = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  modules = {'plots': plots, 'statistics': statistics, 'tables': tables}
  values = {'results': results, 'figures': figures, 'title': title}
  page = env.get_template('report.html.j2').render(**values, **modules)
  return page.strip() + '\n'
