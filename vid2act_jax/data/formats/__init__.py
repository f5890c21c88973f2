"""Import and export of other programs' dataset formats."""

import importlib
import os
from collections.abc import Callable

from vid2act_jax.data.formats.core import Options, Source, make_options
from vid2act_jax.data.formats.recognise import explain, recognise
from vid2act_jax.types import UserError

FORMATS = ('dreamer', 'vd4rl', 'minari', 'lerobot', 'ogbench', 'rlds')
EXPORTS = ('dreamer', 'minari')

__all__ = [
  'EXPORTS',
  'FORMATS',
  'Options',
  'Source',
  'explain',
  'export',
  'make_options',
  'open_source',
  'recognise',
]


def open_source(format: str, path: str, options: Options) -> Source:
  """Opens a dataset of another program.

  Args:
    format: one of `FORMATS`; see also `recognise`.
    path: folder or file of the dataset; for Minari also a local dataset id.
    options: how to read it.

  Raises:
    UserError: the format is not supported, its optional package is not
      installed, or the path holds no dataset of this format.
  """
  module = _module(format, FORMATS)
  try:
    return module.open_source(path, options)
  except UserError as error:
    raise explain(format, path, error) from error


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
    destination: the folder to write. For dreamer, an interrupted export is
      completed; for minari, the folder must be new.
    progress: called with (done, total) after each episode.

  Returns:
    episodes: number of exported episodes; lost: one message for everything
    that the format cannot hold.

  Raises:
    UserError: the format is not supported, its optional package is not
      installed, the dataset is damaged, or the destination cannot be written.
  """
  return _module(format, EXPORTS).export(directory, destination, progress)


def _module(format, supported):
  if format not in supported:
    raise UserError(
      f'{format}: not a supported format; choose one of {", ".join(supported)}.'
    )
  return importlib.import_module(f'{__name__}.{format}')
