"""A report about finished runs: one page, its pictures, and its figures.

python -m vid2act_jax.analysis report RUNS... --out report/
"""

import json
import pathlib
import sys

import matplotlib

from vid2act_jax.analysis import (
  evidence,
  inside,
  page,
  reading,
  sections,
  words,
)
from vid2act_jax.analysis.pictures import Pictures
from vid2act_jax.data import files
from vid2act_jax.types import UserError

PAGE, RESULTS = 'index.html', 'results.json'
_CONTENTS = {
  'learning': 'Learning',
  'similarity': 'Similarity',
  'models': 'Inside the models',
  'costs': 'Costs',
  'findings': 'Findings',
  'runs': 'About the runs',
}


def write_report(
  folders: list[pathlib.Path],
  out: pathlib.Path,
  title: str = 'What the runs show',
  baseline: str = 'dreamerv2',
) -> pathlib.Path:
  """Compares runs, and writes index.html, results.json and the pictures.

  What is missing or odd about runs is told on stderr and on the page.

  Args:
    folders: of runs, or of folders of runs.
    out: the report's folder, made where it is not there.
    title: of the page.
    baseline: the variant that the others are compared with.

  Returns:
    The path of the page.

  Raises:
    UserError: there is nothing to report about, or no place to write it.
  """
  paths, problems = reading.find(folders)
  runs = [reading.read(path) for path in paths]
  results = evidence.gather(runs, problems, baseline)
  for problem in results['problems']:
    print(f'note: {problem}', file=sys.stderr)
  if not results['tasks']:
    given = ', '.join(map(str, folders))
    raise UserError(
      f'no run with evaluations in {given}: name folders of runs that have'
      ' finetuned (the notes above say what was found)'
    )
  try:
    files.make_folder(out)
    # Names of tasks are no formulas, whatever signs they have.
    with matplotlib.rc_context({'text.parse_math': False}):
      parts = _parts(results, Pictures(out))
    _write(out / RESULTS, _to_json(results))
    _write(out / PAGE, page.document(title, parts))
  except OSError as error:
    raise UserError(
      f'cannot write the report into {out}: {error}; choose another folder by'
      ' --out'
    ) from error
  return out / PAGE


def _parts(results, pictures):
  return [
    *(page.paragraph(text, 'lead') for text in words.lead(results)),
    page.contents(_CONTENTS),
    *sections.learning(results, pictures),
    *inside.weights(results, pictures),
    *inside.models(results, pictures),
    *sections.costs(results),
    *sections.findings(results),
    *sections.about(results),
  ]


def _to_json(results):
  """A line for each part; six digits, which is more than the runs know."""
  lines = (
    f'{json.dumps(key)}: {json.dumps(_rounded(part), allow_nan=False)}'
    for key, part in results.items()
  )
  return '{\n' + ',\n'.join(lines) + '\n}\n'


def _rounded(tree):
  if isinstance(tree, dict):
    return {key: _rounded(value) for key, value in tree.items()}
  if isinstance(tree, list):
    return [_rounded(value) for value in tree]
  return float(f'{tree:.6g}') if isinstance(tree, float) else tree


def _write(path, text):
  data = text.encode('utf-8', 'replace')
  files.atomic_write(path, lambda file: file.write(data))
