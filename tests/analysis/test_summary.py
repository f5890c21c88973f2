"""The summary page: drawn from whole runs, half ones and empty ones."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vid2act_jax import types
from vid2act_jax.analysis import drawing, summary
from vid2act_jax.loops import logger


def _run(folder, sources=(), success=False, strip=False):
  with logger.Logger(folder, 'pretrain') as log:
    for step in range(100):
      log.scalars(step, {'train/image_loss': 9.0, 'train/kl': step - 50})
  with logger.Logger(folder, 'finetune') as log:
    log.scalars(0, {'random/return': 40})
    for step in range(1000, 3000, 10):
      log.scalars(step, {'episode/return': step, 'train/image_loss': 2.0})
      log.scalars(step, {f'similarity/{name}': 0.5 for name in sources})
    for step in (1000, 2000):
      values = {'eval/return': step, 'eval/return_std': 5}
      log.scalars(step, {**values, **({'eval/success': 1} if success else {})})
    if strip:
      log.strip('openloop', np.full((192, 256, 3), 200, np.uint8))


def _check_page(path):
  assert path.stat().st_size < 300_000
  with Image.open(path) as image:
    assert image.size == (1200, 960)


@pytest.fixture
def told(monkeypatch):
  """The words that stand in panels with nothing to draw."""
  words = []
  say = drawing.say

  def record(axes, text):
    words.append(text)
    say(axes, text)

  monkeypatch.setattr(drawing, 'say', record)
  return words


def test_whole_run(tmp_path, told):
  _run(tmp_path, ('dmc_walker_walk', 'dmc_hopper_hop'), True, True)
  path = summary.write_summary(tmp_path, 'a run')
  assert path == tmp_path / 'summary.png' and told == []
  _check_page(path)


def test_run_without_sources_says_so(tmp_path, told):
  _run(tmp_path)
  _check_page(summary.write_summary(tmp_path, 'x', tmp_path / 'other.png'))
  assert told == [
    'no sources: transfer is off',
    'no prediction has been made yet',
  ]
  assert not (tmp_path / 'summary.png').exists()


def test_empty_run_says_so_in_every_panel(tmp_path, told):
  _check_page(summary.write_summary(tmp_path, 'nothing'))
  assert len(told) == 5


def test_values_that_are_not_finite_are_left_out(tmp_path):
  with logger.Logger(tmp_path, 'finetune') as log:
    for step, value in ((3, 1.0), (1, float('nan')), (2, 5.0)):
      log.scalars(step, {'eval/return': value})
  metrics = logger.read_metrics(tmp_path)
  steps, values = drawing.series(metrics, 'finetune', 'eval/return')
  assert steps.tolist() == [2, 3] and values.tolist() == [5.0, 1.0]
  summary.write_summary(tmp_path, 'one evaluation without a deviation')


def test_thinning_keeps_the_mean():
  steps, values = np.arange(1001), np.arange(1001.0)
  thin_steps, thin_values = drawing.thin(steps, values)
  assert len(thin_steps) == 334
  np.testing.assert_allclose(thin_values[[0, -1]], [1.0, 999.5])
  np.testing.assert_allclose(thin_steps, thin_values)


def test_suite_is_left_out_of_labels_where_it_is_the_same():
  short = drawing.short_names(['similarity/dmc_a_b', 'similarity/dmc_c_d'])
  assert list(short.values()) == ['a_b', 'c_d']
  mixed = drawing.short_names(['similarity/dmc_a_b', 'similarity/metaworld_c'])
  assert list(mixed.values()) == ['dmc_a_b', 'metaworld_c']


def test_missing_folder_is_named(tmp_path):
  with pytest.raises(types.UserError, match='absent'):
    summary.write_summary(tmp_path / 'absent', 'x')


def test_command_line(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps({'task': 't', 'seed': 1}))
  command = [sys.executable, '-m', 'vid2act_jax.analysis', 'summary']
  done = subprocess.run(
    [*command, str(tmp_path)], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == str(tmp_path / 'summary.png')
  failed = subprocess.run(
    [*command, str(tmp_path / 'absent')], capture_output=True, text=True
  )
  assert failed.returncode == 1
  assert len(failed.stderr.splitlines()) == 1 and 'absent' in failed.stderr
