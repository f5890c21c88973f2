"""The order of the house, read from the imports of its code."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = 'vid2act_jax'
# A part may import itself and those before it.
_ORDER = (
  'types',
  'sharding',
  'nets',
  'losses',
  'learner',
  'data',
  'envs',
  'loops',
  'analysis',
  'doctor',
)
# These stand beside the learner: they serve programs without one.
_NO_LEARNING = {'data', 'envs'}
_LEARNING = {'nets', 'losses', 'learner'}
_MAY_IMPORT_JAX = {'data/prefetch.py'}
# Commands: like the experiments, they stand above all parts.
_ENTRY_POINTS = {'data/__main__.py'}
# It tries what the experiments would do.
_MAY_IMPORT_EXPERIMENTS = {'doctor/update.py'}


def _files():
  return sorted((_ROOT / _PACKAGE).rglob('*.py'))


def _name(path):
  return path.relative_to(_ROOT / _PACKAGE).as_posix()


def _part(path):
  return _name(path).split('/')[0].removesuffix('.py')


def _imports(path):
  """The dotted names a file imports, at its top or within functions."""
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


def _parts_imported(path):
  return {
    name.split('.')[1]
    for name in _imports(path)
    if name.startswith(f'{_PACKAGE}.')
  }


def test_every_part_has_its_place():
  parts = {_part(path) for path in _files()} - {'__init__'}
  assert parts and parts <= set(_ORDER)


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_imports_go_one_way(path):
  part = _part(path)
  if part == '__init__':
    allowed = set()  # Importing the package alone stays cheap.
  elif _name(path) in _ENTRY_POINTS:
    allowed = set(_ORDER)
  else:
    allowed = set(_ORDER[: _ORDER.index(part) + 1])
  if part in _NO_LEARNING and _name(path) not in _ENTRY_POINTS:
    allowed -= _LEARNING
  assert _parts_imported(path) <= allowed
  above = {name.split('.')[0] for name in _imports(path)}
  if _name(path) in _MAY_IMPORT_EXPERIMENTS:
    above -= {'experiments'}
  assert not above & {'experiments', 'tests', 'benchmarks'}


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_data_and_envs_do_without_jax(path):
  if _part(path) in _NO_LEARNING and _name(path) not in _MAY_IMPORT_JAX:
    roots = {name.split('.')[0] for name in _imports(path)}
    assert not roots & {'jax', 'flax', 'optax', 'chex', 'orbax'}


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_modules_have_docstrings(path):
  assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
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
  assert _parts_imported(path) == {
      'data', 'loops', 'learner', 'envs', 'nets', 'analysis'
  }  # fmt: skip
