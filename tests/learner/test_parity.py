"""Tests of parity with the public code, by golden files."""

import pathlib

import jax
import numpy as np
import pytest

from tests import check_parity, small

_FILES = sorted((pathlib.Path(__file__).parents[1] / 'golden').glob('*.npz'))


def _assert_good(report):
  lines, good = report.lines()
  assert good, '\n' + '\n'.join(lines)


def test_the_golden_files_exist():
  names = [path.stem for path in _FILES]
  assert {'step_eps0', 'step_eps05', 'three_steps'} <= set(names)


def _mark_all_but(unmarked, mark=pytest.mark.slow):
  """The golden files, all but one of them marked."""
  marks = lambda path: () if path.stem == unmarked else (mark,)
  return [
    pytest.param(path, id=path.stem, marks=marks(path)) for path in _FILES
  ]


# In `three_steps` all clipping, the floor and the slow critic are active.
@pytest.mark.parametrize('path', _mark_all_but('three_steps'))
def test_with_jit(path):
  """All updates, with the default convolutions of this machine."""
  _assert_good(check_parity.check(path, options=small.quick_options()))


@pytest.fixture
def little_optimization():
  """Thousands of small compilations take a fifth less time."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


# They take a minute each.
@pytest.mark.slow
@pytest.mark.usefixtures('little_optimization')
@pytest.mark.parametrize(
  'path', _mark_all_but('step_eps05', pytest.mark.nightly)
)
def test_without_jit(path):
  """One update, operation by operation, configured as on an accelerator."""
  overrides = {'conv': 'native', 'unroll': 10}
  report = check_parity.check(path, jit=False, updates=1, **overrides)
  _assert_good(report)


def test_a_wrong_weight_is_detected(tmp_path):
  """One weight is off by a percent: only groups that depend on it fail."""
  with np.load(_FILES[0], allow_pickle=False) as file:
    golden = {k: file[k] for k in file.files}
  name = 'weight/world_model.heads.reward._mean_layers.4.weight'
  weight = golden[name].copy()
  index = np.unravel_index(np.abs(weight).argmax(), weight.shape)
  weight[index] *= 1.01
  golden[name] = weight
  path = tmp_path / 'wrong.npz'
  np.savez(path, **golden)
  options = small.quick_options()
  report = check_parity.check(path, updates=0, options=options)
  lines, good = report.lines()
  assert not good
  failed = {line.split()[1] for line in lines if line.startswith('FAIL')}
  assert {'reward', 'returns', 'gradients'} <= failed
  passed = {line.split()[1] for line in lines if line.startswith('ok')}
  assert {'embeddings', 'posterior', 'prior', 'decoder', 'similarity'} <= passed


def test_a_report_names_the_worst_array():
  report = check_parity.Report()
  golden = np.array([3.0, 4.0])
  report.add('a group', 'out', 'good', golden * (1 + 1e-6), golden)
  assert report.lines()[1]
  report.add('a group', 'out', 'bad', golden + [0, 0.05], golden)
  (line,), good = report.lines()
  assert not good
  assert line.startswith('FAIL a group') and line.endswith('bad')
  assert 'worst 1.0e-02' in line and '2 arrays' in line


@pytest.mark.parametrize(
  'ours, golden', [([np.nan], [1.0]), ([1e-30], [0.0]), ([np.inf], [1.0])]
)
def test_a_report_fails_for_nonfinite_values_and_wrong_zeros(ours, golden):
  report = check_parity.Report()
  report.add('group', 'out', 'good', [0.0], [0.0])
  assert report.lines()[1]
  report.add('group', 'out', 'bad', ours, golden)
  assert not report.lines()[1]


def test_exit_status(monkeypatch, capsys):
  good, bad = check_parity.Report(), check_parity.Report()
  good.add('group', 'grad', 'array', [1.0], [1.0])
  bad.add('group', 'grad', 'array', [1.0], [2.0])
  reports = {'good.npz': good, 'bad.npz': bad}
  check = lambda path, jit: reports[path.name]
  monkeypatch.setattr(check_parity, 'check', check)
  assert check_parity.main(['good.npz']) == 0
  assert 'NOT' not in capsys.readouterr().out
  assert check_parity.main(['bad.npz', 'good.npz']) == 1
  assert 'FAIL group' in capsys.readouterr().out
