"""The element-wise part of the GRU, with a gradient that stores little.

Automatic differentiation stores about ten float32 arrays of the layer norm and
of the gates for every step. In imagination, writing and reading these takes
longer than the products. So only the pre-activations and their statistics are
stored, and the rest is computed again.
"""

import jax
import jax.numpy as jnp

_EPSILON = 1e-5


@jax.custom_vjp
def gru_update(
  y: jax.Array, h: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
  """Layer norm of the pre-activations, the gates, and the next state.

  Args:
    y: [..., 3 D] of any dtype: reset gate, candidate, update gate.
    h: f32 [..., D], the state before.
    scale: f32 [3 D], of the layer norm.
    bias: f32 [3 D].

  Returns:
    The next state, f32 [..., D].
  """
  return _forward(y, h, scale, bias)[0]


def _forward(y, h, scale, bias):
  x = y.astype(jnp.float32)
  mean = x.mean(-1, keepdims=True)
  variance = jnp.square(x - mean).mean(-1, keepdims=True)
  factor = jax.lax.rsqrt(variance + _EPSILON)
  reset, candidate, update = _gates(x, mean, factor, scale, bias)
  candidate = jnp.tanh(reset * candidate)
  out = update * candidate + (1 - update) * h
  return out, (y, mean, factor, h, scale, bias)


def _gates(x, mean, factor, scale, bias):
  """The reset gate, the candidate before it, and the update gate."""
  x = (x - mean) * (factor * scale) + bias
  reset, candidate, update = jnp.split(x, 3, -1)
  return jax.nn.sigmoid(reset), candidate, jax.nn.sigmoid(update - 1)


def _backward(residuals, grad):
  y, mean, factor, h, scale, bias = residuals
  x = y.astype(jnp.float32)
  reset, candidate, update = _gates(x, mean, factor, scale, bias)
  new = jnp.tanh(reset * candidate)
  new_grad = grad * update * (1 - new * new)
  gates_grad = jnp.concatenate(
    [
      new_grad * candidate * reset * (1 - reset),
      new_grad * reset,
      grad * (new - h) * update * (1 - update),
    ],
    -1,
  )
  x = (x - mean) * factor
  scale_grad = (gates_grad * x).sum(range(x.ndim - 1))
  bias_grad = gates_grad.sum(range(x.ndim - 1))
  x_grad = gates_grad * scale
  along = (x_grad * x).mean(-1, keepdims=True)
  x_grad = factor * (x_grad - x_grad.mean(-1, keepdims=True) - along * x)
  return x_grad.astype(y.dtype), grad * (1 - update), scale_grad, bias_grad


gru_update.defvjp(_forward, _backward)
