"""The report's pictures of scores, drawn from what goes into results.json.

Each function makes one figure. `styles` gives every label the same colour and
line in all of them.
"""

import math

import matplotlib.ticker
import numpy as np

from vid2act_jax.analysis import drawing

# With more labels, only the first two, the method's and the baseline's, keep
# their bands, and single seeds are not drawn: nothing could be seen any more.
CROWD = 4


def learning(told: dict, title: str, styles: dict, published=()):
  """A task's curves: each seed thin, their mean, its interval; others' dashed.

  Args:
    told: of `scores.of_task`.
    title: over the picture.
    styles: {label: of `drawing.style`}.
    published: curves of `published.matching`.
  """
  height = 4.6 + 0.24 * math.ceil((len(told['labels']) + len(published)) / 2)
  made = drawing.wide(height)
  axes = made.subplots()
  drawing.dress(
    axes, drawing.short(title, 80), 'environment steps', told['metric']
  )
  handles = []
  crowded = len(told['labels']) > CROWD
  for label, about in told['labels'].items():
    color = styles[label]['color']
    for one in [] if crowded else about['each']:
      steps, values = np.array(one['steps']), np.array(one['values'])
      axes.plot(*drawing.thin(steps, values), color=color, lw=0.7, alpha=0.3)
    band = not crowded or len(handles) < 2
    handles += _curve(axes, told['grid'], about, label, styles[label], band)
    handles[-1].set_label(f'{drawing.short(label)} ({len(about["seeds"])})')
  for index, curve in enumerate(published):
    handles += axes.plot(
        curve['env_steps'], curve['mean'], color=drawing.INK, linewidth=1.1,
        linestyle=(0, (5 + 2 * index, 2)), alpha=0.75,
        marker='o^sDv*xP'[index % 8], markersize=3, markevery=max(
            1, len(curve['mean']) // 6),
        label=f'{curve["method"]}, {curve["source"].split()[0]},'
        ' other protocol',
    )  # fmt: skip
  randoms = [x['random'] for x in told['labels'].values()]
  randoms = [x for x in randoms if x is not None]
  if randoms:
    mean = float(np.mean(randoms))
    handles.append(
        axes.axhline(mean, color=drawing.FAINT, lw=1, ls=':', label='random')
    )  # fmt: skip
  axes.set_xlim(left=0)
  drawing.legend_below(axes, handles)
  return made


def normalised(told: dict, styles: dict):
  """Curves over several tasks, of `scores.over_tasks`."""
  made = drawing.wide(4.6)
  axes = made.subplots()
  title = f'Mean over {len(told["tasks"])} tasks'
  drawing.dress(
    axes, drawing.short(title, 80), 'environment steps', 'normalised score'
  )
  if not told['grid']:
    drawing.say(axes, 'the tasks have no environment steps in common')
    return made
  handles = []
  for label, about in told['labels'].items():
    band = len(told['labels']) <= CROWD or len(handles) < 2
    handles += _curve(axes, told['grid'], about, label, styles[label], band)
  drawing.legend_below(axes, handles)
  return made


def _curve(axes, grid, about, label, style, band):
  if band and about['low'] is not None:
    axes.fill_between(
        grid, about['low'], about['high'], color=style['color'], alpha=0.15,
        linewidth=0,
    )  # fmt: skip
  single = {'marker': 'o'} if len(grid) == 1 else {}
  return axes.plot(
    grid,
    about['iqm'],
    lw=2,
    label=drawing.short(label),
    zorder=3,
    **style,
    **single,
  )


def intervals(labels: dict, styles: dict, unit: str, versus: str | None):
  """Final scores beside the probability to be better than the baseline.

  Where that is undecided the dot is hollow.

  Args:
    labels: {label: with 'final' and 'improvement'}.
    styles: as of `learning`.
    unit: of the scores.
    versus: the baseline's label, or None.
  """
  made = drawing.wide(1.7 + 0.32 * len(labels))
  left, right = made.subplots(1, 2, sharey=True)
  names = [drawing.short(label) for label in labels]
  drawing.dress(left, 'Final score', unit, '')
  left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
  title = (
    f'Better than {drawing.short(versus, 30)}' if versus else 'No baseline'
  )
  drawing.dress(right, title, 'probability', '')
  right.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
  right.axvline(0.5, color=drawing.INK, lw=1, ls=':')
  right.set_xlim(-0.04, 1.04)
  for row, (label, about) in enumerate(labels.items()):
    color = styles[label]['color']
    each = np.concatenate(about['final']['each'])
    _dot(left, row, about['final']['iqm'], about['final']['interval'], color)
    if len(about['final']['each']) == 1:  # Of one task: seeds can be seen.
      left.plot(each, np.full(len(each), row + 0.22), '|', color=color, ms=6)
    better = about['improvement']
    if better:
      sure = better['verdict'] != 'undecided'
      value, interval = better['probability'], better['interval']
      _dot(right, row, value, interval, color, sure)
  left.set_yticks(range(len(labels)), names)
  left.set_ylim(len(labels) - 0.5, -0.5)
  right.tick_params(labelleft=False)
  if not versus:
    drawing.say(right, 'no runs of the baseline')
    left.set_yticks(range(len(labels)), names)
  return made


def _dot(axes, row, value, interval, color, filled=True):
  if interval:
    axes.plot(interval, [row, row], color=color, lw=5, alpha=0.35)
  face = color if filled else 'white'
  axes.plot([value], [row], 'o', color=color, mfc=face, ms=6)
