"""Tests that imports follow the order of the layers."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = 'vid2act_jax'
# A layer may import itself and the layers before it.
_ORDER = (
  'types',
  'rng',
  'config',
  'sharding',
  'ops',
  'nets',
  'losses',
  'learner',
  'data',
  'startup',
  'envs',
  'behaviours',
  'loops',
  'analysis',
  'doctor',
)
# Independent of the learner: programs without one use them.
_NO_LEARNING = {'data', 'envs', 'behaviours'}
_LEARNING = {'ops', 'nets', 'losses', 'learner'}
_MAY_IMPORT_JAX = {'data/prefetch.py', 'behaviours/train.py'}
# Commands: like the experiments, they may import all layers.
_ENTRY_POINTS = {'data/__main__.py'}


def _files():
  return sorted((_ROOT / _PACKAGE).rglob('*.py'))


def _name(path):
  return path.relative_to(_ROOT / _PACKAGE).as_posix()


def _layer(path):
  return _name(path).split('/')[0].removesuffix('.py')


def _imports(path):
  """The dotted names that a file imports, also inside functions."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(), str(path))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parents = path.relative_to(_ROOT).parts[: -node.level]
        base = '.'.join([*parents, *filter(None, [base])])
      names |= {f'{base}.{alias.name}' for alias in node.names}
  return names


def _imported_layers(path):
  return {
    name.split('.')[1]
    for name in _imports(path)
    if name.startswith(f'{_PACKAGE}.')
  }


def test_every_layer_is_in_the_order():
  layers = {_layer(path) for path in _files()} - {'__init__'}
  assert layers and layers <= set(_ORDER)


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_imports_follow_the_order(path):
  layer = _layer(path)
  if layer == '__init__':
    allowed = set()  # Importing the package alone stays cheap.
  elif _name(path) in _ENTRY_POINTS:
    allowed = set(_ORDER)
  else:
    allowed = set(_ORDER[: _ORDER.index(layer) + 1])
  if layer in _NO_LEARNING and _name(path) not in _ENTRY_POINTS:
    allowed -= _LEARNING
  assert _imported_layers(path) <= allowed
  roots = {name.split('.')[0] for name in _imports(path)}
  assert not roots & {'experiments', 'tests', 'benchmarks'}


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_data_and_envs_do_not_import_jax(path):
  if _layer(path) in _NO_LEARNING and _name(path) not in _MAY_IMPORT_JAX:
    roots = {name.split('.')[0] for name in _imports(path)}
    assert not roots & {'jax', 'flax', 'optax', 'chex', 'orbax'}


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_modules_have_docstrings(path):
  assert ast.get_docstring(ast.parse(path.read_text()))


def test_all_forms_of_imports_are_found(tmp_path, monkeypatch):
  monkeypatch.setattr(f'{__name__}._ROOT', tmp_path)
  path = tmp_path / _PACKAGE / 'nets' / 'a.py'
  path.parent.mkdir(parents=True)
  path.write_text(
    'import vid2act_jax.data.replay\n'
    'from vid2act_jax import loops\n'
    'from ..learner import build\n'
    'from .. import envs\n'
    'from . import b\n'
    'def f():\n  from vid2act_jax.analysis import summary\n'
  )
  assert _imported_layers(path) == {
      'data', 'loops', 'learner', 'envs', 'nets', 'analysis'
  }  # fmt: skip


def test_only_networks_know_the_latent_distribution():
  """Another distribution, such as a discrete one, would not touch the learner.

  No other layer reads the shape of the latent, or creates its noise from it:
  `WorldModel.latent_noise`, `initial` and `feat_dim` do.
  """
  found = {
    _name(path)
    for path in _files()
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Attribute) and node.attr == 'stoch'
  }
  assert found == {'nets/rssm.py', 'nets/world_model.py'}
