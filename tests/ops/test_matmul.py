"""Tests of the padded matrix product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.ops.matmul import matmul


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _close(ours, expected, tolerance=1e-5):
  """Relative by norm."""
  ours, expected = np.asarray(ours), np.asarray(expected)
  assert ours.shape == expected.shape
  error = np.linalg.norm(ours - expected)
  assert error <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize('outputs', [12, 136, 140])
@pytest.mark.parametrize('inputs', [10, 250])
def test_half_precision_products_are_padded(inputs, outputs):
  x, kernel = _normal(2, 3, inputs), _normal(inputs, outputs)
  half = [x.astype('bfloat16') for x in (x, kernel)]

  def both(x, kernel):
    y, vjp_fn = jax.vjp(matmul, x, kernel)
    return y, *vjp_fn(jnp.cos(y))

  for ours, expected in zip(both(*half), both(x, kernel), strict=True):
    assert ours.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    _close(ours.astype(jnp.float32), expected, 0.05)
  shape = {10: 10, 250: 256}[inputs], {12: 12, 136: 136, 140: 144}[outputs]
  program = str(jax.make_jaxpr(matmul)(*half))
  assert f'bf16[{shape[0]},{shape[1]}]' in program
  assert 'pad' not in str(jax.make_jaxpr(matmul)(x, kernel))
