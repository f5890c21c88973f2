"""Tests of ELU with a gradient from its output."""

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.ops.elu import elu


def test_it_equals_that_of_jax():
  x = jnp.array([-50.0, -2, -1e-3, 0, 1e-3, 2, 50])
  np.testing.assert_array_equal(elu(x), jax.nn.elu(x))
  grads = [jax.grad(lambda x, f=f: f(x).sum())(x) for f in (elu, jax.nn.elu)]
  np.testing.assert_allclose(*grads, rtol=1e-6, atol=1e-7)
