"""One page about a run: its learning, losses, similarities and predictions.

python -m vid2act_jax.analysis.summary WORKDIR
"""

import argparse
import collections
import io
import math
import pathlib
import sys

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from PIL import Image

from vid2act_jax import types
from vid2act_jax.data import limits
from vid2act_jax.loops import logger

_INK, _FAINT, _GRID = '#2b2d42', '#8d99ae', '#e6e9ef'
_COLORS = (  # Told apart by colour-blind readers too.
    '#2166ac', '#d6604d', '#1b9e77', '#e6ab02', '#7b5ea7', '#56b4e9',
    '#a6611a', '#666666',
)  # fmt: skip
_LOSSES = 'image_loss kl reward_loss distillation_loss vae_loss'.split()
# What an image of 64 x 64 pixels costs at least: its likelihood's constant.
_LEAST_IMAGE_LOSS = 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)
_POINTS = 400  # At most so many a curve: more cannot be seen.


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
  figure = matplotlib.figure.Figure(
    figsize=(12, 9.6), dpi=100, layout='constrained'
  )
  figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.04)
  figure.suptitle(title, color=_INK, fontsize=15, fontweight='bold')
  grid = figure.add_gridspec(3, 2, height_ratios=(1.0, 0.82, 0.95))
  _draw_returns(figure.add_subplot(grid[0, 0]), metrics)
  _draw_similarity(figure.add_subplot(grid[0, 1]), metrics)
  for column, stage in enumerate(('pretrain', 'finetune')):
    _draw_losses(figure.add_subplot(grid[1, column]), metrics, stage)
  _draw_strip(figure.add_subplot(grid[2, :]), workdir)
  path = pathlib.Path(path or workdir / 'summary.png')
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  # A palette: strips of noisy frames would make the page three times as large.
  page = Image.open(buffer).convert('RGB').quantize(256)
  page.save(path, optimize=True)
  return path


def _label(name):
  if name == 'image_loss':
    return 'image (above its least)'
  return name.removesuffix('_loss')


def series(metrics, stage, key):
  """The finite values of a key: (steps [T], values [T]), by step."""
  pairs = [
    (record['step'], record[key])
    for record in metrics
    if record['stage'] == stage and np.isfinite(record.get(key, np.nan))
  ]
  pairs.sort(key=lambda pair: pair[0])
  steps, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.array(steps), np.array(values, np.float64)


def _draw_returns(axes, metrics):
  _dress(axes, 'Learning', 'environment steps', 'return')
  steps, returns = series(metrics, 'finetune', 'episode/return')
  axes.plot(
      *_thin(steps, returns), '.', color=_FAINT, alpha=0.75, markersize=5,
      markeredgewidth=0, label='training episodes',
  )  # fmt: skip
  eval_steps, means = series(metrics, 'finetune', 'eval/return')
  _, stds = series(metrics, 'finetune', 'eval/return_std')
  if len(stds) == len(means):
    axes.fill_between(
        eval_steps, means - stds, means + stds,
        color=_COLORS[0], alpha=0.18, linewidth=0,
    )  # fmt: skip
  axes.plot(
      eval_steps, means, '-o', color=_COLORS[0], linewidth=2, markersize=4,
      label='evaluation, mean ± std' if len(stds) else 'evaluation, mean',
  )  # fmt: skip
  if not len(steps) and not len(means):
    _say(axes, 'no episodes yet: the finetune stage has not run')
    return
  _, random = series(metrics, 'finetune', 'random/return')
  if len(random):
    axes.axhline(
        random[-1], color=_INK, linestyle='--', linewidth=1,
        label=f'random policy, {random[-1]:.4g}',
    )  # fmt: skip
  if len(means):
    axes.annotate(
        f'{means[-1]:.4g}', (eval_steps[-1], means[-1]), (5, 4),
        textcoords='offset points', color=_COLORS[0], fontweight='bold',
    )  # fmt: skip
  axes.margins(x=0.08)
  axes.set_xlim(left=0)
  handles = axes.get_legend_handles_labels()[0]
  handles += _draw_success(axes, metrics)
  _legend(axes, [h for h in handles if len(h.get_xdata())])


def _draw_success(axes, metrics):
  """The success rate on an axis of its own; the legend's handles."""
  steps, rates = series(metrics, 'finetune', 'eval/success')
  if not len(steps):
    return []
  right = axes.twinx()
  right.set_ylim(-0.03, 1.03)
  right.set_ylabel('success rate', color=_COLORS[1])
  right.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
  right.tick_params(colors=_COLORS[1], length=3)
  for name, spine in right.spines.items():
    spine.set_visible(name == 'right')
    spine.set(color=_COLORS[1], linewidth=0.8)
  return right.plot(
      steps, rates, '-s', color=_COLORS[1], linewidth=1.6, markersize=3.5,
      label='evaluation, success',
  )  # fmt: skip


def _draw_losses(axes, metrics, stage):
  names = {'pretrain': 'pretraining', 'finetune': 'finetuning'}
  units = {'pretrain': 'updates', 'finetune': 'environment steps'}
  _dress(axes, f'Losses of {names[stage]}', units[stage], 'loss')
  curves = {}
  for name in _LOSSES:
    steps, values = series(metrics, stage, f'train/{name}')
    if name == 'image_loss':
      values = values - _LEAST_IMAGE_LOSS
    if len(steps):
      curves[name] = _thin(steps, values)
  if not curves:
    _say(axes, f'no losses: the {stage} stage has not run')
    return
  if all((values > 0).all() for _, values in curves.values()):
    axes.set_yscale('log')
  else:  # As much alike as there is for zeros and negative ones.
    axes.set_yscale('symlog', linthresh=0.01)
  handles = []
  for name, curve in curves.items():
    handles += axes.plot(
        *curve, color=_COLORS[_LOSSES.index(name)], linewidth=1.4,
        marker='o' if len(curve[0]) < 3 else None, markersize=4,
        label=_label(name),
    )  # fmt: skip
  _legend(axes, handles)


def _draw_similarity(axes, metrics):
  _dress(axes, 'Similarity to the sources', 'environment steps', 'weight')
  keys = collections.Counter(
    key
    for record in metrics
    if record['stage'] == 'finetune'
    for key in record
    if key.startswith('similarity/')
  )
  if not keys:
    ran = any(record['stage'] == 'finetune' for record in metrics)
    _say(
      axes,
      'no sources: transfer is off'
      if ran
      else 'no similarities yet: the finetune stage has not run',
    )
    return
  handles = []
  for index, (key, name) in enumerate(_short_names(keys).items()):
    steps, values = _thin(*series(metrics, 'finetune', key))
    handles += axes.plot(
        steps, values, color=_COLORS[index % len(_COLORS)], linewidth=1.6,
        linestyle='-' if index < len(_COLORS) else '--',
        marker='o' if len(steps) < 3 else None, markersize=4, label=name,
    )  # fmt: skip
  axes.axhline(1 / len(keys), color=_INK, linestyle=':', linewidth=1)
  axes.annotate(
      'uniform', (1, 1 / len(keys)), (-4, 3), color=_INK, fontsize=8,
      xycoords=('axes fraction', 'data'), textcoords='offset points',
      ha='right',
  )  # fmt: skip
  axes.set_ylim(bottom=0)
  _legend(axes, handles)


def _short_names(keys):
  """{key: task}, without the suite's name where all are of one suite."""
  names = {key: key.removeprefix('similarity/') for key in keys}
  suites = {name.split('_')[0] for name in names.values()}
  if len(suites) == 1:
    prefix = f'{suites.pop()}_'
    names = {key: name.removeprefix(prefix) for key, name in names.items()}
  return names


def _draw_strip(axes, workdir):
  strips = sorted(
    workdir.glob('strips/*.png'),
    key=lambda path: (path.name.startswith('finetune'), path.name),
  )
  axes.spines[:].set_visible(False)
  title = 'Open-loop prediction'
  if strips:
    title += f' ({strips[-1].stem.split("-")[0]})'
  axes.set_title(title, loc='left', color=_INK, fontweight='bold')
  if not strips:
    _say(axes, 'no prediction has been made yet')
    return
  with Image.open(strips[-1]) as image:
    pixels = np.asarray(image.convert('RGB'))
  axes.imshow(pixels, interpolation='nearest')
  rows = ('truth', 'model', 'error')
  axes.set_yticks((np.arange(3) + 0.5) / 3 * len(pixels) - 0.5, rows)
  axes.set_xticks([])
  axes.tick_params(length=0, labelcolor=_INK, labelsize=10)
  axes.set_xlabel(
    'time, first with the frames as context, then from the actions alone',
    color=_INK,
  )


def _dress(axes, title, xlabel, ylabel):
  axes.set_title(title, loc='left', color=_INK, fontweight='bold')
  axes.set_xlabel(xlabel, color=_INK)
  axes.set_ylabel(ylabel, color=_INK)
  axes.tick_params(colors=_INK, length=3, which='both', labelsize=9)
  axes.grid(True, color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=''))
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(7))
  for name, spine in axes.spines.items():
    spine.set_visible(name in ('left', 'bottom'))
    spine.set(color=_FAINT, linewidth=0.8)


def _legend(axes, handles):
  widest = max(len(handle.get_label()) for handle in handles)
  rows = math.ceil(len(handles) / max(1, 95 // (widest + 7)))
  axes.legend(
      handles=handles, loc='upper center', bbox_to_anchor=(0.5, -0.2),
      ncols=math.ceil(len(handles) / rows), frameon=False, fontsize=9,
      labelcolor=_INK, handlelength=1.4,
  )  # fmt: skip


def _say(axes, text):
  axes.text(
      0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center',
      color=_FAINT, fontsize=11, style='italic',
  )  # fmt: skip
  axes.set(xticks=[], yticks=[], xlabel='', ylabel='')


def _thin(steps, values):
  """Means of equal runs of points, where there are more than can be seen."""
  runs = -(-len(steps) // _POINTS)
  if runs < 2:
    return steps, values
  cuts = np.arange(0, len(steps), runs)
  counts = np.diff([*cuts, len(steps)])
  return (
    np.add.reduceat(steps, cuts) / counts,
    np.add.reduceat(values, cuts) / counts,
  )


def main():
  """Draws the page of the run named on the command line again."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdir', type=pathlib.Path)
  workdir = parser.parse_args().workdir
  try:
    print(write_summary(workdir, _title(workdir)))
  except types.UserError as error:
    sys.exit(str(error))


def _title(workdir):
  """The task and seed of the run's config where it tells them, and its name."""
  path = workdir / 'config.json'
  config = limits.read_json(path) if path.exists() else {}
  parts = [workdir.resolve().name]
  parts += [f'{key} {config[key]}' for key in ('task', 'seed') if key in config]
  return '  ·  '.join(parts)


if __name__ == '__main__':
  main()
