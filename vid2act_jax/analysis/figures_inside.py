"""The report's pictures of what is inside: weights, predictions, actions.

Each function makes one figure from what goes into results.json.
"""

import math

import matplotlib.ticker
import numpy as np

from vid2act_jax.analysis import diagnosed, drawing

_COLUMNS, MOST_PANELS = 3, 12
_PANEL_LETTERS = 22
_MOST_DIMS = 6  # Of actions, in histograms.


def weights(labels: dict, title: str, uniform: bool = True):
  """Weights of the sources over the training, a panel for each label.

  Args:
    labels: {label: {'runs': [{'steps', 'weights': {source: [T]}}], 'grid',
      'mean': {source: [G]}}}.
    title: over the picture.
    uniform: mark 1/N.
  """
  sources = list(dict.fromkeys(s for x in labels.values() for s in x['mean']))
  short = drawing.short_names(sources)
  made, panels = _panels(labels, 2.5, 0.3 + 0.24 * math.ceil(len(sources) / 3))
  handles = {}
  for axes, (label, about) in zip(panels, labels.items(), strict=False):
    drawing.dress(axes, drawing.short(label, _PANEL_LETTERS), '', '')
    for source, mean in about['mean'].items():
      style = drawing.style(sources.index(source))
      for one in about['runs']:
        axes.plot(
            one['steps'], one['weights'][source], lw=0.6, alpha=0.4, **style
        )  # fmt: skip
      handles[source] = axes.plot(
          about['grid'], mean, lw=1.8, label=drawing.short(short[source]),
          **style,
      )[0]  # fmt: skip
    if uniform:
      axes.axhline(1 / len(about['mean']), color=drawing.INK, ls=':', lw=1)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
  panels[0].set_ylim(bottom=0)  # Shared.
  _around(made, panels, title, 'environment steps', 'weight', handles)
  return made


def entropies(labels: dict, title: str, styles: dict):
  """Entropy of the weights against its most, ln N, one curve a run.

  Args:
    labels: {label: {'runs': [{'entropy_steps', 'entropy', 'most'}]}}.
    title: over the picture.
    styles: as of `learning`.
  """
  made = drawing.wide(3.6)
  axes = made.subplots()
  drawing.dress(
    axes, drawing.short(title, 80), 'environment steps', 'entropy / ln N'
  )
  handles = {}
  for label, about in labels.items():
    for one in about['runs']:
      share = np.array(one['entropy']) / one['most']
      line = axes.plot(
        one['entropy_steps'],
        share,
        lw=1.3,
        label=drawing.short(label),
        **styles[label],
      )
      handles[label] = line[0]
  axes.axhline(1, color=drawing.INK, ls=':', lw=1)
  axes.set_ylim(0, 1.08)
  drawing.legend_below(axes, list(handles.values()))
  return made


def errors(labels: dict, title: str, styles: dict):
  """The student's prediction error over the training, a line for each label.

  Args:
    labels: {label: {'grid', 'mean', 'runs': [{'steps', 'values'}]}}.
    title: over the picture.
    styles: as of `figures.learning`.
  """
  made = drawing.wide(3.9)
  axes = made.subplots()
  drawing.dress(
    axes, drawing.short(title, 80), 'environment steps', 'mean squared error'
  )
  handles = []
  for label, about in labels.items():
    for one in about['runs']:
      color = styles[label]['color']
      axes.plot(one['steps'], one['values'], color=color, lw=0.7, alpha=0.3)
    handles += axes.plot(
      about['grid'],
      about['mean'],
      lw=2,
      label=drawing.short(label),
      **styles[label],
    )
  axes.set_ylim(bottom=0)
  drawing.legend_below(axes, handles)
  return made


def predictions(labels: dict, title: str):
  """Error by predicted frame, a panel for each label.

  Args:
    labels: {label: {name: [errors]}}.
    title: over the picture.
  """
  names = list(dict.fromkeys(n for curves in labels.values() for n in curves))
  made, panels = _panels(labels, 2.5, 0.3 + 0.24 * math.ceil(len(names) / 3))
  handles = {}
  for axes, (label, curves) in zip(panels, labels.items(), strict=False):
    drawing.dress(axes, drawing.short(label, _PANEL_LETTERS), '', '')
    for name, errors in curves.items():
      style = drawing.style(names.index(name))
      if name == diagnosed.REPEATED:
        style = {'color': drawing.INK, 'linestyle': ':'}
      handles[name] = axes.plot(
          range(1, len(errors) + 1), errors, lw=1.7,
          label=drawing.short(name), **style,
      )[0]  # fmt: skip
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
  panels[0].set_ylim(bottom=0)  # Shared.
  _around(made, panels, title, 'predicted frame', 'mean squared error', handles)
  return made


def actions(sources: dict, title: str):
  """Histograms of recorded and replayed actions, a row for each source.

  Args:
    sources: {source: of `diagnosed.vae`}, all with histograms.
    title: over the picture.
  """
  most = max(len(x['recorded']) for x in sources.values())
  columns = min(most, _MOST_DIMS)
  made = drawing.wide(1.0 + 1.35 * len(sources))
  grid = made.subplots(len(sources), columns, squeeze=False, sharex=True)
  handles = {}
  for row, (source, told) in zip(grid, sources.items(), strict=True):
    for dim, axes in enumerate(row):
      if dim >= len(told['recorded']):
        axes.set_axis_off()
        continue
      drawing.dress(axes, '', '', '')
      axes.set_title(
        f'{drawing.short(source)}\ndimension {dim}' if dim == 0
        else f'dimension {dim}',
        loc='left', color=drawing.INK, fontsize=8,
      )  # fmt: skip
      axes.tick_params(labelsize=7)
      axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
      axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
      for name, index in (('recorded', 0), ('replayed', 1)):
        handles[name] = axes.stairs(
            told[name][dim], told['edges'], label=name, lw=1.4,
            color=drawing.COLORS[index], fill=name == 'recorded',
            alpha=0.4 if name == 'recorded' else 1,
        )  # fmt: skip
  _around(made, list(grid.flat), title, 'action', 'density', handles)
  return made


def _panels(labels, height, room):
  """A figure with a panel for each label, as far as there is room."""
  count = min(len(labels), MOST_PANELS)
  columns = min(count, _COLUMNS)
  rows = math.ceil(count / columns)
  made = drawing.wide(0.7 + room + height * rows)
  grid = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  panels = list(grid.flat)
  for axes in panels[count:]:
    axes.set_axis_off()
  return made, panels[:count]


def _around(made, panels, title, xlabel, ylabel, handles):
  made.suptitle(
    drawing.short(title, 80), color=drawing.INK, fontsize=12, fontweight='bold'
  )
  # Not supxlabel: the legend would stand on it.
  for axes in panels:
    if axes.get_subplotspec().is_last_row():
      axes.set_xlabel(xlabel, color=drawing.INK)
  made.supylabel(ylabel, color=drawing.INK, fontsize=10)
  made.legend(
      handles=list(handles.values()), loc='outside lower center', ncols=3,
      frameon=False, fontsize=9, labelcolor=drawing.INK,
  )  # fmt: skip
