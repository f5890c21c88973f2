"""Tests of functions over chunks of rows, and plain calls of them."""

import jax
import jax.numpy as jnp
import pytest

from tests import small
from vid2act_jax.ops.chunks import map_chunks, sum_chunks


@pytest.mark.parametrize(
  'rows, chunk', [(7, 3), (12, 5), (12, 4), (6, 0), (5, 9)]
)
def test_map_chunks_equals_one_call(rows, chunk):
  x, y = small.normal(rows, 4), small.normal(rows, 2, 3)
  sizes = []

  def fn(x, y):
    sizes.append(x.shape[0])
    return {'sum': x.sum(1), 'product': x[:, :3] * y[:, 1]}

  expected = {'sum': x.sum(1), 'product': x[:, :3] * y[:, 1]}
  ours = map_chunks(fn, chunk, x, y)
  jax.tree.map(small.assert_norm_close, ours, expected)
  assert max(sizes) <= (chunk or rows)


@pytest.mark.parametrize('rows, chunk', [(7, 3), (12, 5), (12, 4), (6, 0)])
def test_sum_chunks_equals_one_sum(rows, chunk):
  params = {'kernel': small.normal(4, 3), 'bias': small.normal(3)}
  x, data = small.normal(rows, 4), small.normal(rows, 3)

  def fn(params, x, data):
    y = jnp.tanh(x @ params['kernel'] + params['bias'])
    return jnp.square(y - data).sum(1)

  ours = lambda params, x: 3 * sum_chunks(fn, chunk, params, x, data)
  plain = lambda params, x: 3 * fn(params, x, data).sum()
  small.assert_norm_close(ours(params, x), plain(params, x))
  run = lambda fn: jax.value_and_grad(fn, (0, 1))(params, x)
  jax.tree.map(small.assert_norm_close, run(ours), run(plain))
