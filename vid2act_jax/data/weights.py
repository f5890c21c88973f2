"""Reads weights of other programs as arrays by name, without running code.

PyTorch saves pickles, which can contain code. They are read by PyTorch with
`weights_only`, which loads only tensors, and only if PyTorch is installed.
"""

import os
import pathlib
import re
import zipfile

import numpy as np

from vid2act_jax.data import files, limits
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError

SUFFIXES = ('.npz', '.safetensors', '.pt', '.pth')

_HINT = 'download or convert it again'
# In older versions, `weights_only` could still run code (CVE-2025-32434).
_MIN_TORCH = (2, 6)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a weights file; safe for untrusted files.

  Args:
    path: of the file, with one of `SUFFIXES`.

  Returns:
    Numeric arrays by name.

  Raises:
    UserError: it is missing, damaged, too large or holds other values, or the
      package that reads it is not installed.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(f'{path}: not a file; pass a weights file.')
  if path.suffix == '.npz':
    weights = files.read_npz(path, hint=_HINT)
  elif path.suffix == '.safetensors':
    weights = _read_safetensors(path)
  else:
    weights = _read_torch(path)
  for name, value in weights.items():
    if value.dtype.kind not in 'biuf':
      raise UserError(
        f'{path}: {name!r} is {value.dtype}, should be numbers; {_HINT}.'
      )
  return weights


def _read_safetensors(path):
  numpy = core.import_optional('safetensors.numpy')
  try:
    size = path.stat().st_size
    limits.check_size(size, size)
    weights = numpy.load_file(path)
    # NumPy has no bfloat16.
    return {
      name: value.astype(np.float32) if value.dtype == 'bfloat16' else value
      for name, value in weights.items()
    }
  except Exception as error:  # safetensors has its own exception types.
    raise UserError(
      f'{path}: damaged, or has dtypes that NumPy does not support '
      f'({type(error).__name__}: {error}); {_HINT} as float32.'
    ) from error


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise UserError(
      _conversion_hint(path, 'PyTorch is not installed')
    ) from error
  version = re.match(r'(\d+)\.(\d+)', torch.__version__)
  if not version or tuple(map(int, version.groups())) < _MIN_TORCH:
    raise UserError(
      _conversion_hint(path, f'PyTorch {torch.__version__} could run its code')
    )
  try:
    # Files of PyTorch before 1.6 are not zip archives; their size is unknown.
    with zipfile.ZipFile(path) as archive:
      claimed = sum(i.file_size for i in files.list_members(archive).values())
    limits.check_size(claimed, path.stat().st_size)
    loaded = torch.load(path, map_location='cpu', weights_only=True)
    tensors = {
      name: value.detach()
      for name, value in loaded.items()
      if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    # A tensor with stride 0 can have any shape.
    claimed = sum(4 * value.numel() for value in tensors.values())
    limits.check_size(claimed, path.stat().st_size)
    weights = {name: value.float().numpy() for name, value in tensors.items()}
  except Exception as error:  # PyTorch raises many types.
    text = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    if text.startswith('UnpicklingError'):  # Its message says how to run it.
      text = 'PyTorch rejects it, because it could run code'
    raise UserError(
      f'{path}: damaged, or not a dict of tensors ({text}); save '
      'the state_dict() of its agent.'
    ) from error
  if not weights:
    raise UserError(
      f'{path}: holds no tensors; save the state_dict() of its agent.'
    )
  return weights


def _conversion_hint(path, reason):
  return (
    f'{path}: {reason}. Convert it with PyTorch {_MIN_TORCH[0]}.'
    f'{_MIN_TORCH[1]} or later, and pass the npz instead:\n'
    f"  weights = torch.load({path.name!r}, 'cpu', weights_only=True)\n"
    '  arrays = {k: v.float().numpy() for k, v in weights.items()}\n'
    f'  numpy.savez({path.stem + ".npz"!r}, **arrays)'
  )
