"""Interface of the format readers and their common errors."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from vid2act_jax.data import dataset, limits
from vid2act_jax.types import UserError

DROPPED_LAST_ACTION = (
  'the last action of each episode, its reward and discount: no frame follows'
)


@dataclasses.dataclass(frozen=True)
class Names:
  """Names in the source; None: those of the format. 'A,B' joins two arrays."""

  action_key: str | None = None
  reward_key: str | None = None
  state_key: str | None = None


@dataclasses.dataclass(frozen=True)
class Repairs:
  """What to do with episodes that are else refused, or lose a reward.

  clip_actions: clip to [-1, 1], after scaling.
  keep_last_reward: add the reward of a last action, which no frame follows, to
    that of the last frame.
  count_frames: in LeRobot's videos, where `from_timestamp` contradicts the
    lengths of the episodes.
  """

  clip_actions: bool = False
  keep_last_reward: bool = False
  count_frames: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
  """How to read a source; by default its values are not changed."""

  size: int | None = None  # of the resized frames; None: unchanged
  align: str | None = None  # 'prev' or 'next'; None: that of the format
  image_key: str | None = None  # which image, if there are several
  flips: tuple[str, ...] = ()  # 'vertical', 'horizontal'
  scale_actions: bool = False  # map the declared bounds to [-1, 1]
  discrete_actions: int | None = None  # actions are indices, 0 to this - 1
  names: Names = Names()
  repairs: Repairs = Repairs()

  def __post_init__(self):
    """Raises UserError for numbers out of range."""
    for key in ('size', 'discrete_actions'):
      value = getattr(self, key)
      if value is not None and value < 1:
        raise UserError(
          f'--{key.replace("_", "-")} is {value}: pass a number of at least 1, '
          'or leave it out.'
        )

  def to_dict(self) -> dict[str, Any]:
    """All options by name, those of `names` and `repairs` among them."""
    flat = {**vars(self), **vars(self.names), **vars(self.repairs)}
    return {k: v for k, v in flat.items() if k not in ('names', 'repairs')}


def make_options(**values) -> Options:
  """Options from the names of `Options.to_dict`; the others have defaults.

  Raises:
    TypeError: there is no such option.
  """
  groups = {}
  for key, group in (('names', Names), ('repairs', Repairs)):
    fields = [field.name for field in dataclasses.fields(group)]
    found = {name: values.pop(name) for name in fields if name in values}
    groups[key] = group(**found)
  return Options(**values, **groups)


class Source(Protocol):
  """Episodes of another program's dataset, read one at a time.

  `metadata` of the source can be written as JSON: 'alignment' ('prev' or
  'next') and 'dropped' (a list of what the schema cannot hold, which may grow
  while reading); if known also 'task', 'action_low' and 'action_high'; for
  indices of a Discrete 'num_actions' and 'first_action'; 'has_rewards', False,
  if the source has none; 'counts' and 'warnings', see `notes`.
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


def split_keys(keys: str | None) -> tuple[str, ...]:
  """The names in 'A,B', an option; () for None."""
  return tuple(key.strip() for key in keys.split(',')) if keys else ()


def require_keys(
  named: Mapping[str, str | None],
  known: Iterable[str],
  where: str | os.PathLike,
) -> None:
  """Checks that the source has the arrays that options name.

  Args:
    named: names 'A' or 'A,B' by option, such as `action_key`; None: not given.
    known: names of the source's arrays.
    where: the source, for the error message.

  Raises:
    UserError: the source lacks one.
  """
  known = list(known)
  for option, keys in named.items():
    missing = [key for key in split_keys(keys) if key not in known]
    if missing:
      raise UserError(
        f'{where}: has no {", ".join(map(repr, missing))}; it has '
        f'{quote(known)}; choose with --{option.replace("_", "-")}.'
      )


def quote(names: Iterable[str], limit: int = 40) -> str:
  """Names for a message; a file may have any number."""
  listed = [repr(str(name)) for name in names]
  more = f' and {len(listed) - limit} more' if len(listed) > limit else ''
  return ', '.join(listed[:limit]) + more or 'nothing'


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
