"""What the formats share: their interface, and what fails in all of them."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
from typing import Any, Protocol

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.types import UserError

LAST_ACTION = (
  'the last action of each episode and what came of it: no frame follows'
)


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read a source; the defaults leave its numbers as they are."""

  # Of the frames, squeezed where they are not square; None: as they are.
  size: int | None = None
  align: str | None = None  # 'led' or 'at'; None: what the format says
  image_key: str | None = None  # which image, where there are several
  flips: tuple[str, ...] = ()  # 'vertical', 'horizontal'
  scale_actions: bool = False  # map the declared bounds to [-1, 1]


class Source(Protocol):
  """Episodes of another program's dataset, read one at a time.

  `about` is what the source tells of itself, as JSON: 'alignment' ('led' or
  'at') and 'dropped' (a list: what the schema cannot hold; it may grow while
  reading); where known 'task', 'action_low' and 'action_high'.
  """

  about: dict[str, Any]

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """A short name of an episode, unique in the source."""

  def read(self, index: int) -> dict[str, np.ndarray]:
    """A valid episode; quickest with increasing indices, some left out.

    Raises:
      UserError: it is damaged or strange; the others can still be read.
    """

  def close(self) -> None: ...


def need(package: str):
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
def guard(where: str | os.PathLike):
  """Turns whatever bytes that are not as they should be raise into UserError.

  Each library that reads them has errors of its own, and damaged numbers fail
  in NumPy in yet other ways; to the user all of them mean one thing.
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


def refuse_scaling(options: Options, path: str | os.PathLike) -> None:
  """For sources that declare no bounds.

  Raises:
    UserError: actions are to be scaled.
  """
  if options.scale_actions:
    raise UserError(
      f'{path}: declares no bounds of its actions; leave --scale-actions out.'
    )


def drop(about: dict[str, Any], *things: str) -> None:
  """Notes what the schema cannot hold, each thing once."""
  dropped = about['dropped']
  dropped.extend(t for t in dict.fromkeys(things) if t not in dropped)


def find_folder(path: str, what: str) -> pathlib.Path:
  """The folder that should hold `what`.

  Raises:
    UserError: there is no such folder.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise UserError(f'{path}: not a folder; give one of {what}.')
  return folder


def read_json(path: pathlib.Path) -> dict:
  """A JSON object.

  Raises:
    UserError: the file is missing, cannot be read, too long or holds
      something else.
  """
  with guard(path):
    value = limits.read_json(path)
    if not isinstance(value, dict):
      raise ValueError('should be a JSON object')
    return value
