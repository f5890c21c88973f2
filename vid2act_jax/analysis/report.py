"""A report about finished runs: one HTML page, its figures, and its numbers."""

import itertools
import json
import pathlib
import re
import sys
from collections.abc import Callable

import matplotlib

from vid2act_jax.analysis import (
  aggregate,
  findings,
  group_runs,
  load_runs,
  pages,
  plots,
  statistics,
  style,
  tables,
  transfer_findings,
)
from vid2act_jax.data import files, limits
from vid2act_jax.types import UserError

PAGE, RESULTS = 'index.html', 'results.json'
_FINDING, _MAX_TEXT = ('name', 'text', 'hint', 'run'), 5000
_MAX_HISTOGRAMS = 2  # Labels of a task whose actions are drawn.


def write_report(
  folders: list[pathlib.Path],
  out: pathlib.Path,
  title: str = 'Comparison of runs',
  baseline: str = 'dreamerv2',
  named: Callable[[str], str] = str,
) -> pathlib.Path:
  """Compares runs, and writes index.html, results.json and the figures.

  What is missing or wrong with runs is listed on stderr and on the page.

  Args:
    folders: runs, or folders of runs.
    out: the report's folder, created if it does not exist.
    title: of the page, whose path is returned.
    baseline: the variant that the others are compared with.
    named: replaces the names of copies of runs in a text.

  Raises:
    UserError: there is nothing to report, or `out` cannot be written.
  """
  results = load_results(folders, baseline, named)
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


def load_results(
  folders: list[pathlib.Path],
  baseline: str,
  named: Callable[[str], str] = str,
) -> dict:
  """Returns what `write_report` writes into results.json.

  Warnings go to stderr; arguments and errors are those of `write_report`.
  """
  paths, problems = load_runs.find(folders)
  runs = [load_runs.load(path) for path in paths]
  results = _map_texts(named, aggregate.gather(runs, problems, baseline))
  for problem in results['problems']:
    print(f'warning: {problem}', file=sys.stderr)
  if not results['tasks']:
    raise UserError(
      f'no run with evaluations in {", ".join(map(str, folders))}: name folders'
      ' of runs that have finetuned (the warnings above say what was found)'
    )
  return results


def _map_texts(function, value):
  """Applies a function to the texts of a tree, but not to its keys."""
  if isinstance(value, dict):
    return {key: _map_texts(function, x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_map_texts(function, x) for x in value]
  return function(value) if isinstance(value, str) else value


def read_findings(path: pathlib.Path) -> list[dict[str, str]]:
  """Returns a report's findings; those about transfer are found again.

  Args:
    path: of its results.json, of this version or an earlier one.

  Returns:
    Rows {run, name, text, hint}.

  Raises:
    UserError: the file cannot be read, or is damaged.
  """
  text = lambda x: load_runs.printable(x, _MAX_TEXT) or ''
  try:
    results = limits.read_json(path)
    kept = [x for x in results['findings'] if x['name'] in findings.HINTS]
    found = [{**x, 'hint': findings.HINTS[x['name']]} for x in kept]
    found += transfer_findings.find(results)
    return [{key: text(x[key]) for key in _FINDING} for x in found]
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror})') from error
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise UserError(
      f'{path}: damaged ({type(error).__name__}: {str(error)[:100]}); make it'
      ' again by python -m vid2act_jax.analysis report'
    ) from error


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
    urls[name] = pages.data_url(data)
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
  modules = {'plots': plots, 'statistics': statistics, 'tables': tables}
  values = {'results': results, 'figures': figures, 'title': title}
  return pages.render('report.html.j2', **values, **modules)
