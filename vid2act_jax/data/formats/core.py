"""Interface of the format readers and their common errors."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
from typing import Any, Protocol

import numpy as np

from vid2act_jax.data import dataset, limits
from vid2act_jax.types import UserError

DROPPED_LAST_ACTION = (
  'the last action of each episode, its reward and discount: no frame follows'
)


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read a source; by default its values are not changed."""

  size: int | None = None  # of the resized frames; None: unchanged
  align: str | None = None  # 'led' or 'at'; None: that of the format
  image_key: str | None = None  # which image, if there are several
  flips: tuple[str, ...] = ()  # 'vertical', 'horizontal'
  scale_actions: bool = False  # map the declared bounds to [-1, 1]


class Source(Protocol):
  """Episodes of another program's dataset, read one at a time.

  `metadata` of the source can be written as JSON: 'alignment' ('led' or 'at')
  and 'dropped' (a list of what the schema cannot hold, which may grow while
  reading); if known also 'task', 'action_low' and 'action_high'; 'has_rewards',
  False, if the source has none.
  """

  metadata: dict[str, Any]

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """A short name of an episode, unique in the source."""

  def read(self, index: int) -> dict[str, np.ndarray]:
    """Reads a valid episode; fastest with increasing indices.

    Raises:
      UserError: it is damaged or invalid; the others can still be read.
    """

  def close(self) -> None: ...


def import_optional(package: str):
  """Imports an optional package.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise UserError(
      f'{package}: this format needs the package ({error}); install it with '
      'pip install "vid2act_jax[formats]".'
    ) from error


@contextlib.contextmanager
def wrap_errors(where: str | os.PathLike):
  """Turns every exception caused by damaged data into a UserError.

  The libraries and NumPy raise many exception types on damaged data.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    text = ' '.join(str(error).split())[:300]
    raise UserError(
      f'{where}: damaged or not of this format ({type(error).__name__}: '
      f'{text}); restore or remove it.'
    ) from error


def reject_scaling(options: Options, path: str | os.PathLike) -> None:
  """Rejects --scale-actions for sources that declare no bounds.

  Raises:
    UserError: `options.scale_actions` is set.
  """
  if options.scale_actions:
    raise UserError(
      f'{path}: declares no bounds of its actions; leave --scale-actions out.'
    )


def record_dropped(metadata: dict[str, Any], *items: str) -> None:
  """Records items that the schema cannot hold, each once."""
  dropped = metadata['dropped']
  dropped.extend(i for i in dict.fromkeys(items) if i not in dropped)


def record_no_rewards(metadata: dict[str, Any]) -> None:
  """Records that the source has no rewards: its episodes get zeros."""
  metadata[dataset.REWARDS] = False


def find_folder(path: str, contents: str) -> pathlib.Path:
  """Returns the folder; `contents` names its contents in the error message.

  Raises:
    UserError: there is no such folder.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise UserError(f'{path}: not a folder; pass a folder of {contents}.')
  return folder


def read_json(path: pathlib.Path) -> dict:
  """Reads a JSON object.

  Raises:
    UserError: the file is missing, cannot be read, is too long or holds other
      JSON.
  """
  with wrap_errors(path):
    value = limits.read_json(path)
    if not isinstance(value, dict):
      raise ValueError('should be a JSON object')
    return value
