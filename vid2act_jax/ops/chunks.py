"""Functions over the rows of arrays, a chunk of rows at a time."""

import functools

import jax
import jax.numpy as jnp


def map_chunks(fn, chunk: int, *args):
  """Applies `fn` to [M, ...] arrays, `chunk` rows at a time; 0: all at once.

  On a CPU the layers of one chunk stay in the caches, and peak memory is lower.
  If `chunk` does not divide M, the largest divisor of M below it is used.
  """
  rows = args[0].shape[0]
  if not chunk or chunk >= rows:
    return fn(*args)
  out = jax.lax.map(lambda xs: fn(*xs), split_chunks(chunk, args))
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), out)


def split_chunks(chunk: int, tree):
  """Arrays [M, ...] -> [M / chunk, chunk, ...]; see `map_chunks`."""
  rows = jax.tree.leaves(tree)[0].shape[0]
  chunk = min(chunk, rows) or rows
  chunk = max(c for c in range(1, chunk + 1) if rows % c == 0)
  return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_chunks(fn, chunk: int, params, x, data):
  """Sums `fn(params, x, data)` over its [M] rows, `chunk` rows at a time.

  Like `map_chunks`, but the gradient of a chunk is computed right after its
  value, so no activations are stored. There is no gradient for `data`.

  Args:
    fn: (params, x [m, ...], data [m, ...]) -> [m].
    chunk: rows at a time; 0: all at once.
    params: a tree.
    x: [M, ...].
    data: [M, ...].
  """
  each = map_chunks(lambda x, data: fn(params, x, data), chunk, x, data)
  return each.sum()


def _sum_chunks_forward(fn, chunk, params, x, data):
  grad_fn = jax.value_and_grad(
    lambda params, x, data: fn(params, x, data).sum(), argnums=(0, 1)
  )

  def step(carry, xs):
    value, (params_grad, x_grad) = grad_fn(params, *xs)
    return jax.tree.map(jnp.add, carry, (value, params_grad)), x_grad

  zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
  split = split_chunks(chunk, (x, data))
  (value, params_grad), x_grad = jax.lax.scan(step, zero, split)
  return value, (params_grad, x_grad.reshape(x.shape))


def _sum_chunks_backward(fn, chunk, residuals, cotangent):
  del fn, chunk
  params_grad, x_grad = residuals
  scale = lambda grad: (cotangent * grad).astype(grad.dtype)
  return jax.tree.map(scale, params_grad), scale(x_grad), None


sum_chunks.defvjp(_sum_chunks_forward, _sum_chunks_backward)
