"""The features of RLDS steps, from `features.json` as TFDS writes it."""

import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.data.formats import checks
from vid2act_jax.types import UserError

_DEPTH = 20  # Of nested dictionaries of features.
_NUMBERS = {'bool', 'float16', 'float32', 'float64'} | {
  f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64)
}


class Feature(NamedTuple):
  """One array of the steps.

  kind: 'image' (encoded frames), 'tensor' (numbers) or 'other', not read.
  shape: of one step; -1: unknown.
  dtype: its name.
  encoding: of the tensor, 'none', 'bytes' or 'zlib'.
  num_classes: of a label, else 0.
  """

  kind: str
  shape: tuple[int, ...] = ()
  dtype: str = ''
  encoding: str = 'none'
  num_classes: int = 0

  @property
  def is_image(self) -> bool:
    """Whether these are frames: u8, grey or RGB or with transparency."""
    if self.dtype != 'uint8' or len(self.shape) != 3:
      return False
    channels = (1, 3, 4) if self.kind == 'image' else (1, 3)
    return self.kind != 'other' and self.shape[2] in channels

  @property
  def is_numeric(self) -> bool:
    """Whether these are numbers."""
    return self.kind == 'tensor'


def read_steps(
  document: Mapping[str, Any], root: pathlib.Path
) -> dict[str, Feature]:
  """The features of a step by name, such as 'observation/image'.

  Args:
    document: contents of `features.json`.
    root: of the dataset, for error messages.

  Raises:
    UserError: it is of another version, or not of RLDS.
    KeyError, TypeError, ValueError, AttributeError: other contents.
  """
  if 'featuresDict' not in document:
    raise UserError(
      f'{root}: its features.json is of an older version of TFDS, or of '
      'another program; load the dataset with TFDS 4.6 or newer and write it '
      'again.'
    )
  features = document['featuresDict']['features']
  steps = features.get('steps', {})
  if 'sequence' not in steps:
    names = ', '.join(map(repr, list(features)[:20]))
    raise UserError(
      f'{root}: its examples are {names} without steps, and no episodes; pass '
      'a dataset of RLDS.'
    )
  return dict(_walk(steps['sequence']['feature'], '', 0))


def decode(feature: Feature, values: Any) -> np.ndarray:
  """Decodes the values of a tensor in all steps, [T, ...].

  Args:
    feature: which is numeric, or frames.
    values: from `tfrecord.parse_example`.

  Raises:
    ValueError, TypeError, zlib.error: they do not fit the feature.
  """
  if values is None:
    raise ValueError('a feature is empty')
  dtype = np.dtype(feature.dtype)
  if feature.encoding not in ('bytes', 'zlib'):
    values = np.asarray(values).reshape(-1, *feature.shape)
    # TFRecord has no smaller integers than int64.
    converted = values.astype(dtype) if dtype.kind in 'biu' else values
    if converted.dtype != values.dtype and (converted != values).any():
      raise ValueError(f'a feature has values that are not {dtype}')
    return converted
  if min(feature.shape, default=0) < 0:
    raise ValueError('a feature has an unknown shape')
  size = math.prod(feature.shape) * dtype.itemsize
  limits.check_size(len(values) * size, sum(map(len, values)))
  rows = []
  for data in values:
    if feature.encoding == 'zlib':
      data = zlib.decompressobj().decompress(data, size + 1)
    rows.append(np.frombuffer(data, dtype).reshape(feature.shape))
  return np.stack(rows)


def decode_image(data: bytes, where: str) -> np.ndarray:
  """Decodes a frame, u8 [H, W, 3].

  Raises:
    UserError: it is no picture, such as depths.
    OSError, ValueError: it is damaged or too large.
  """
  with checks.open_image(data, ('PNG', 'JPEG')) as image:
    return checks.to_rgb(image, where)


def _walk(node, prefix, depth):
  """Yields the name and the feature of each leaf."""
  if depth > _DEPTH:
    raise ValueError('the features are nested too deeply')
  if 'featuresDict' in node:
    for name, child in node['featuresDict']['features'].items():
      yield from _walk(child, f'{prefix}/{name}' if prefix else name, depth + 1)
    return
  yield prefix, _to_feature(node)


def _to_feature(node):
  if 'classLabel' in node:
    count = int(node['classLabel'].get('numClasses', 0))
    return Feature('tensor', (), 'int64', num_classes=count)
  if 'image' in node:
    image = node['image']
    return Feature('image', _shape(image), image.get('dtype') or 'uint8')
  if 'tensor' in node:
    tensor = node['tensor']
    return Feature(
      'tensor' if tensor['dtype'] in _NUMBERS else 'other',
      _shape(tensor),
      tensor['dtype'],
      tensor.get('encoding') or 'none',
    )
  return Feature('other')


def _shape(node):
  dimensions = node.get('shape', {}).get('dimensions', [])
  return tuple(int(n) for n in dimensions)
