"""Collects the runs of a study of the quickstart, and its curve from scratch.

  python -m experiments.grid --study=experiments/studies/scratch.py \
    --base=experiments/quickstart.py --seeds=5 --jobs=2
  python -m benchmarks.quickstart runs/scratch

Writes benchmarks/results/quickstart.json, and the curve that summaries of the
quickstart show, vid2act_jax/analysis/reference.json.
"""

import json
import pathlib
import sys

import numpy as np

from benchmarks.learning_check import entry
from vid2act_jax.analysis import reference
from vid2act_jax.loops import runs

RESULTS = pathlib.Path(__file__).parent / 'results' / 'quickstart.json'
BASELINE = 'dreamerv2'


def reference_curve(folders: list[pathlib.Path]) -> dict:
  """The curve of runs from scratch, as in `reference.find`."""
  entries = [entry(folder) for folder in folders]
  steps = min((e['env_steps'] for e in entries), key=len)
  returns = np.array([e['eval_return'][: len(steps)] for e in entries])
  digests = {
    reference.digest(runs.read_config_dict(folder)) for folder in folders
  }
  if len(digests) != 1:
    raise SystemExit('error: the runs from scratch have different configs')
  return {
    'label': f'from scratch, median and range of {len(entries)} seeds',
    'digest': digests.pop(),
    'seeds': sorted(e['seed'] for e in entries),
    'env_steps': steps,
    'median': np.median(returns, 0).round(1).tolist(),
    'low': returns.min(0).tolist(),
    'high': returns.max(0).tolist(),
    'commit': entries[0]['commit'],
    'machine': entries[0]['machine'],
  }


def table(entries: list[dict]) -> str:
  """Final returns by variant: median, lowest and highest."""
  random = np.mean(
    [e['random_return'] for e in entries if e['variant'] == BASELINE]
  )
  lines = [f'random actions: {random:.0f}']
  for variant in dict.fromkeys(e['variant'] for e in entries):
    last = [e['eval_return'][-1] for e in entries if e['variant'] == variant]
    seconds = np.median(
      [e['seconds'] for e in entries if e['variant'] == variant]
    )
    lines.append(
      f'{variant}: median {np.median(last):.0f} ({min(last):.0f} to'
      f' {max(last):.0f}), {len(last)} seeds, {seconds:.0f} s'
    )
  return '\n'.join(lines)


def main():
  """Reads the study's folder, writes both files, prints the figures."""
  if len(sys.argv) != 2:
    raise SystemExit(
      'error: name the folder of the study, such as runs/scratch'
    )
  folder = pathlib.Path(sys.argv[1])
  done = sorted(folder.glob(f'*/{runs.STUDENT}/DONE.json'))
  found = [path.parents[1] for path in done]
  entries = [entry(path) for path in found]
  scratch = [
    p for p, e in zip(found, entries, strict=True) if e['variant'] == BASELINE
  ]
  if not scratch:
    raise SystemExit(f'error: {folder} has no finished runs of {BASELINE}')
  RESULTS.write_text(json.dumps(entries, indent=1) + '\n')
  reference.PATH.write_text(
    json.dumps([reference_curve(scratch)], indent=1) + '\n'
  )
  print(table(entries))


if __name__ == '__main__':
  main()
