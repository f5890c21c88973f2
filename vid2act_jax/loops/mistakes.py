"""Mistakes on the command line, in words."""

from collections.abc import Sequence

from absl import flags

# What reading the flags of a config raises when a user has erred.
KINDS = flags.Error, AttributeError, KeyError, TypeError, OSError


def tell(error: Exception, argv: Sequence[str]) -> str:
  """One line about an error of `KINDS` that these arguments led to."""
  text = ' '.join(str(error).split()) or type(error).__name__
  if not isinstance(error, AttributeError | KeyError):
    return text
  key = text.strip('\'"')
  for argument in argv:
    if key in argument.split('=')[0].split('.'):
      return f'{argument}: the config has no key {key!r}'
  return f'the config has no key {key!r}'
