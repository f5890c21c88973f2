"""Collects the runs of the transfer bench and compares them with DreamerV2.

  python -m benchmarks.transfer_bench runs/bench

Writes benchmarks/results/transfer_bench.json, which holds an entry for each
target, arm and seed of experiments/studies/bench.py, and prints the table of
docs/results.md. An entry of the same target, arm and seed is replaced.
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd

from experiments.studies.bench import ARMS, TARGETS
from vid2act_jax.analysis import statistics
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import read_metrics

RESULTS = pathlib.Path(__file__).parent / 'results' / 'transfer_bench.json'
BASELINE = 'dreamerv2'
_EARLY = 1 / 3  # Of the schedule: the share that the area is taken over.


def entry(workdir: pathlib.Path, target: str, arm: str) -> dict:
  """The entry of one finished run."""
  config = runs.read_config_dict(workdir)
  rows = [m for m in read_metrics(workdir) if m['stage'] == 'finetune']
  points = {m['step']: m['eval/return'] for m in rows if 'eval/return' in m}
  sources = TARGETS[target][1:]
  weights = [
    [m[f'similarity/{source}'] for source in sources]
    for m in rows
    if f'similarity/{sources[0]}' in m
  ]
  start = runs.read_starts(workdir)[-1]
  return {
    'target': target,
    'arm': arm,
    'seed': config['seed'],
    'env_steps': list(points),
    'eval_return': [round(x, 1) for x in points.values()],
    'weights': np.mean(weights, 0).round(4).tolist() if weights else None,
    'seconds': round(rows[-1]['time']),
    'commit': start['commit'],
    'machine': start['machine'],
  }


def collect(folder: pathlib.Path) -> list[dict]:
  """The entries of the finished runs in the folder of a study."""
  out = []
  for target in TARGETS:
    for arm in ARMS:
      for workdir in sorted(folder.glob(f'{target}_{arm}-*')):
        if Checkpoint(workdir / runs.STUDENT).finished():
          out.append(entry(workdir, target, arm))
  return out


def curve(item: dict) -> pd.Series:
  """The evaluation returns of an entry, by env step."""
  return pd.Series(item['eval_return'], item['env_steps'])


def scores(entries: list[dict]) -> pd.DataFrame:
  """The scores of each run: `early`, an area, and `final`."""
  table = pd.DataFrame(entries)
  last = min(e['env_steps'][-1] for e in entries)
  curves = [curve(e) for e in entries]
  first = [c.index[0] for c in curves]
  table['early'] = [
    statistics.area(c, low, max(low, _EARLY * last))
    for c, low in zip(curves, first, strict=True)
  ]
  table['final'] = [statistics.final_score(c, last) for c in curves]
  return table


def compare(table: pd.DataFrame, arm: str, key: str) -> str:
  """Probability that a run of an arm is better than one of the baseline."""
  strata = [[], []]
  for _, runs_of_target in table.groupby('target'):
    pair = [
      runs_of_target[runs_of_target.arm == x][key] for x in (arm, BASELINE)
    ]
    if all(len(x) for x in pair):
      for stratum, values in zip(strata, pair, strict=True):
        stratum.append(values.to_numpy())
  if not strata[0]:
    return ''
  text = f'{statistics.improvement(*strata):.2f}'
  bounds = statistics.improvement_interval(*strata)
  if bounds:
    text += f' [{bounds[0]:.2f}, {bounds[1]:.2f}]'
  return f'{text}, p {statistics.p_value(*strata):.3f}'


def related_first(entries: list[dict]) -> str:
  """In how many runs the related source has the largest mean weight alone."""
  weights = [e['weights'] for e in entries if e['weights']]
  count = sum(first > max(others) for first, *others in weights)
  return f'{count} of {len(weights)}' if weights else ''


def markdown(entries: list[dict]) -> str:
  """The table of the results."""
  table = scores(entries)
  targets = [t for t in TARGETS if t in set(table.target)]
  heads = [f'{t}: early, final' for t in targets]
  lines = [
    '| arm | '
    + ' | '.join(heads)
    + ' | runs | P(better, early) | P(better, final) | related source first |',
    '| --- |' + ' --- |' * (len(heads) + 4),
  ]
  for arm in ARMS:
    own = table[table.arm == arm]
    if own.empty:
      continue
    cells = [arm]
    for target in targets:
      mean = own[own.target == target][['early', 'final']].mean()
      cells.append(
        '' if mean.isna().any() else f'{mean.early:.0f}, {mean.final:.0f}'
      )
    cells.append(str(len(own)))
    baseline = arm == BASELINE
    cells += [
      '' if baseline else compare(table, arm, k) for k in ('early', 'final')
    ]
    cells.append(related_first([e for e in entries if e['arm'] == arm]))
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main(argv=None):
  """Updates the results, and prints the table."""
  folders = (sys.argv[1:] if argv is None else argv) or []
  name = lambda e: (e['target'], e['arm'], e['seed'])
  found = [e for folder in folders for e in collect(pathlib.Path(folder))]
  before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
  entries = list({name(e): e for e in (*before, *found)}.values())
  if not entries:
    raise SystemExit('error: no finished runs; name the folder of a study')
  if found:
    lines = ',\n'.join(json.dumps(e) for e in entries)
    RESULTS.write_text(f'[\n{lines}\n]\n')
  print(markdown(entries))


if __name__ == '__main__':
  main()
