"""The GRU's element-wise part against automatic differentiation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.ops.gru import gru_update


def reference(y, h, scale, bias):
  """The same with Flax's layer norm."""
  norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
  params = {'params': {'scale': scale, 'bias': bias}}
  y = norm.apply(params, y.astype(jnp.float32))
  reset, candidate, update = jnp.split(y, 3, -1)
  candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
  update = nn.sigmoid(update - 1)
  return update * candidate + (1 - update) * h


def sample(dtype=jnp.float32, rows=(3, 4), size=5):
  keys = jax.random.split(jax.random.key(0), 4)
  # Some rows are small, so that the epsilon matters.
  y = jax.random.normal(keys[0], (*rows, 3 * size))
  y = y * jnp.array([1e-3, 0.1, 1.0])[:, None, None]
  return (
    y.astype(dtype),
    jax.random.normal(keys[1], (*rows, size)),
    1 + 0.3 * jax.random.normal(keys[2], (3 * size,)),
    jax.random.normal(keys[3], (3 * size,)),
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_values_and_gradients(dtype):
  arguments = sample(dtype)
  out, vjp_fn = jax.vjp(gru_update, *arguments)
  expected, expected_vjp_fn = jax.vjp(reference, *arguments)
  np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)
  grad = jax.random.normal(jax.random.key(1), out.shape)
  for one, other in zip(vjp_fn(grad), expected_vjp_fn(grad), strict=True):
    assert one.dtype == other.dtype
    tolerance = 1e-5 if one.dtype == jnp.float32 else 2**-8
    scale = float(jnp.abs(other).max())
    np.testing.assert_allclose(
      np.float32(one), np.float32(other), rtol=tolerance, atol=tolerance * scale
    )


def test_stores_little():
  """Of [..., D] arrays only the state; of [..., 3 D] the pre-activations."""
  _, vjp_fn = jax.vjp(gru_update, *sample(jnp.bfloat16))
  sizes = sorted(x.nbytes for x in jax.tree.leaves(vjp_fn) if x.size > 15)
  # Half precision of 3 x 4 x 15 pre-activations, and 3 x 4 x 5 states.
  assert sizes == [3 * 4 * 5 * 4, 3 * 4 * 15 * 2]
