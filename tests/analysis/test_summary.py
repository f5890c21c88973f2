"""The summary page: drawn from whole runs, half ones and empty ones."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import quickstart
from vid2act_jax import types
from vid2act_jax.analysis import load_runs, reference, style, summary
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
      log.strip(0, 'openloop', np.full((192, 256, 3), 200, np.uint8))


def _check_page(path):
  assert path.stat().st_size < 300_000
  with Image.open(path) as image:
    assert image.size == (1200, 960)


@pytest.fixture
def empty(monkeypatch):
  """The texts in panels with nothing to draw."""
  texts = []
  annotate = style.annotate_empty

  def record(axes, text):
    texts.append(text)
    annotate(axes, text)

  monkeypatch.setattr(style, 'annotate_empty', record)
  return texts


def test_whole_run(tmp_path, empty):
  _run(tmp_path, ('dmc_walker_walk', 'dmc_hopper_hop'), True, True)
  path = summary.write_summary(tmp_path, 'a run')
  assert path == tmp_path / 'summary.png' and empty == []
  _check_page(path)


def test_run_without_sources_says_so(tmp_path, empty):
  _run(tmp_path)
  _check_page(summary.write_summary(tmp_path, 'x', tmp_path / 'other.png'))
  assert empty == [
    'no sources: transfer is off',
    'no prediction has been made yet',
  ]
  assert not (tmp_path / 'summary.png').exists()


def test_empty_run_says_so_in_every_panel(tmp_path, empty):
  _check_page(summary.write_summary(tmp_path, 'nothing'))
  assert len(empty) == 5


def test_values_that_are_not_finite_are_left_out(tmp_path):
  with logger.Logger(tmp_path, 'finetune') as log:
    for step, value in ((3, 1.0), (1, float('nan')), (2, 5.0)):
      log.scalars(step, {'eval/return': value})
  metrics = load_runs.metric_table(logger.read_metrics(tmp_path))
  found = load_runs.series(metrics, 'finetune', 'eval/return')
  assert found.index.tolist() == [2, 3] and found.tolist() == [5.0, 1.0]
  summary.write_summary(tmp_path, 'one evaluation without a deviation')


def test_thinning_keeps_the_mean():
  thin = style.thin(pd.Series(np.arange(1001.0), np.arange(1001)))
  assert len(thin) == 334
  np.testing.assert_allclose(thin.iloc[[0, -1]], [1.0, 999.5])
  np.testing.assert_allclose(thin.index, thin)


def test_suite_is_left_out_of_labels_where_it_is_the_same():
  short = style.short_names(['dmc_a_b', 'dmc_c_d'])
  assert list(short.values()) == ['a_b', 'c_d']
  mixed = style.short_names(['dmc_a_b', 'metaworld_c'])
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


def _config(**changes):
  config = quickstart.get_config()
  config.update(changes)
  return config.to_dict()


class TestReference:
  def test_only_what_a_run_from_scratch_does_counts(self):
    own = reference.digest(_config())
    assert reference.digest(_config(seed=3, variant='vid2act')) == own
    longer = _config()
    longer['finetune']['batch'] += 1
    assert reference.digest(longer) != own

  def test_the_quickstart_has_a_committed_curve(self):
    curve = reference.find(_config())
    assert curve['seeds'] == [0, 1, 2, 3, 4]
    assert curve['env_steps'][-1] == _config()['finetune']['env_steps']

  def test_it_is_drawn_next_to_a_run_with_transfer(self, tmp_path, monkeypatch):
    curve = {
      'label': 'from scratch',
      'digest': reference.digest(_config()),
      'env_steps': [1000, 2000, 3000],
      'median': [1.0, 2.0, 3.0],
      'low': [0.0, 1.0, 2.0],
      'high': [2.0, 3.0, 4.0],
    }
    path = tmp_path / 'reference.json'
    path.write_text(json.dumps([curve]))
    monkeypatch.setattr(reference, 'PATH', path)
    labels = []
    plot = style.plot

    def record(axes, x, y, **look):
      labels.append(look['label'])
      plot(axes, x, y, **look)

    monkeypatch.setattr(style, 'plot', record)
    for variant, shown in (('vid2act', True), ('dreamerv2', False)):
      folder = tmp_path / variant
      _run(folder)
      config = _config(variant=variant)
      (folder / 'config.json').write_text(json.dumps(config))
      labels.clear()
      _check_page(summary.write_summary(folder))
      assert ('from scratch' in labels) == shown
