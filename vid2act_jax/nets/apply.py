"""Calls of modules with explicit parameters."""

from typing import Any

import flax.linen as nn

from vid2act_jax.types import Params


def apply(
  module: nn.Module, params: Params, *args, method: str | None = None
) -> Any:
  """Calls a module that has no state but its parameters.

  Args:
    module: the module.
    params: its parameters.
    *args: of the method.
    method: its name; None for `__call__`.
  """
  return module.apply({'params': params}, *args, method=method)
