"""One page about a run: its learning, losses, similarities and predictions.

python -m vid2act_jax.analysis summary RUN
"""

import collections
import math
import pathlib
from collections.abc import Mapping

import matplotlib.ticker
import numpy as np
from PIL import Image

from vid2act_jax import types
from vid2act_jax.analysis import drawing
from vid2act_jax.loops import logger, runs

_LOSSES = (
  'image_loss', 'kl', 'reward_loss', 'distillation_loss', 'vae_loss',
  'discount_loss',
)  # fmt: skip
# What an image of 64 x 64 pixels costs at least: its likelihood's constant.
_LEAST_IMAGE_LOSS = 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)


def write_summary(workdir, title, path=None):
  """Draws the page from the metrics and strips of a run.

  What the run does not have is said in words where it would stand.

  Args:
    workdir: the run's folder.
    title: over the page, such as the name of the experiment and the task.
    path: of the picture, by default summary.png in the run's folder.

  Returns:
    The path of the picture.

  Raises:
    UserError: the folder is not there, or its metrics are damaged.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise types.UserError(f'no run folder {workdir}: name one that exists')
  metrics = logger.read_metrics(workdir)
  figure = drawing.figure(12, 9.6)
  figure.suptitle(title, color=drawing.INK, fontsize=15, fontweight='bold')
  grid = figure.add_gridspec(3, 2, height_ratios=(1.0, 0.82, 0.95))
  _draw_returns(figure.add_subplot(grid[0, 0]), metrics)
  _draw_similarity(figure.add_subplot(grid[0, 1]), metrics)
  for column, stage in enumerate(('pretrain', 'finetune')):
    _draw_losses(figure.add_subplot(grid[1, column]), metrics, stage)
  _draw_strip(figure.add_subplot(grid[2, :]), workdir)
  return drawing.save(figure, pathlib.Path(path or workdir / 'summary.png'))


def _label(name):
  if name == 'image_loss':
    return 'image (above its least)'
  return name.removesuffix('_loss')


def _draw_returns(axes, metrics):
  drawing.dress(axes, 'Learning', 'environment steps', 'return')
  steps, returns = drawing.series(metrics, 'finetune', 'episode/return')
  axes.plot(
      *drawing.thin(steps, returns), '.', color=drawing.FAINT, alpha=0.75,
      markersize=5, markeredgewidth=0, label='training episodes',
  )  # fmt: skip
  eval_steps, means = drawing.series(metrics, 'finetune', 'eval/return')
  _, stds = drawing.series(metrics, 'finetune', 'eval/return_std')
  if len(stds) == len(means):
    axes.fill_between(
        eval_steps, means - stds, means + stds,
        color=drawing.COLORS[0], alpha=0.18, linewidth=0,
    )  # fmt: skip
  axes.plot(
      eval_steps, means, '-o', color=drawing.COLORS[0], linewidth=2,
      markersize=4,
      label='evaluation, mean ± std' if len(stds) else 'evaluation, mean',
  )  # fmt: skip
  if not len(steps) and not len(means):
    drawing.say(axes, 'no episodes yet: the finetune stage has not run')
    return
  _, random = drawing.series(metrics, 'finetune', 'random/return')
  if len(random):
    axes.axhline(
        random[-1], color=drawing.INK, linestyle='--', linewidth=1,
        label=f'random policy, {random[-1]:.4g}',
    )  # fmt: skip
  if len(means):
    axes.annotate(
        f'{means[-1]:.4g}', (eval_steps[-1], means[-1]), (5, 4),
        textcoords='offset points', color=drawing.COLORS[0], fontweight='bold',
    )  # fmt: skip
  axes.margins(x=0.08)
  axes.set_xlim(left=0)
  handles = axes.get_legend_handles_labels()[0]
  handles += _draw_success(axes, metrics)
  drawing.legend(axes, [h for h in handles if len(h.get_xdata())])


def _draw_success(axes, metrics):
  """The success rate on an axis of its own; the legend's handles."""
  steps, rates = drawing.series(metrics, 'finetune', 'eval/success')
  if not len(steps):
    return []
  right = axes.twinx()
  right.set_ylim(-0.03, 1.03)
  right.set_ylabel('success rate', color=drawing.COLORS[1])
  right.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
  right.tick_params(colors=drawing.COLORS[1], length=3)
  for name, spine in right.spines.items():
    spine.set_visible(name == 'right')
    spine.set(color=drawing.COLORS[1], linewidth=0.8)
  return right.plot(
      steps, rates, '-s', color=drawing.COLORS[1], linewidth=1.6,
      markersize=3.5, label='evaluation, success',
  )  # fmt: skip


def _draw_losses(axes, metrics, stage):
  names = {'pretrain': 'pretraining', 'finetune': 'finetuning'}
  units = {'pretrain': 'updates', 'finetune': 'environment steps'}
  drawing.dress(axes, f'Losses of {names[stage]}', units[stage], 'loss')
  curves = {}
  for name in _LOSSES:
    steps, values = drawing.series(metrics, stage, f'train/{name}')
    if name == 'image_loss':
      values = values - _LEAST_IMAGE_LOSS
    if len(steps):
      curves[name] = drawing.thin(steps, values)
  if not curves:
    drawing.say(axes, f'no losses: the {stage} stage has not run')
    return
  if all((values > 0).all() for _, values in curves.values()):
    axes.set_yscale('log')
  else:  # As much alike as there is for zeros and negative ones.
    axes.set_yscale('symlog', linthresh=0.01)
  handles = []
  for name, curve in curves.items():
    handles += axes.plot(
        *curve, color=drawing.COLORS[_LOSSES.index(name)], linewidth=1.4,
        marker='o' if len(curve[0]) < 3 else None, markersize=4,
        label=_label(name),
    )  # fmt: skip
  drawing.legend(axes, handles)


def _draw_similarity(axes, metrics):
  drawing.dress(
    axes, 'Similarity to the sources', 'environment steps', 'weight'
  )
  keys = collections.Counter(
    key
    for record in metrics
    if record['stage'] == 'finetune'
    for key in record
    if key.startswith('similarity/')
  )
  if not keys:
    ran = any(record['stage'] == 'finetune' for record in metrics)
    drawing.say(
      axes,
      'no sources: transfer is off'
      if ran
      else 'no similarities yet: the finetune stage has not run',
    )
    return
  handles = []
  for index, (key, name) in enumerate(drawing.short_names(keys).items()):
    steps, values = drawing.thin(*drawing.series(metrics, 'finetune', key))
    handles += axes.plot(
        steps, values, **drawing.style(index), linewidth=1.6,
        marker='o' if len(steps) < 3 else None, markersize=4, label=name,
    )  # fmt: skip
  axes.axhline(1 / len(keys), color=drawing.INK, linestyle=':', linewidth=1)
  axes.annotate(
      'uniform', (1, 1 / len(keys)), (-4, 3), color=drawing.INK, fontsize=8,
      xycoords=('axes fraction', 'data'), textcoords='offset points',
      ha='right',
  )  # fmt: skip
  axes.set_ylim(bottom=0)
  drawing.legend(axes, handles)


def _draw_strip(axes, workdir):
  strips = sorted(
    workdir.glob('strips/*.png'),
    key=lambda path: (path.name.startswith('finetune'), path.name),
  )
  axes.spines[:].set_visible(False)
  title = 'Open-loop prediction'
  if strips:
    title += f' ({strips[-1].stem.split("-")[0]})'
  axes.set_title(title, loc='left', color=drawing.INK, fontweight='bold')
  if not strips:
    drawing.say(axes, 'no prediction has been made yet')
    return
  with Image.open(strips[-1]) as image:
    pixels = np.asarray(image.convert('RGB'))
  axes.imshow(pixels, interpolation='nearest')
  rows = ('truth', 'model', 'error')
  axes.set_yticks((np.arange(3) + 0.5) / 3 * len(pixels) - 0.5, rows)
  axes.set_xticks([])
  axes.tick_params(length=0, labelcolor=drawing.INK, labelsize=10)
  axes.set_xlabel(
    'time, first with the frames as context, then from the actions alone',
    color=drawing.INK,
  )


def draw_again(workdir: pathlib.Path) -> pathlib.Path:
  """Draws a run's page again.

  Raises:
    UserError: as of `write_summary`, or the run's config is damaged.
  """
  there = (workdir / runs.CONFIG).exists()
  config = runs.read_config_dict(workdir) if there else {}
  return write_summary(workdir, title(config) or workdir.resolve().name)


def title(config: Mapping) -> str:
  """A page's: the task, the variant and the seed, as far as they are told."""
  told = {'task': '{}', 'variant': '{}', 'seed': 'seed {}'}
  parts = [text.format(config[k]) for k, text in told.items() if k in config]
  return ', '.join(parts)
