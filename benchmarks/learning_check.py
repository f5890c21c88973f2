"""Adds finished runs of the learning check to the results and plots them.

  python -m benchmarks.learning_check runs/learning_check_dreamerv2 \
    runs/learning_check-0

Writes benchmarks/results/learning_check.json, a list with an entry for each
variant and seed, and learning_check.png. An existing entry of the same variant
and seed is replaced.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np

from vid2act_jax.loops import runs
from vid2act_jax.loops.logger import read_metrics

RESULTS = pathlib.Path(__file__).parent / 'results'
NAME = 'learning_check'
GOAL = 400


def entry(workdir: pathlib.Path) -> dict:
  """The entry of one run."""
  config = runs.read_config_dict(workdir)
  metrics = read_metrics(workdir)
  points = [
    m for m in metrics if m['stage'] == 'finetune' and 'eval/return' in m
  ]
  if not points:
    raise SystemExit(
      f'error: {workdir} has no evaluation of a finetuning; name a run folder'
      ' with one'
    )
  last = {m['stage']: m['time'] for m in metrics}
  randoms = [m['random/return'] for m in metrics if 'random/return' in m]
  start = runs.read_starts(workdir)[-1]
  return {
    'variant': config['variant'],
    'seed': config['seed'],
    'task': config['task'],
    'env_steps': [m['step'] for m in points],
    'eval_return': [round(m['eval/return'], 1) for m in points],
    'eval_std': [round(m['eval/return_std'], 1) for m in points],
    'episodes': int(points[-1]['eval/episodes']),
    # None if generated actions act from the start.
    'random_return': round(float(np.mean(randoms)), 1) if randoms else None,
    'seconds': round(sum(last.values())),
    'command': start['command'],
    'commit': start['commit'],
    'machine': start['machine'],
  }


def plot(entries: list[dict], path: pathlib.Path) -> None:
  """Plots a curve for each run, with the random policy and the goal."""
  figure, axes = plt.subplots(figsize=(7, 4.2), layout='constrained')
  for e in entries:
    label = f'{e["variant"]}, seed {e["seed"]} ({e["seconds"] / 60:.0f} min)'
    mean, std = np.array(e['eval_return']), np.array(e['eval_std'])
    (line,) = axes.plot(e['env_steps'], mean, marker='o', ms=3, label=label)
    axes.fill_between(
      e['env_steps'], mean - std, mean + std, alpha=0.15, color=line.get_color()
    )
  axes.axhline(GOAL, color='0.4', lw=1, ls='--')
  axes.annotate('goal', (0, GOAL), va='bottom', color='0.4')
  randoms = [e['random_return'] for e in entries]
  random_return = np.mean([x for x in randoms if x is not None])
  axes.axhline(random_return, color='0.6', lw=1, ls=':')
  axes.annotate('random actions', (0, random_return), va='bottom', color='0.6')
  axes.set(
    xlabel='environment steps',
    ylabel='evaluation return (mean of 10 episodes)',
    title='cartpole_swingup from pixels, two CPU cores',
    xlim=(0, None),
    ylim=(0, None),
  )
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  figure.savefig(path, dpi=110)


def main(paths: list[str]) -> None:
  """Command line."""
  file = RESULTS / f'{NAME}.json'
  old = json.loads(file.read_text()) if file.exists() else []
  new = [entry(pathlib.Path(p)) for p in paths]
  names = {(e['variant'], e['seed']) for e in new}
  kept = [e for e in old if (e['variant'], e['seed']) not in names]
  entries = kept + new
  RESULTS.mkdir(exist_ok=True)
  file.write_text(json.dumps(entries, indent=1) + '\n')
  plot(entries, RESULTS / f'{NAME}.png')
  for e in new:
    best = max(e['eval_return'])
    print(f'{e["variant"]} seed {e["seed"]}: best {best}, {e["seconds"]} s')


if __name__ == '__main__':
  main(sys.argv[1:])
