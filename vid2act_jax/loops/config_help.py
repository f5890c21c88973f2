"""Explains a config: values, defaults, and the comments of config.py.

The comments are read from the source, their only home. A key's comment stands
above it, or after it on its line; lines below that do not begin with a capital
letter continue it.
"""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator

from vid2act_jax import config as config_lib
from vid2act_jax.learner import variants
from vid2act_jax.loops import config_keys

_WIDTH = 80


def describe(config) -> str:
  """Lists every key with value, meaning and unit.

  Values that differ from the default are marked, and name the default.

  Args:
    config: a resolved ConfigDict.

  Raises:
    UserError: its variant is unknown.
  """
  fields = {
    f'learner.transfer.{name}': value
    for name, value in variants.preset_fields(config.variant).items()
  }
  defaults = config_keys.leaves(config_lib.get_config().to_dict())
  meanings = read_meanings()
  lines = ['* differs from the default', '']
  section = ''
  for key, value in _ordered(config.to_dict(), meanings).items():
    if (own := key.rpartition('.')[0]) != section:
      section = own
      lines += _comment(meanings.get(own, ''), '# ') if own else []
    differs = key in defaults and defaults[key] != value
    line = f'{"*" if differs else " "} config.{key} = {value!r}'
    if differs:
      line += f'  (default: {defaults[key]!r})'
    elif value is None and key in fields:
      line += f'  (config.variant: {fields[key]!r})'
    lines.append(line)
    lines += _comment(meanings.get(key, ''), ' ' * 6)
  return '\n'.join(lines)


def _ordered(tree, meanings):
  """The leaves of a config in the order of config.py."""
  found = config_keys.leaves(tree)
  order = [key for key in meanings if key in found]
  return {key: found[key] for key in dict.fromkeys([*order, *found])}


def _comment(text, indent):
  return [
    line
    for paragraph in text.splitlines()
    for line in textwrap.wrap(
      paragraph, _WIDTH, initial_indent=indent, subsequent_indent=indent
    )
  ]


@functools.cache
def read_meanings() -> dict[str, str]:
  """The comments of config.py by dotted key, also of sections.

  Indented lines, as in a list, remain lines of their own.
  """
  source = inspect.getsource(config_lib)
  module = ast.parse(source)
  comments, alone = {}, set()
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      line, _ = token.start
      comments[line] = token.string.removeprefix('#').removeprefix(' ')
      if token.line.lstrip().startswith('#'):
        alone.add(line)
  definitions = {
    node.name: node for node in module.body if isinstance(node, ast.FunctionDef)
  }
  for node in module.body:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      definitions[node.targets[0].id] = node.value
  reader = _Reader(comments, alone, definitions)
  return dict(reader.read(definitions['get_config'], ''))


class _Reader:
  """Finds the comments of the keys of nested dict displays."""

  def __init__(self, comments, alone, definitions):
    """Takes the parts of the source.

    Args:
      comments: text by line.
      alone: lines that hold nothing but a comment.
      definitions: functions and assigned values of the module, by name.
    """
    self._comments, self._alone = comments, alone
    self._definitions = definitions

  def read(self, node, prefix) -> Iterator[tuple[str, str]]:
    """Yields (dotted key, comment) of a node's dict."""
    table = self._find_dict(node)
    last = table.lineno  # Line of the last comment that has been read.
    for name, value in zip(table.keys, table.values, strict=True):
      key = f'{prefix}{name.value}'
      child = self._find_dict(value)
      is_inline = isinstance(child, ast.Dict) and child is value
      above = self._above(last, name.lineno)
      end = name.lineno if child else value.end_lineno
      after = [self._comments.get(n) for n in range(name.lineno, end + 1)]
      after = [text for text in after if text is not None]
      last = value.end_lineno
      if after and not is_inline:
        last = self._continue(after, value.end_lineno)
      yield key, _join(above + after)
      if child:
        yield from self.read(child, f'{key}.')

  def _above(self, last, line):
    """The last paragraph of comments between two lines."""
    paragraph = []
    for number in range(last + 1, line):
      text = self._comments.get(number) if number in self._alone else None
      if not text:
        paragraph = []
      else:
        paragraph.append(text)
    return paragraph

  def _continue(self, texts, line):
    """Appends the lines that continue a comment; returns the last line."""
    while line + 1 in self._alone:
      text = self._comments[line + 1]
      if not text or text[0].isupper():
        break
      texts.append(text)
      line += 1
    return line

  def _find_dict(self, node):
    """The dict display of a value, of a call or of a function, or None."""
    if isinstance(node, ast.Dict):
      return node
    if isinstance(node, ast.FunctionDef):
      returned = next(x for x in ast.walk(node) if isinstance(x, ast.Return))
      return self._find_dict(returned.value)
    if isinstance(node, ast.Name):
      return self._find_dict(self._definitions.get(node.id))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      if node.func.id in ('dict', 'ConfigDict'):
        return self._find_dict(node.args[0])
      return self._find_dict(self._definitions.get(node.func.id))
    return None


def _join(texts):
  """Joins lines to paragraphs; indented lines begin new ones."""
  out = ''
  for text in texts:
    separator = '\n' if text.startswith('  ') else ' '
    deeper = text.startswith(' ' * 10)  # The next line of an item of a list.
    out += (' ' if deeper else separator) + text.strip()
  return out.strip()
