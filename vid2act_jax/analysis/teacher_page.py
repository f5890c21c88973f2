"""The page about a teacher: teacher.html, teacher.json and what is printed."""

import json
import pathlib

import matplotlib
import numpy as np
import pandas as pd

from vid2act_jax.analysis import pages, plots, style, tables
from vid2act_jax.analysis.model_sections import REPEATED
from vid2act_jax.data import files

RESULTS, PAGE = 'teacher.json', 'teacher.html'
_TILE = 0.66  # Inches of a frame in a picture.


def write(results: dict, pictures: dict, out: pathlib.Path) -> pathlib.Path:
  """Writes teacher.json and teacher.html; results of `teacher.judge`.

  Returns:
    The path of the page.

  Raises:
    UserError: the folder cannot be written.
  """
  values = {'results': results, 'figures': draw(results, pictures)}
  values |= {'sentences': sentences(results), 'tables': tables}
  values |= {'overview': overview(results), 'horizons': horizons(results)}
  values |= {'surprise': surprise(results), 'actions': actions(results)}
  page = pages.render('teacher.html.j2', **values)
  text = json.dumps(results, indent=1, allow_nan=False) + '\n'
  files.make_folder(out)
  for name, content in ((RESULTS, text), (PAGE, page)):
    data = content.encode('utf-8', 'replace')
    files.atomic_write(out / name, lambda file, data=data: file.write(data))
  return out / PAGE


def describe(results: dict) -> str:
  """Returns sentences and tables for a terminal."""
  parts = [*sentences(results), '', _text(overview(results))]
  if not (table := horizons(results)).empty:
    parts += ['', 'mean squared error by predicted frame', _text(table)]
  return '\n'.join(parts)


def _text(table):
  columns = {name: values for name, _, values in tables.cells(table)}
  return pd.DataFrame(columns).to_string(index=False)


def sentences(results: dict) -> list[str]:
  """Returns what the numbers say."""
  out, known = [], [x for x in results['datasets'] if x['label']]
  if judged := [x for x in known if x['errors']]:
    right = sum(x['best'] == x['label'] for x in judged)
    better = sum(
      np.mean(x['errors'][x['label']]) < np.mean(x['last_frame'])
      for x in judged
    )
    out.append(
      f'{right} of {len(judged)} datasets of the sources are predicted best'
      f' under their own label, {better} better than by repeating the last'
      ' frame.'
    )
  elif known:
    right = sum(x['lowest_kl'] == x['label'] for x in known)
    out.append(
      'A public checkpoint has no decoder: frames are not predicted. '
      f'{right} of {len(known)} datasets of the sources surprise the teacher'
      ' least under their own label.'
    )
  for one in results['datasets']:
    if one['label']:
      continue
    text = f'{one["name"]} surprises the teacher least under'
    text = f'{text} {one["lowest_kl"]}'
    if one['best']:
      error, still = np.mean(one['errors'][one['best']]), one['last_frame']
      better = 'better' if error < np.mean(still) else 'worse'
      text = f'{text}, and is predicted best under {one["best"]}, {better} than'
      text = f'{text} by repeating the last frame'
    out.append(f'{text}.')
  return out


def overview(results: dict) -> pd.DataFrame:
  """Returns a row for each dataset; means over the predicted frames."""
  out = []
  for one in results['datasets']:
    label = one['label'] or one['best'] or one['lowest_kl']
    error = np.mean(one['errors'].get(label, np.nan))
    wrong = [np.mean(x) for k, x in one['errors'].items() if k != label]
    still = np.mean(one['last_frame'])
    out.append({
      'dataset': one['name'],
      'episodes': f'{one["episodes"]}, {one["status"]}',
      'label': label if one['label'] else f'best: {label}',
      'error': error,
      'other labels from': min(wrong, default=np.nan),
      'last frame': still,
      'error / last frame': error / still if still else np.nan,
      'lowest KL': one['lowest_kl'],
      'R² of actions': one['actions'].get(label, {}).get('r2'),
    })  # fmt: skip
  return pd.DataFrame(out)


def horizons(results: dict) -> pd.DataFrame:
  """Returns the error of some predicted frames, by dataset and prediction."""
  out = []
  for one in results['datasets']:
    for name, curve in _curves(one).items():
      each = {
        str(horizon): curve[horizon - 1] if horizon <= len(curve) else np.nan
        for horizon in results['horizons']
      }
      row = {'dataset': one['name'], 'prediction': name, **each}
      out.append({**row, 'mean': np.mean(curve)})
  return pd.DataFrame(out)


def _curves(one):
  """Returns {prediction: error of each frame}, own label first; {} without."""
  labels = sorted(one['errors'], key=lambda label: label != one['label'])
  curves = {f'under {label}': one['errors'][label] for label in labels}
  return {**curves, REPEATED: one['last_frame']} if curves else {}


def surprise(results: dict) -> pd.DataFrame:
  """Returns the KL of posterior to prior, nats a frame, under each label."""
  rows = ({'dataset': x['name'], **x['kl']} for x in results['datasets'])
  return pd.DataFrame(rows)


def actions(results: dict) -> pd.DataFrame:
  """Returns how well a linear map of states gives the recorded actions."""
  return pd.DataFrame(
    {
      'dataset': one['name'],
      'label': label,
      'fitted episodes': value['fitted'],
      'tested': value['tested'],
      'error': value['error'],
      'variance': value['variance'],
      'R²': value['r2'],
    }
    for one in results['datasets']
    for label, value in one['actions'].items()
  )


# Names of tasks are no formulas.
@matplotlib.rc_context({'text.parse_math': False})
def draw(results: dict, pictures: dict) -> dict[tuple[str, ...], str]:
  """Returns {name: data URL} of the figures.

  Args:
    results: of `teacher.judge`.
    pictures: {dataset: {row: frames}}, as it returns them.
  """
  figures = {}
  labels = {x['name']: _curves(x) for x in results['datasets'] if x['errors']}
  if labels:
    figures['curves',] = plots.predictions(labels, 'Open-loop prediction')
  for name, rows in pictures.items():
    if rows:
      args = rows, results['context'], results['horizons']
      figures['picture', name] = _draw_picture(*args)
  return {k: pages.data_url(style.png(fig)) for k, fig in figures.items()}


def _draw_picture(rows, context, horizons):
  """Draws the last frame of the context, and some predicted ones."""
  length = len(next(iter(rows.values())))
  shown = [context - 1, *(context - 1 + x for x in horizons)]
  shown = [index for index in shown if index < length]
  tiles = [np.concatenate(frames[shown], 1) for frames in rows.values()]
  fig = style.figure(0.5 + _TILE * len(rows), 3.2 + _TILE * len(shown))
  axes = fig.subplots()
  axes.imshow(np.concatenate(tiles), interpolation='nearest')
  size = len(tiles[0])
  middle = lambda count: (np.arange(count) + 0.5) * size - 0.5
  names = [style.shorten(name, 36) for name in rows]
  axes.set_yticks(middle(len(rows)), names)
  steps = [f'+{index - context + 1}' for index in shown[1:]]
  axes.set_xticks(middle(len(shown)), ['context', *steps])
  axes.tick_params(length=0, labelcolor=style.INK, labelsize=8)
  axes.spines[:].set_visible(False)
  return fig
