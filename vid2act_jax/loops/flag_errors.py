"""Reads the config of a command line; errors for users in place of tracebacks.

For `experiments.run` and for programs that read its arguments.
"""

import difflib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from vid2act_jax import config as config_lib
from vid2act_jax.loops import config_keys
from vid2act_jax.types import Problems, UserError

_CONFIG = 'config'
_MODULE = f'{_CONFIG}_config'  # Of ml_collections, for the file.
_NO_CONFIG = '__init__.py', 'run.py'
_NUM_MATCHES = 3


def load_config(
  parse: Callable[[list[str]], object],
  read: Callable[[], object],
  argv: Sequence[str],
) -> ConfigDict:
  """Parses flags, and returns the config that they name.

  Of a flag that is given twice, the last one counts, also for tuples.

  Args:
    parse: parses an argv; defines and sets the flags of the config.
    read: returns the value of the config's flag.
    argv: the program, and its arguments.

  Raises:
    UserError: a flag, a key or a value is not valid, or the config file is
      missing or damaged, or does not return a config.
  """
  argv = last_values(argv)
  path = _config_file(argv)
  # It would keep the names of the last file that was loaded.
  sys.modules.pop(_MODULE, None)
  try:
    parse(argv)
    config = read()
    getattr(config, 'name', None)  # Raises what loading the file has raised.
  except UserError:
    raise
  except Exception as error:  # The file may raise anything.
    raise _explain(error, path, argv) from error
  _check_keys(config, path)
  return config


def last_values(argv: Sequence[str]) -> list[str]:
  """Removes all but the last of equal flags of the config.

  absl would join the values of a tuple.

  Args:
    argv: the program, and its arguments.
  """
  groups = list(_group(argv[1:]))
  last = {key: group for key, group in groups if key}
  out, seen = [argv[0]], set()
  for key, group in groups:
    if not key:
      out += group
    elif key not in seen:  # At its first place: the file before its keys.
      out += last[key]
      seen.add(key)
  return out


def _group(arguments) -> Iterator[tuple[str, list[str]]]:
  """Yields (key of the config or '', the arguments that belong together)."""
  rest = list(arguments)
  while rest:
    first, key = rest[0], _key(rest[0])
    if first == '--':
      yield '', rest
      return
    has_value = len(rest) > 1 and not rest[1].startswith('--')
    num = 2 if key and '=' not in first and has_value else 1
    yield key, rest[:num]
    rest = rest[num:]


def _key(argument):
  """'config' or 'config.KEY' of such a flag, else ''."""
  name = argument.split('=')[0].lstrip('-')
  is_key = name == _CONFIG or name.startswith(f'{_CONFIG}.')
  return name if argument.startswith('-') and is_key else ''


def _config_file(argv):
  """The file that the flags name, or None.

  Raises:
    UserError: there is no such file.
  """
  values = {key: group for key, group in _group(argv[1:]) if key}
  if _CONFIG not in values:
    return None
  argument = values[_CONFIG]
  text = argument[1] if len(argument) > 1 else argument[0].partition('=')[2]
  # What follows a colon is an argument of get_config.
  path = pathlib.Path(text.partition(':')[0])
  if not text:
    raise UserError('--config is empty: name an experiment file')
  if path.is_dir():
    raise UserError(
      f'--config={text}: a folder; name one of the files in it,'
      f' {_names(path.glob("*.py")) or "it has none"}'
    )
  if not path.exists():
    folders = path.parent, pathlib.Path('experiments')
    known = {str(x) for folder in folders for x in folder.glob('*.py')}
    known = [x for x in sorted(known) if pathlib.Path(x).name not in _NO_CONFIG]
    matches = difflib.get_close_matches(str(path), known, _NUM_MATCHES)
    hint = f'did you mean {" or ".join(matches)}?' if matches else ''
    raise UserError(
      f'--config={text}: no such file; {hint or "name an experiment file"}'
    )
  return path


def _names(paths):
  return ', '.join(sorted(x.name for x in paths if x.name not in _NO_CONFIG))


def _explain(error, path, argv) -> UserError:
  """The error of parsing these arguments, for users."""
  if path and (text := explain_file(error, path)):
    return UserError(text)
  if unknown := _unknown_keys(argv):
    return UserError(*unknown)
  if path is None:
    return UserError('--config is missing: name an experiment file')
  return UserError(' '.join(str(error).split()) or type(error).__name__)


def explain_file(error: BaseException, path: pathlib.Path) -> str:
  """Describes an error that a user's Python file has raised; '' for others.

  Args:
    error: from loading or using the file.
    path: of the file.
  """
  text = ' '.join(str(error).split())
  if 'NoneType' in text:
    return f'{path}: get_config() returns None, should return the config'
  if 'Failed loading config file' in text:
    # A file that it reads is missing; its own was found.
    return f'{path}:{text.rpartition(str(path))[2]}; correct the file'
  chain, cause = [], error
  while cause is not None:
    chain.append(cause)
    cause = cause.__cause__ or cause.__context__
  for cause in chain:
    text = ' '.join(str(cause).split())
    if isinstance(cause, AttributeError) and "'get_config'" in text:
      return (
        f'{path}: it has no get_config(), which returns the config; see'
        ' experiments/debug.py'
      )
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(cause.__traceback__)
      if os.path.abspath(frame.filename) == os.path.abspath(path)
    ]
    if isinstance(cause, SyntaxError) and cause.filename == str(path):
      lines, text = [cause.lineno], cause.msg
    if lines:
      kind = type(cause).__name__
      return f'{path}, line {lines[-1]}: {kind}: {text}; correct the file'
  return ''


def _unknown_keys(argv) -> list[str]:
  """Describes the keys in the arguments that no config has."""
  known = _known_keys()
  problems = Problems()
  for argument in argv[1:]:
    name = argument.split('=')[0].lstrip('-').removeprefix('no')
    key = name.removeprefix(f'{_CONFIG}.')
    if argument.startswith('-') and key != name and key not in known:
      problems.add(f'{argument}: the config has no key {key!r}{_hint(key)}')
  return problems


def _known_keys() -> list[str]:
  """The dotted names of all keys and sections."""
  leaves = config_keys.leaves(config_lib.get_config().to_dict())
  sections = (key.rpartition('.')[0] for key in leaves)
  return [*leaves, *dict.fromkeys(filter(None, sections))]


def _hint(key) -> str:
  """Names the keys that are most similar."""
  known = _known_keys()
  last = lambda name: name.rpartition('.')[2]
  matches = [name for name in known if last(name) == last(key)]
  matches += difflib.get_close_matches(key, known, _NUM_MATCHES)
  similar = difflib.get_close_matches(last(key), map(last, known), 1, 0.7)
  matches += [name for name in known if last(name) in similar]
  names = [f'config.{x}' for x in dict.fromkeys(matches)][:_NUM_MATCHES]
  if names:
    return f'; did you mean {" or ".join(names)}?'
  return '; --print_config lists all'


def _check_keys(config, path):
  """Raises a UserError unless the file has returned a config with all keys."""
  if path is None:
    raise UserError('--config is missing: name an experiment file')
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'{path}: get_config() returns {type(config).__name__}, should return'
      ' the config'
    )
  known = config_keys.leaves(config_lib.get_config().to_dict())
  found = config_keys.leaves(config.to_dict())
  problems = Problems()
  for key in found:
    if key not in known:
      problems.add(f'{path} sets config.{key}, which no code reads{_hint(key)}')
  missing = [f'config.{key}' for key in known if key not in found]
  if missing:
    problems.add(
      f'{path}: its config lacks {", ".join(missing[:_NUM_MATCHES])}; start'
      ' from the config of experiments/base.py'
    )
  problems.raise_all()
