"""Messages for errors on the command line."""

import re
from collections.abc import Sequence

from absl import flags

# Exceptions that wrong flags of a config raise.
FLAG_ERRORS = flags.Error, AttributeError, KeyError, TypeError, OSError
# A key and perhaps a suggestion, quoted once for each section.
_NO_KEY = re.compile(
  r"""[\\'"]*(\w+)[\\'"]*(?:\\*n| )?(?:Did you mean "(\w+)".*)?"""
)


def format_flag_error(error: Exception, argv: Sequence[str]) -> str:
  """Returns one line on an error of `FLAG_ERRORS` in these arguments."""
  text = ' '.join(str(error).split()) or type(error).__name__
  if not isinstance(error, AttributeError | KeyError):
    return text
  match = _NO_KEY.fullmatch(text)
  key, suggestion = match.groups() if match else (text, None)
  message = f'the config has no key {key!r}'
  message += f'; did you mean {suggestion!r}?' if suggestion else ''
  for argument in argv:
    if key in argument.split('=')[0].split('.'):
      return f'{argument}: {message}'
  return message
