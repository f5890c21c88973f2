"""Size limits for reading untrusted files.

A small file can claim to hold arrays of any size. The claimed size is compared
with the size on disk before anything is unpacked.
"""

import json
import os
from typing import Any

# Memory that one read may take. An episode of 1000 frames takes 12 MB at 64
# pixels, 800 MB at 512.
MAX_BYTES = 8 << 30
MAX_ROWS = 100_000_000  # Of all episodes in one file.

# A zip bomb unpacks to about 1000 times its size. So do rewards and flags that
# are all zeros, and blank frames: up to 1 GB the ratio is not checked.
_MAX_RATIO = 200
_UNCHECKED_BYTES = 1 << 30
# Bytes: metadata takes kilobytes, files with one line per episode megabytes.
_MAX_TEXT = 64 << 20


def check_size(
  claimed: int, on_disk: int, max_bytes: float = MAX_BYTES
) -> None:
  """Rejects files that claim to hold more than their size allows.

  Args:
    claimed: bytes that the contents take in memory, as the file claims.
    on_disk: bytes of the file on disk.
    max_bytes: upper bound on `claimed`; infinity if it is read in parts.

  Raises:
    ValueError: `claimed` is above the bound or out of proportion to `on_disk`.
  """
  if claimed > min(max_bytes, max(_UNCHECKED_BYTES, _MAX_RATIO * on_disk)):
    raise ValueError(
      f'its {on_disk} bytes claim to hold {claimed / 1e9:.3g} GB, too much to '
      'read'
    )


def check_rows(count: int) -> None:
  """Rejects a file with more than `MAX_ROWS` rows.

  Raises:
    ValueError: it has more.
  """
  if count > MAX_ROWS:
    raise ValueError(f'it claims to hold {count} rows, too many to read')


def read_text(path: str | os.PathLike) -> str:
  """Reads a text file of limited size.

  Raises:
    OSError, ValueError: it cannot be read, is not UTF-8, or is too long.
  """
  with open(path, 'rb') as file:
    data = file.read(_MAX_TEXT + 1)
  if len(data) > _MAX_TEXT:
    raise ValueError(f'longer than {_MAX_TEXT >> 20} MB')
  return data.decode()


def parse_json(text: str) -> Any:
  """Parses JSON.

  Raises:
    ValueError: it is not JSON, or nested too deeply.
  """
  try:
    return json.loads(text)
  except RecursionError as error:
    raise ValueError('nested too deeply') from error


def read_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file of limited size.

  Raises:
    OSError, ValueError: see `read_text` and `parse_json`.
  """
  return parse_json(read_text(path))
