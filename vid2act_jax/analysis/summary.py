"""One page about a run: its learning, losses, similarities and predictions.

python -m vid2act_jax.analysis summary RUN
"""

import math
import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from PIL import Image

from vid2act_jax import types
from vid2act_jax.analysis import load_runs, style
from vid2act_jax.analysis.style import COLORS, INK
from vid2act_jax.loops import logger, runs

_LOSSES = (
  'image_loss', 'kl', 'reward_loss', 'distillation_loss', 'vae_loss',
  'discount_loss',
)  # fmt: skip
_STAGES = {
  'pretrain': ('pretraining', 'updates'),
  'finetune': ('finetuning', 'environment steps'),
}
# The least loss of an image of 64 x 64 pixels: the constant of its likelihood.
_MIN_IMAGE_LOSS = 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)


def write_summary(workdir, title, path=None) -> pathlib.Path:
  """Draws the page from the metrics and strips of a run.

  A panel without data says why.

  Args:
    workdir: the run's folder.
    title: over the page, such as the name of the experiment and the task.
    path: of the image, by default summary.png in the run's folder.

  Returns:
    The path of the image.

  Raises:
    UserError: the folder does not exist, or its metrics are damaged.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise types.UserError(f'no run folder {workdir}: name one that exists')
  metrics = load_runs.metric_table(logger.read_metrics(workdir))
  fig = style.figure(9.6, 12, 100)
  fig.suptitle(title, color=INK, fontsize=15, fontweight='bold')
  grid = fig.add_gridspec(3, 2, height_ratios=(1.0, 0.82, 0.95))
  _draw_returns(fig.add_subplot(grid[0, 0]), metrics)
  _draw_similarity(fig.add_subplot(grid[0, 1]), metrics)
  _draw_losses(fig.add_subplot(grid[1, 0]), metrics, 'pretrain')
  _draw_losses(fig.add_subplot(grid[1, 1]), metrics, 'finetune')
  _draw_strip(fig.add_subplot(grid[2, :]), workdir)
  return style.save(fig, pathlib.Path(path or workdir / 'summary.png'))


def _legend(axes, handles):
  place = {'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.2)}
  style.legend_below(axes, handles, 95, **place)


def _plot(axes, curve, **look):
  """Plots a curve, few points as dots."""
  curve = style.thin(curve)
  marker = 'o' if len(curve) < 3 else None
  look = {'marker': marker, 'markersize': 4, **look}
  return axes.plot(curve.index, curve, **look)


def _draw_returns(axes, metrics):
  style.style_axes(axes, 'Learning', 'environment steps', 'return')
  keys = 'episode/return', 'eval/return', 'eval/return_std', 'random/return'
  series = [load_runs.series(metrics, 'finetune', key) for key in keys]
  episodes, means, stds, random = series
  if episodes.empty and means.empty:
    text = 'no episodes yet: the finetune stage has not run'
    return style.annotate_empty(axes, text)
  label = 'evaluation, mean ± std' if len(stds) else 'evaluation, mean'
  dots = {'color': style.FAINT, 'alpha': 0.75, 'markeredgewidth': 0}
  dots |= {'marker': '.', 'ls': '', 'markersize': 5}
  _plot(axes, episodes, label='training episodes', **dots)
  if len(stds) == len(means):
    low, high = means.array - stds.array, means.array + stds.array
    band = {'color': COLORS[0], 'alpha': 0.18, 'linewidth': 0}
    axes.fill_between(means.index, low, high, **band)
  line = {'color': COLORS[0], 'linewidth': 2, 'markersize': 4}
  axes.plot(means.index, means, '-o', label=label, **line)
  for value in random[-1:]:
    label = f'random policy, {value:.4g}'
    axes.axhline(value, color=INK, linestyle='--', linewidth=1, label=label)
  for step, value in means[-1:].items():
    place = {'xytext': (5, 4), 'textcoords': 'offset points'}
    look = {'color': COLORS[0], 'fontweight': 'bold'}
    axes.annotate(f'{value:.4g}', (step, value), **place, **look)
  axes.margins(x=0.08)
  axes.set_xlim(left=0)
  handles = axes.get_legend_handles_labels()[0]
  handles += _draw_success(axes, metrics)
  _legend(axes, [x for x in handles if len(x.get_xdata())])


def _draw_success(axes, metrics):
  """Draws the success rate on its own axis; returns the legend's handles."""
  rates = load_runs.series(metrics, 'finetune', 'eval/success')
  if rates.empty:
    return []
  right = axes.twinx()
  right.set_ylim(-0.03, 1.03)
  right.set_ylabel('success rate', color=COLORS[1])
  right.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  right.tick_params(colors=COLORS[1], length=3)
  for name, spine in right.spines.items():
    spine.set_visible(name == 'right')
    spine.set(color=COLORS[1], linewidth=0.8)
  line = {'color': COLORS[1], 'linewidth': 1.6, 'markersize': 3.5}
  label = 'evaluation, success'
  return right.plot(rates.index, rates, '-s', label=label, **line)


def _draw_losses(axes, metrics, stage):
  name, unit = _STAGES[stage]
  style.style_axes(axes, f'Losses of {name}', unit, 'loss')
  curves = {
    key: load_runs.series(metrics, stage, f'train/{key}') for key in _LOSSES
  }
  curves['image_loss'] = curves['image_loss'] - _MIN_IMAGE_LOSS
  curves = {key: curve for key, curve in curves.items() if len(curve)}
  if not curves:
    text = f'no losses: the {stage} stage has not run'
    return style.annotate_empty(axes, text)
  if all((curve > 0).all() for curve in curves.values()):
    axes.set_yscale('log')
  else:  # The nearest scale that has zero and negative values.
    axes.set_yscale('symlog', linthresh=0.01)
  handles = []
  for key, curve in curves.items():
    look = {'color': COLORS[_LOSSES.index(key)], 'linewidth': 1.4}
    label = key.removesuffix('_loss')
    label += ' (above minimum)' if label == 'image' else ''
    handles += _plot(axes, curve, label=label, **look)
  _legend(axes, handles)


def _draw_similarity(axes, metrics):
  title = 'Similarity to the sources'
  style.style_axes(axes, title, 'environment steps', 'weight')
  finetune = metrics[metrics.stage == 'finetune']
  keys = finetune.key[finetune.key.str.startswith('similarity/')].unique()
  if not len(keys):
    text = 'no sources: transfer is off'
    if finetune.empty:
      text = 'no similarities yet: the finetune stage has not run'
    return style.annotate_empty(axes, text)
  names = [key.removeprefix('similarity/') for key in keys]
  handles = []
  for index, name in enumerate(style.short_names(names).values()):
    curve = load_runs.series(metrics, 'finetune', keys[index])
    look = {'linewidth': 1.6, 'label': name, **style.line_style(index)}
    handles += _plot(axes, curve, **look)
  uniform = 1 / len(keys)
  axes.axhline(uniform, color=INK, linestyle=':', linewidth=1)
  axes.annotate(
    'uniform', (1, uniform), (-4, 3), ('axes fraction', 'data'),
    'offset points', color=INK, fontsize=8, ha='right',
  )  # fmt: skip
  axes.set_ylim(bottom=0)
  _legend(axes, handles)


def _draw_strip(axes, workdir):
  strips = sorted(
    workdir.glob('strips/*.png'),
    key=lambda path: (path.name.startswith('finetune'), path.name),
  )
  axes.spines[:].set_visible(False)
  stage = f' ({strips[-1].stem.split("-")[0]})' if strips else ''
  title = f'Open-loop prediction{stage}'
  axes.set_title(title, loc='left', color=INK, fontweight='bold')
  if not strips:
    return style.annotate_empty(axes, 'no prediction has been made yet')
  with Image.open(strips[-1]) as image:
    pixels = np.asarray(image.convert('RGB'))
  axes.imshow(pixels, interpolation='nearest')
  rows = ('truth', 'model', 'error')
  axes.set_yticks((np.arange(3) + 0.5) / 3 * len(pixels) - 0.5, rows)
  axes.set_xticks([])
  axes.tick_params(length=0, labelcolor=INK, labelsize=10)
  text = 'time: first with the frames as context, then from the actions alone'
  axes.set_xlabel(text, color=INK)


def redraw(workdir: pathlib.Path) -> pathlib.Path:
  """Draws a run's page again.

  Raises:
    UserError: see `write_summary`; or the run's config is damaged.
  """
  exists = (workdir / runs.CONFIG).exists()
  config = runs.read_config_dict(workdir) if exists else {}
  return write_summary(workdir, title(config) or workdir.resolve().name)


def title(config: Mapping) -> str:
  """Returns a page's title: task, variant and seed, as far as known."""
  parts = {'task': '{}', 'variant': '{}', 'seed': 'seed {}'}
  known = (text.format(config[k]) for k, text in parts.items() if k in config)
  return ', '.join(known)
