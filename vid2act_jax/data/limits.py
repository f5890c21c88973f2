"""How much may be read of files that others made.

A small file can claim to hold any size. What it claims is judged before
anything of it is unpacked, by what it takes on disk.
"""

import json
import os
from typing import Any

# What is read at a time may take this much memory. An episode of a thousand
# frames takes 12 MB with 64 pixels, 800 MB with 512.
MOST_BYTES = 8 << 30
MOST_ROWS = 100_000_000  # Of all the episodes that share a file.

# A deflated bomb unpacks to a thousand times its size. So do rewards and flags
# that are all zeros, and blank frames: up to a GB is therefore not judged.
_MOST_RATIO = 200
_UNSUSPICIOUS = 1 << 30
_MOST_TEXT = 64 << 20  # Bytes: metadata takes kilobytes, a line an episode MB.


def check_size(claimed: int, held: int, most: float = MOST_BYTES) -> None:
  """Tells a file that was made to fill the memory from one that is large.

  Args:
    claimed: bytes that its contents are to take in memory.
    held: bytes that it takes on disk.
    most: that they may take; infinity where it is read by parts.

  Raises:
    ValueError: they are too many, or far more than can come of the file.
  """
  if claimed > min(most, max(_UNSUSPICIOUS, _MOST_RATIO * held)):
    raise ValueError(
      f'its {held} bytes claim to hold {claimed / 1e9:.3g} GB, too much to read'
    )


def check_rows(count: int) -> None:
  """Refuses more rows than a file of many episodes has.

  Raises:
    ValueError: there are.
  """
  if count > MOST_ROWS:
    raise ValueError(f'it claims to hold {count} rows, too many to read')


def read_text(path: str | os.PathLike) -> str:
  """The text of a file of metadata.

  Raises:
    OSError, ValueError: it cannot be read, is no text, or is too long.
  """
  with open(path, 'rb') as file:
    data = file.read(_MOST_TEXT + 1)
  if len(data) > _MOST_TEXT:
    raise ValueError(f'longer than {_MOST_TEXT >> 20} MB')
  return data.decode()


def parse_json(text: str) -> Any:
  """What a text of JSON says.

  Raises:
    ValueError: it is not JSON, or nested deeper than Python can follow.
  """
  try:
    return json.loads(text)
  except RecursionError as error:
    raise ValueError('nested too deeply') from error


def read_json(path: str | os.PathLike) -> Any:
  """What a file of JSON says.

  Raises:
    OSError, ValueError: as of `read_text` and `parse_json`.
  """
  return parse_json(read_text(path))
