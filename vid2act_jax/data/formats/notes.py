"""What a user should know about an import, although it succeeded.

`metadata['counts']` of a source holds numbers by name; `metadata['warnings']`
whole sentences.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

NO_ENDS = (
  "episodes have neither 'discount' nor 'is_terminal': none of these ends in a "
  'terminal state'
)
_CONTRAST = 16  # Of 255: grids of symbols have numbers up to about 10.
_CHANGE = 8  # Of 255: the noise of a JPEG.


def count(metadata: dict[str, Any], key: str, number: int = 1) -> None:
  """Adds a number to a count of the source's metadata."""
  counts = metadata.setdefault('counts', {})
  counts[key] = counts.get(key, 0) + int(number)


def warn(metadata: dict[str, Any], text: str) -> None:
  """Adds a sentence to the warnings of the source's metadata, once."""
  texts = metadata.setdefault('warnings', [])
  if text not in texts:
    texts.append(text)


def merge(metadata: dict[str, Any], earlier: Mapping | None) -> None:
  """Adds the notes of an earlier run of the same import."""
  counts, texts = _read(earlier)
  for key, number in counts.items():
    count(metadata, key, number)
  for text in texts:
    warn(metadata, text)


def look_at_frames(metadata: dict[str, Any], image: np.ndarray) -> None:
  """Counts episodes whose frames show next to nothing.

  Args:
    metadata: of the source.
    image: the frames of an episode, u8 [T, H, W, 3].
  """
  count(metadata, 'episodes')
  contrast = np.ptp(image, (1, 2)).max(1)  # Per frame, the largest channel.
  if np.median(contrast) <= _CONTRAST:
    count(metadata, 'plain')
  elif len(image) > 1 and np.ptp(image, 0).max() <= _CHANGE:
    count(metadata, 'still')


def describe(metadata: Mapping | None) -> list[str]:
  """The warnings of a source.

  Args:
    metadata: of the source, or what a dataset says about it: not trusted.
  """
  counts, texts = _read(metadata)
  episodes = counts.get('episodes', 0)
  if number := counts.get('clipped_actions'):
    total = counts.get('actions', 0)
    many = '; that is many: scale the actions instead'
    texts.append(
      f'{number} of {total} values of the actions were clipped to [-1, 1]'
      + (many if number > total / 100 else '')
    )
  if number := counts.get('plain'):
    texts.append(
      f'the frames of {number} of {episodes} episodes are nearly of one colour '
      f'(their values differ by at most {_CONTRAST} of 255): grids of symbols '
      'are no pictures; render the source, or choose another image'
    )
  if number := counts.get('still'):
    texts.append(
      f'the frames of {number} of {episodes} episodes hardly change; it may be '
      'the wrong camera'
    )
  if number := counts.get('last_rewards'):
    texts.append(
      f'the only reward of {number} episodes is in their last row, and lost '
      'because no frame follows; to give it to the last frame, import into '
      'another folder with --keep-last-reward'
    )
  return texts


def _read(metadata):
  """The counts and the warnings; those of other types are left out."""
  if not isinstance(metadata, dict):
    return {}, []
  counts, texts = metadata.get('counts'), metadata.get('warnings')
  counts = counts if isinstance(counts, dict) else {}
  texts = texts if isinstance(texts, list) else []
  return (
    {key: n for key, n in counts.items() if type(n) is int},
    [text for text in texts if isinstance(text, str)],
  )
