"""The activation function of all networks except the action VAE."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def elu(x: jax.Array) -> jax.Array:
  """ELU; its gradient is computed from the output, so only that is stored.

  Without conditions: a TPU would compute and store them on their own.
  """
  return jnp.maximum(x, 0) + jnp.expm1(jnp.minimum(x, 0))


def _forward(x):
  y = elu(x)
  return y, y


def _backward(y, grad):
  return (grad * (jnp.minimum(y, 0) + 1),)


elu.defvjp(_forward, _backward)
