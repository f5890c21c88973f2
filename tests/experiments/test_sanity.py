"""Sanity checks of the similarity weights and of distillation.

Runs of some minutes each, so they are not run by default:

  bash launch/test.sh -m nightly
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vid2act_jax.loops.logger import read_metrics

pytestmark = pytest.mark.nightly

ROOT = pathlib.Path(__file__).parents[2]
TARGET = 'dmc_cartpole_balance'
OTHER, NOISE = 'dmc_pendulum_swingup', 'probe_noise'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(*sources) -> metrics of the finetuning; without sources, dreamerv2.

  `variant`: with sources, another one; `fields`: of its transfer. `short`: 250
  updates instead of 700.
  """
  root = tmp_path_factory.mktemp('sanity')
  # The flags for quick compilation of the other tests give slow programs.
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}

  def run(*sources, variant='vid2act', short=False, **fields):
    variant = variant if sources else 'dreamerv2'
    name = '+'.join((variant, *sources))
    command = [
      sys.executable, '-m', 'experiments.run',
      '--config=tests/sanity_config.py',
      f'--workdir={root / name}',
      f'--config.source_dir={root / "sources"}',
      f'--config.variant={variant}',
    ]  # fmt: skip
    command += [
      f'--config.learner.transfer.{key}={value}'
      for key, value in fields.items()
    ]
    if short:
      command.append('--config.finetune.env_steps=2400')
    if sources:
      command.append(f'--config.sources={sources}')
    process = subprocess.run(
      command, cwd=ROOT, env=env, capture_output=True, text=True
    )
    output = process.stdout[-2000:] + process.stderr[-2000:]
    assert process.returncode == 0, output
    return read_metrics(root / name, 'finetune')

  return run


def weights(metrics, *sources):
  """Mean similarity of each source over the last third of the updates."""
  rows = [m for m in metrics if f'similarity/{sources[0]}' in m]
  rows = rows[-(len(rows) // 3) :]
  return [np.mean([row[f'similarity/{s}'] for row in rows]) for s in sources]


def errors(metrics):
  """Errors of the open-loop predictions, in the order of the updates."""
  return [m['open_loop/error'] for m in metrics if 'open_loop/error' in m]


def test_the_same_task_has_the_most_weight_and_noise_the_least(run):
  sources = (OTHER, NOISE, TARGET)
  other, noise, same = weights(run(*sources), *sources)
  assert noise < other < same


def test_two_copies_share_their_weight(run):
  copy = f'{TARGET}@copy=1'
  sources = (TARGET, OTHER, copy)
  first, other, second = weights(run(*sources), *sources)
  assert abs(first - second) < 0.2 * (first + second)
  assert other < first + second


@pytest.mark.parametrize(
  'variant, fields',
  [
    ('finetune', {}),
    # With a frozen teacher. There is nothing to weigh in one source.
    ('vid2act_guided', {'weights': 'uniform'}),
    pytest.param(
      'vid2act',
      {},
      marks=pytest.mark.xfail(
        strict=True,
        reason='measured: 0.0041 with and without (docs/results.md)',
      ),
    ),
  ],
)
def test_useful_source_lowers_the_early_prediction_error(run, variant, fields):
  """Open-loop errors over the first 100 updates, by at least a tenth."""
  baseline = errors(run(short=True))
  transfer = errors(run(TARGET, variant=variant, short=True, **fields))
  assert len(baseline) == len(transfer) >= 6
  assert np.mean(transfer[:4]) < 0.9 * np.mean(baseline[:4])
