"""Tests of the padded matrix product."""

import jax
import jax.numpy as jnp
import pytest

from tests import small
from vid2act_jax.ops.matmul import matmul


@pytest.mark.parametrize('outputs', [12, 136, 140])
@pytest.mark.parametrize('inputs', [10, 250])
def test_half_precision_products_are_padded(inputs, outputs):
  x, kernel = small.normal(2, 3, inputs), small.normal(inputs, outputs)
  half = [x.astype('bfloat16') for x in (x, kernel)]

  def both(x, kernel):
    y, vjp_fn = jax.vjp(matmul, x, kernel)
    return y, *vjp_fn(jnp.cos(y))

  for ours, expected in zip(both(*half), both(x, kernel), strict=True):
    assert ours.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    small.assert_norm_close(ours.astype(jnp.float32), expected, 0.05)
  shape = {10: 10, 250: 256}[inputs], {12: 12, 136: 136, 140: 144}[outputs]
  program = str(jax.make_jaxpr(matmul)(*half))
  assert f'bf16[{shape[0]},{shape[1]}]' in program
  assert 'pad' not in str(jax.make_jaxpr(matmul)(x, kernel))
