"""One page about a run: its learning, losses, similarities and predictions."""

import functools
import math
import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from PIL import Image

from vid2act_jax import types
from vid2act_jax.analysis import load_runs, reference, style
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


def write_summary(workdir, heading='', path=None) -> pathlib.Path:
  """Draws the page from the metrics and strips of a run.

  A panel without data says why.

  Args:
    workdir: the run's folder.
    heading: of the page; by default the `title` of the run's config.
    path: of the image, by default summary.png in the run's folder.

  Returns:
    The path of the image.

  Raises:
    UserError: the folder does not exist, or its metrics or config are damaged.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise types.UserError(f'no run folder {workdir}: name one that exists')
  config = {}
  if (workdir / runs.CONFIG).exists():
    config = runs.read_config_dict(workdir)
  heading = heading or title(config)
  metrics = load_runs.metric_table(logger.read_metrics(workdir))
  fig = style.figure(9.6, 12, 100)
  look = {'color': INK, 'fontsize': 15, 'fontweight': 'bold'}
  fig.suptitle(heading or workdir.resolve().name, **look)
  grid = fig.add_gridspec(3, 2, height_ratios=(1.0, 0.82, 0.95))
  curve = reference.find(config)
  _draw_returns(fig.add_subplot(grid[0, 0]), metrics, curve)
  _draw_similarity(fig.add_subplot(grid[0, 1]), metrics)
  _draw_losses(fig.add_subplot(grid[1, 0]), metrics, 'pretrain')
  _draw_losses(fig.add_subplot(grid[1, 1]), metrics, 'finetune')
  _draw_strip(fig.add_subplot(grid[2, :]), workdir)
  return style.save(fig, pathlib.Path(path or workdir / 'summary.png'))


def title(config: Mapping) -> str:
  """Returns a page's title: task, variant and seed, as far as known."""
  parts = {'task': '{}', 'variant': '{}', 'seed': 'seed {}'}
  known = (text.format(config[k]) for k, text in parts.items() if k in config)
  return ', '.join(known)


def _draw_returns(axes, metrics, reference_curve):
  style.style_axes(axes, 'Learning', 'environment steps', 'return')
  series = functools.partial(load_runs.series, metrics, 'finetune')
  keys = 'episode/return', 'eval/return', 'eval/return_std', 'eval/success'
  episodes, means, stds, rates = map(series, keys)
  if episodes.empty and means.empty:
    text = 'no episodes yet: the finetune stage has not run'
    return style.annotate_empty(axes, text)
  look = {'color': style.FAINT, 'alpha': 0.75, 'mew': 0, 'marker': '.'}
  _plot(axes, episodes, ms=5, ls='', label='training episodes', **look)
  label = 'evaluation, mean ± std' if len(stds) else 'evaluation, mean'
  share = evaluation_share(metrics)
  label += '' if math.isnan(share) else f' ({share:.0%} of the time)'
  look = {'color': COLORS[0], 'lw': 2, 'marker': 'o', 'label': label}
  if len(stds) == len(means):
    look['band'] = means - stds.array, means + stds.array
  style.plot(axes, means.index, means, **look)
  if reference_curve:
    steps = np.array(reference_curve['env_steps'])
    band = [np.array(reference_curve[key]) for key in ('low', 'high')]
    median = np.array(reference_curve['median'])
    look = {'color': COLORS[3], 'lw': 1.6, 'label': reference_curve['label']}
    style.plot(axes, steps, median, band=band, **look)
  for value in series('random/return')[-1:]:
    label = f'random policy, {value:.4g}'
    axes.axhline(value, color=INK, ls='--', lw=1, label=label)
  for step, value in means[-1:].items():
    place = {'xytext': (5, 4), 'textcoords': 'offset points'}
    look = {'color': COLORS[0], 'fontweight': 'bold'}
    axes.annotate(f'{value:.4g}', (step, value), **place, **look)
  axes.margins(x=0.08)
  axes.set_xlim(left=0)
  _add_legend(axes, *_draw_success(axes, rates))


def evaluation_share(metrics) -> float:
  """Returns the share of a run's time that its evaluations took.

  NaN if the run, of an earlier version, did not log it.

  Args:
    metrics: from `load_runs.metric_table`.
  """
  seconds = load_runs.series(metrics, 'finetune', 'eval/seconds')
  total = metrics.groupby('stage').time.max().sum()
  return seconds.sum() / total if len(seconds) and total else math.nan


def _draw_success(axes, rates):
  """Draws the success rate, if there is one, on axes at the right."""
  if rates.empty:
    return []
  color, right = COLORS[1], axes.twinx()
  look = {'color': color, 'marker': 's', 'lw': 1.6, 'ms': 3.5}
  _plot(right, rates, label='evaluation, success', **look)
  right.set_ylim(-0.03, 1.03)
  right.set_ylabel('success rate', color=color)
  right.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
  right.tick_params(colors=color, length=3)
  right.spines[:].set_visible(False)
  right.spines.right.set(visible=True, color=color, linewidth=0.8)
  return [right]


def _draw_losses(axes, metrics, stage):
  name, unit = _STAGES[stage]
  style.style_axes(axes, f'Losses of {name}', unit, 'loss')
  curves = {
    key: load_runs.series(metrics, stage, f'train/{key}') for key in _LOSSES
  }
  curves['image_loss'] -= _MIN_IMAGE_LOSS
  if all(curve.empty for curve in curves.values()):
    text = f'no losses: the {stage} stage has not run'
    return style.annotate_empty(axes, text)
  if all((curve > 0).all() for curve in curves.values()):
    axes.set_yscale('log')
  else:  # The nearest scale that has zero and negative values.
    axes.set_yscale('symlog', linthresh=0.01)
  for color, (key, curve) in zip(COLORS, curves.items(), strict=False):
    label = key.removesuffix('_loss')
    label += ' (above minimum)' if label == 'image' else ''
    _plot(axes, curve, label=label, color=color, lw=1.4)
  _add_legend(axes)


def _draw_similarity(axes, metrics):
  text = 'Similarity to the sources'
  style.style_axes(axes, text, 'environment steps', 'weight')
  keys = metrics.key[metrics.stage == 'finetune']
  text = 'no sources: transfer is off'
  if keys.empty:
    text = 'no similarities yet: the finetune stage has not run'
  keys = keys[keys.str.startswith('similarity/')].unique()
  if not len(keys):
    return style.annotate_empty(axes, text)
  names = style.short_names(key.removeprefix('similarity/') for key in keys)
  for index, (key, name) in enumerate(zip(keys, names.values(), strict=True)):
    curve = load_runs.series(metrics, 'finetune', key)
    _plot(axes, curve, lw=1.6, label=name, **style.line_style(index))
  axes.axhline(1 / len(keys), color=INK, ls=':', lw=1)
  axes.annotate(
    'uniform', (1, 1 / len(keys)), (-4, 3), ('axes fraction', 'data'),
    'offset points', color=INK, fontsize=8, ha='right',
  )  # fmt: skip
  axes.set_ylim(bottom=0)
  _add_legend(axes)


def _plot(axes, curve, **look):
  curve = style.thin(curve)
  style.plot(axes, curve.index, curve, **look)


def _add_legend(axes, *more):
  place = {'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.2)}
  style.add_legend(axes, [axes, *more], 95, **place)


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
