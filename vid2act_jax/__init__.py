"""Vid2Act in JAX and Flax."""

import importlib

# Imported on first use: importing the package alone stays cheap.
_LAZY = {'load_policy': 'loops.inference'}
_PACKAGES = ('envs', 'learner')


def __getattr__(name: str):
  if name in _PACKAGES:
    return importlib.import_module(f'{__name__}.{name}')
  if name in _LAZY:
    return getattr(importlib.import_module(f'{__name__}.{_LAZY[name]}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted([*globals(), *_LAZY, *_PACKAGES])
