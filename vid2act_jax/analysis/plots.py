"""The report's figures, drawn from the data in results.json.

`labels` has the data of each label, as in results.json, and `styles` the
`style.line_style` of each, which is the same in all figures.
"""

import math

import numpy as np
import pandas as pd
from matplotlib import ticker

from vid2act_jax.analysis import style
from vid2act_jax.analysis.model_sections import REPEATED
from vid2act_jax.analysis.style import FAINT, INK, shorten

# With more labels, only the first two, the method's and the baseline's, keep
# their bands, and single seeds are not drawn: nothing could be seen any more.
CROWD = 4
MAX_PANELS, MAX_DIMS = 12, 6  # Labels with a panel; dimensions of actions.
_COLUMNS = 3


def learning_curves(result: dict, title, ylabel, styles, published=()):
  """Mean of each label with its interval; of a task, also each seed, thin.

  The result is that of `aggregate.score_task` or `aggregate.score_overall`;
  published curves are dashed.
  """
  labels, grid = result['labels'], result['grid']
  height = 4.6 + 0.12 * (len(labels) + len(published))
  fig, axes = _axes(height, title, ylabel)
  if not len(grid):
    style.annotate_empty(axes, 'the tasks have no environment steps in common')
    return fig
  crowded = len(labels) > CROWD
  for index, (label, scores) in enumerate(labels.items()):
    each = [] if crowded else scores.get('each', [])
    seeds = f' ({len(scores["seeds"])})' if 'each' in scores else ''
    band = scores['low'], scores['high']
    look = {'zorder': 3, 'label': shorten(label) + seeds, **styles[label]}
    if scores['low'] is not None and (index < 2 or not crowded):
      look['band'] = band
    _plot_mean(axes, each, grid, scores['iqm'], **look)
  for index, curve in enumerate(published):
    source = curve['source'].split()[0]
    axes.plot(
      curve['env_steps'], curve['mean'], color=INK, lw=1.1, alpha=0.75,
      ls=(0, (5 + 2 * index, 2)), marker='o^sDv*xP'[index % 8],
      ms=3, markevery=max(1, len(curve['mean']) // 6),
      label=f'{curve["method"]}, {source}, other protocol',
    )  # fmt: skip
  randoms = [
    x['random'] for x in labels.values() if x.get('random') is not None
  ]
  if randoms:
    axes.axhline(np.mean(randoms), color=FAINT, lw=1, ls=':', label='random')
  axes.set_xlim(left=0)
  return _with_legend(fig)


def scores(labels: dict, styles: dict, unit: str, baseline: str | None):
  """Final scores next to the probability of being better than the baseline.

  The dot of an undecided comparison is hollow.
  """
  fig = style.figure(1.7 + 0.32 * len(labels))
  left, right = fig.subplots(1, 2, sharey=True)
  title = f'Better than {shorten(baseline, 30)}' if baseline else 'No baseline'
  style.style_axes(left, 'Final score', unit, '', ticker.ScalarFormatter())
  percent = ticker.PercentFormatter(1.0)
  style.style_axes(right, title, 'probability', '', percent)
  right.axvline(0.5, color=INK, lw=1, ls=':')
  right.set_xlim(-0.04, 1.04)
  for row, (label, result) in enumerate(labels.items()):
    color, final = styles[label]['color'], result['final']
    _plot_dot(left, row, final['iqm'], final['interval'], color)
    if len(final['each']) == 1:  # Of one task: seeds can be compared.
      rows = np.full(len(final['each'][0]), row + 0.22)
      left.plot(final['each'][0], rows, '|', color=color, ms=6)
    if better := result['improvement']:
      face = 'white' if better['verdict'] == 'undecided' else color
      value, interval = better['probability'], better['interval']
      _plot_dot(right, row, value, interval, color, face)
  right.tick_params(labelleft=False)
  if not baseline:
    style.annotate_empty(right, 'no runs of the baseline')
  left.set_yticks(range(len(labels)), [shorten(label) for label in labels])
  left.set_ylim(len(labels) - 0.5, -0.5)
  return fig


def _plot_dot(axes, row, value, interval, color, face=None):
  if interval:
    axes.plot(interval, [row, row], color=color, lw=5, alpha=0.35)
  axes.plot([value], [row], 'o', color=color, mfc=face or color, ms=6)


def entropies(labels: dict, title: str, styles: dict):
  """Entropy of the weights over its maximum, ln N, one line per run."""
  fig, axes = _axes(3.6, title, 'entropy / ln N')
  for label, result in labels.items():
    look = {'label': shorten(label), 'lw': 1.3, **styles[label]}
    for one in result['runs']:
      share = np.array(one['entropy']) / one['most']
      style.plot(axes, one['entropy_steps'], share, **look)
  axes.axhline(1, color=INK, ls=':', lw=1)
  axes.set_ylim(0, 1.08)
  return _with_legend(fig)


def errors(labels: dict, title: str, styles: dict):
  """The student's prediction error during the training, by label."""
  fig, axes = _axes(3.9, title, 'mean squared error')
  for label, result in labels.items():
    curves = result['runs'], result['grid'], result['mean']
    _plot_mean(axes, *curves, label=shorten(label), **styles[label])
  axes.set_ylim(bottom=0)
  return _with_legend(fig)


def weights(labels: dict, title: str):
  """Weights of the sources during the training, one panel per label."""
  looks = _styles_of(result['mean'] for result in labels.values())
  short = style.short_names(looks)

  def draw(axes, result):
    for source, mean in result['mean'].items():
      runs = [{**x, 'values': x['weights'][source]} for x in result['runs']]
      look = {**looks[source], 'label': shorten(short[source])}
      _plot_mean(axes, runs, result['grid'], mean, **look)
    axes.axhline(1 / len(result['mean']), color=INK, ls=':', lw=1)

  return _panels(labels, draw, title, 'environment steps', 'weight')


def predictions(labels: dict, title: str):
  """Error by predicted frame of each model, one panel per label."""
  looks = _styles_of(labels.values()) | {REPEATED: {'color': INK, 'ls': ':'}}

  def draw(axes, curves):
    for name, values in curves.items():
      frames = range(1, len(values) + 1)
      axes.plot(frames, values, lw=1.7, label=shorten(name), **looks[name])

  return _panels(labels, draw, title, 'predicted frame', 'mean squared error')


def _styles_of(curves):
  names = dict.fromkeys(name for part in curves for name in part)
  return {name: style.line_style(i) for i, name in enumerate(names)}


def actions(sources: dict, title: str):
  """Histograms of recorded and replayed actions, one row per source.

  The sources are the 'vae' of `model_sections.read_diagnosis`.
  """
  dims = min(max(len(x['recorded']) for x in sources.values()), MAX_DIMS)
  fig = style.figure(1.0 + 1.35 * len(sources))
  grid = fig.subplots(len(sources), dims, squeeze=False, sharex=True)
  for row, (source, part) in zip(grid, sources.items(), strict=True):
    for axes in row[len(part['recorded']) :]:
      axes.set_axis_off()
    for dim, axes in enumerate(row[: len(part['recorded'])]):
      style.style_axes(axes, xformat=ticker.ScalarFormatter())
      name = f'{shorten(source)}\n' if dim == 0 else ''
      look = {'loc': 'left', 'color': INK, 'fontsize': 8}
      axes.set_title(f'{name}dimension {dim}', **look)
      axes.tick_params(labelsize=7)
      axes.xaxis.set_major_locator(ticker.MaxNLocator(3))
      recorded = {'label': 'recorded', 'fill': True, 'alpha': 0.4}
      for index, look in enumerate((recorded, {'label': 'replayed'})):
        look |= {'color': style.COLORS[index], 'lw': 1.4}
        axes.stairs(part[look['label']][dim], part['edges'], **look)
  return _finish(fig, title, 'action', 'density')


def _axes(height, title, ylabel):
  fig = style.figure(height)
  axes = fig.subplots()
  style.style_axes(axes, title, 'environment steps', ylabel)
  return fig, axes


def _plot_mean(axes, runs, grid, mean, **look):
  """Plots the runs' curves thin, and their mean."""
  for one in runs:
    curve = style.thin(pd.Series(one['values'], one['steps']))
    axes.plot(curve.index, curve, color=look['color'], lw=0.7, alpha=0.3)
  style.plot(axes, grid, mean, lw=2, **look)


def _panels(labels, draw, title, xlabel, ylabel):
  """Draws a panel for each label, as far as there is room."""
  shown = list(labels.items())[:MAX_PANELS]
  columns = min(len(shown), _COLUMNS)
  rows = math.ceil(len(shown) / columns)
  fig = style.figure(1.4 + 2.5 * rows)
  panels = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  for axes in panels.flat[len(shown) :]:
    axes.set_axis_off()
  for axes, (label, value) in zip(panels.flat, shown, strict=False):
    style.style_axes(axes, shorten(label, 22))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    draw(axes, value)
  panels[0, 0].set_ylim(bottom=0)  # Shared.
  return _finish(fig, title, xlabel, ylabel)


def _finish(fig, title, xlabel, ylabel):
  """Adds a title, labels, and one legend for all panels."""
  fig.suptitle(shorten(title, 80), color=INK, fontsize=12, fontweight='bold')
  for axes in fig.axes:
    if axes.get_subplotspec().is_last_row():  # A supxlabel hides the legend.
      axes.set_xlabel(xlabel, color=INK)
  fig.supylabel(ylabel, color=INK, fontsize=10)
  return _with_legend(fig)


def _with_legend(fig):
  style.add_legend(fig, fig.axes)
  return fig
