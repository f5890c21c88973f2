"""Tests of the code's style that ruff does not check."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDERS = 'vid2act_jax', 'experiments', 'launch'
_MAX_PARAMETERS = 8


def _files():
  return sorted(p for name in _FOLDERS for p in (_ROOT / name).rglob('*.py'))


def _name(path):
  return path.relative_to(_ROOT).as_posix()


def _parameters(node):
  """Names of a function's parameters, or of a class's annotated fields."""
  if isinstance(node, ast.ClassDef):
    fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
    return [ast.unparse(field.target) for field in fields]
  args = node.args
  names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
  return [name for name in names if name not in ('self', 'cls')]


def _too_many(text):
  kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
  return {
    node.name: len(_parameters(node))
    for node in ast.walk(ast.parse(text))
    if isinstance(node, kinds) and len(_parameters(node)) > _MAX_PARAMETERS
  }


@pytest.mark.parametrize('path', _files(), ids=_name)
def test_no_more_than_eight_parameters(path):
  """Of functions and of the constructors of dataclasses."""
  assert _too_many(path.read_text()) == {}


def test_functions_and_dataclasses_with_too_many_parameters_are_found():
  names = ', '.join('abcdefghi')
  fields = ''.join(f'  {name}: int = 0\n' for name in 'abcdefghi')
  for text, expected in (
    (f'def f({names}): pass', {'f': 9}),
    (f'def f(a, *, {names[3:]}): pass', {'f': 9}),
    (f'class A:\n  def f(self, {names[3:]}): pass', {}),
    (f'class A:\n{fields}', {'A': 9}),
  ):
    assert _too_many(text) == expected
