"""Datasets of other programs: reading theirs and writing ours as theirs."""

import importlib
import os
from collections.abc import Callable

from vid2act_jax.data.formats.core import Options, Source
from vid2act_jax.types import UserError

FORMATS = ('dreamer', 'vd4rl', 'minari', 'lerobot', 'ogbench')
EXPORTS = ('dreamer', 'minari')

__all__ = ['EXPORTS', 'FORMATS', 'Options', 'Source', 'export', 'open_source']


def open_source(format: str, path: str, options: Options) -> Source:
  """Opens a dataset of another program.

  Args:
    format: one of `FORMATS`.
    path: its folder or file; of Minari also the id of a local dataset.
    options: how to read it.

  Raises:
    UserError: the format is not known, its optional package is not installed,
      or there is nothing of this format at the path.
  """
  return _module(format, FORMATS).open_source(path, options)


def export(
  format: str,
  directory: str | os.PathLike,
  destination: str | os.PathLike,
  progress: Callable[[int, int], None],
) -> dict:
  """Writes a dataset folder in another program's format.

  Args:
    format: one of `EXPORTS`.
    directory: the dataset folder.
    destination: the folder to write. For dreamer, what an interrupted export
      left there is completed; for minari, it must be new.
    progress: told (done, total) after each episode.

  Returns:
    episodes: how many are there now; lost: what the format could not hold,
    one text a loss.

  Raises:
    UserError: the format is not known, its optional package is not installed,
      the dataset is damaged, or the destination cannot be written.
  """
  return _module(format, EXPORTS).export(directory, destination, progress)


def _module(format, known):
  if format not in known:
    raise UserError(
      f'{format}: not a format known here; choose one of {", ".join(known)}.'
    )
  return importlib.import_module(f'{__name__}.{format}')
