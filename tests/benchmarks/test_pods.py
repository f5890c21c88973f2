"""Programs for pods of TPUs that are not present, read from the compiler.

Nightly, with the extra `tpu`: each program takes some minutes.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Chips, their topology, and the smallest batch that they can split.
PODS = (
  (1, 'v5e:2x2', 16),
  (4, 'v5e:2x2', 16),
  (16, 'v5e:4x4', 16),
  (64, 'v5e:8x8', 64),
  (256, 'v5e:16x16', 256),
)
# Gradients and metrics are summed in so many groups.
COLLECTIVES = {'pretrain': 2, 'finetune': 3}

pytestmark = [
  pytest.mark.nightly,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="pip install 'jax[tpu]'"
  ),
]


def compile_for(*flags):
  """The figures of an update at the learning check's sizes."""
  command = [sys.executable, '-m', 'benchmarks.aot', '--preset']
  command += ['learning_check', '--unroll', '1', *map(str, flags)]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[0])


def collectives(figures):
  """Their counts and bytes, summed over the kinds."""
  counts = {k: v for k, v in figures.items() if k.endswith('/count')}
  sizes = {k: v for k, v in figures.items() if k.endswith('/bytes')}
  return sum(counts.values()), sum(sizes.values())


@pytest.mark.parametrize('stage', COLLECTIVES)
def test_data_parallelism_on_pods(stage):
  sizes, peaks = [], []
  for chips, topology, batch in PODS:
    figures = compile_for(
      '--stage', stage, '--topology', topology, '--chips', chips,
      '--batch', batch,
    )  # fmt: skip
    count, size = collectives(figures)
    assert count == (0 if chips == 1 else COLLECTIVES[stage])
    if chips > 1:
      sizes.append(size)
    peaks.append(figures['peak_bytes'])
  # The same parameters are summed on every pod.
  assert max(sizes) - min(sizes) < 100
  # Up to 16 chips they share the same rows; then each has one.
  assert peaks[:3] == sorted(peaks[:3], reverse=True)
  assert peaks[3:] == pytest.approx([peaks[2]] * 2, rel=0.1)


def test_seeds_need_no_collective():
  """Chips that run seeds have programs of their own."""
  one = compile_for()
  two = compile_for('--seeds', 2)
  assert collectives(one) == collectives(two) == (0, 0)
