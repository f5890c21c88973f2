"""Mistakes on the command line, in words."""

import re
from collections.abc import Sequence

from absl import flags

# What reading the flags of a config raises when a user has erred.
FLAG_ERRORS = flags.Error, AttributeError, KeyError, TypeError, OSError
# A key and perhaps another one in its place, quoted once for each section.
_NO_KEY = re.compile(
  r"""[\\'"]*(\w+)[\\'"]*(?:\\*n| )?(?:Did you mean "(\w+)".*)?"""
)


def format_flag_error(error: Exception, argv: Sequence[str]) -> str:
  """One line about an error of `KINDS` that these arguments led to."""
  text = ' '.join(str(error).split()) or type(error).__name__
  if not isinstance(error, AttributeError | KeyError):
    return text
  found = _NO_KEY.fullmatch(text)
  key, other = found.groups() if found else (text, None)
  told = f'the config has no key {key!r}'
  told += f'; did you mean {other!r}?' if other else ''
  for argument in argv:
    if key in argument.split('=')[0].split('.'):
      return f'{argument}: {told}'
  return told
