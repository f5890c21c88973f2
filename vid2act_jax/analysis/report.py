"""A report about finished runs: one HTML page, its figures, and its numbers.

python -m vid2act_jax.analysis report RUNS... --out report/
"""

import base64
import json
import pathlib
import re
import sys

import jinja2
import matplotlib

from vid2act_jax.analysis import (
  aggregate,
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
    title: of the page.
    baseline: the variant that the others are compared with.

  Returns:
    The path of the page.

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
  labels = aggregate.sort_labels(labels, results['baseline'])
  styles = {label: style.line_style(i) for i, label in enumerate(labels)}
  urls, stems = {}, set()

  def add(fig, *name):
    stem = re.sub(r'[^A-Za-z0-9_.=-]+', '_', '-'.join(name))[:100].strip('.')
    index = 2
    while stem in stems:  # Two names may differ in other letters alone.
      stem, index = f'{stem[:100]}-{index}', index + 1
    stems.add(stem)
    data = style.save(fig, out / f'{stem}.png').read_bytes()
    urls[name] = f'data:image/png;base64,{base64.b64encode(data).decode()}'

  def add_scored(result, title, unit, curves, scores, published=()):
    fig = plots.learning_curves(result, title, unit, styles, published)
    add(fig, *curves)
    if len(result['labels']) > 1:
      args = result['labels'], styles, unit, result['baseline']
      add(plots.scores(*args), *scores)

  if overall := results['overall']:
    title = f'Mean over {len(overall["tasks"])} tasks'
    names = ('overall', 'curves'), ('overall', 'scores')
    add_scored(overall, title, 'normalised score', *names)
  for task, result in results['tasks'].items():
    names = ('learning', task), ('scores', task)
    published = results['published'][task]
    add_scored(result, task, result['metric'], *names, published)
  for task, labels in results['similarity'].items():
    title = f'Similarity weights, {task}'
    add(plots.weights(labels, title), 'similarity', task)
    title = f'Entropy of the weights, {task}'
    add(plots.entropies(labels, title, styles), 'entropy', task)
  for task, labels in results['errors'].items():
    title = f'Open-loop prediction, {task}'
    add(plots.errors(labels, title, styles), 'errors', task)
  for task, labels in results['predictions'].items():
    title = f'Open-loop prediction, {task}'
    add(plots.predictions(labels, title), 'prediction', task)
  for task, labels in results['vae'].items():
    for label, (run, *_) in list(labels.items())[:_MAX_HISTOGRAMS]:
      title = f'Actions, {task}, {label}, seed {run["seed"]}'
      add(plots.actions(run['sources'], title), 'actions', task, label)
  return urls


def render(results: dict, figures: dict, title: str) -> str:
  """Returns the page: one file without scripts; all text is escaped.

  Args:
    results: of `aggregate.gather`.
    figures: of `draw`.
    title: of the page.
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
