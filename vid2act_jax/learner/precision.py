"""The precision of the matrix products of whole steps."""

import contextlib
import functools
from collections.abc import Callable

import jax

PRECISIONS = ('default', 'high', 'highest')


def with_precision(method: Callable) -> Callable:
  """Decorates a method: its products have the object's `precision`.

  Convolutions and gradients, too. It applies while JAX traces the method.
  """

  @functools.wraps(method)
  def call(self, *args, **kwargs):
    scope = contextlib.nullcontext()
    if self.precision != 'default':
      scope = jax.default_matmul_precision(self.precision)
    with scope:
      return method(self, *args, **kwargs)

  return call
