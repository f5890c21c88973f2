"""Weights of other programs: arrays by name, and nothing that runs.

What PyTorch saves is a pickle, which is a program. It is read by PyTorch alone,
which refuses all of it but tensors, and only where PyTorch is installed.
"""

import os
import pathlib
import re
import zipfile

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError

ENDINGS = ('.npz', '.safetensors', '.pt', '.pth')

_AGAIN = 'get it again, or convert it anew'
# Before, what it let pass could run code all the same (CVE-2025-32434).
_SAFE_TORCH = (2, 6)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a file of weights, whoever made it.

  Args:
    path: of the file, which ends in one of `ENDINGS`.

  Returns:
    Arrays of numbers by name.

  Raises:
    UserError: it is missing, damaged, too large or holds anything else, or
      what it is read with is not installed.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(f'{path}: not a file; give one of weights.')
  if path.suffix == '.npz':
    weights = files.read_npz(path, way_out=_AGAIN)
  elif path.suffix == '.safetensors':
    weights = _read_safetensors(path)
  else:
    weights = _read_torch(path)
  for name, value in weights.items():
    if value.dtype.kind not in 'biuf':
      raise UserError(
        f'{path}: {name!r} is {value.dtype}, should be numbers; {_AGAIN}.'
      )
  return weights


def _read_safetensors(path):
  numpy = core.need('safetensors.numpy')
  try:
    size = path.stat().st_size
    limits.check_size(size, size)
    weights = numpy.load_file(path)
    # Of no type of NumPy's own, but numbers.
    return {
      name: value.astype(np.float32) if value.dtype == 'bfloat16' else value
      for name, value in weights.items()
    }
  except Exception as error:  # It has its own, and others for strange types.
    raise UserError(
      f'{path}: damaged, or not safetensors of types that NumPy has '
      f'({type(error).__name__}: {error}); {_AGAIN} to float32.'
    ) from error


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise UserError(
      _how_to_convert(path, 'PyTorch is not installed')
    ) from error
  version = re.match(r'(\d+)\.(\d+)', torch.__version__)
  if not version or tuple(map(int, version.groups())) < _SAFE_TORCH:
    raise UserError(
      _how_to_convert(path, f'PyTorch {torch.__version__} may run its code')
    )
  try:
    # Before PyTorch 1.6 they were no archives: nothing tells what those take.
    with zipfile.ZipFile(path) as archive:
      claimed = sum(i.file_size for i in files.list_members(archive).values())
    limits.check_size(claimed, path.stat().st_size)
    loaded = torch.load(path, map_location='cpu', weights_only=True)
    tensors = {
      name: value.detach()
      for name, value in loaded.items()
      if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    # One number can be spread over any shape.
    claimed = sum(4 * value.numel() for value in tensors.values())
    limits.check_size(claimed, path.stat().st_size)
    weights = {name: value.float().numpy() for name, value in tensors.items()}
  except Exception as error:  # What it refuses shows itself in many kinds.
    text = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    if text.startswith('UnpicklingError'):  # It tells how to run it, too.
      text = 'PyTorch refuses it, for it could run code'
    raise UserError(
      f'{path}: damaged, or holds other than tensors by name ({text}); save '
      'the state_dict() of its agent.'
    ) from error
  if not weights:
    raise UserError(
      f'{path}: holds no tensors by name; save the state_dict() of its agent.'
    )
  return weights


def _how_to_convert(path, why):
  return (
    f'{path}: {why} here. Convert it where PyTorch {_SAFE_TORCH[0]}.'
    f'{_SAFE_TORCH[1]} or later is, and give what comes of it:\n'
    f"  weights = torch.load({path.name!r}, 'cpu', weights_only=True)\n"
    '  arrays = {k: v.float().numpy() for k, v in weights.items()}\n'
    f'  numpy.savez({path.stem + ".npz"!r}, **arrays)'
  )
