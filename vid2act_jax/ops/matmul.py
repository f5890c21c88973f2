"""Matrix products, padded to the alignment of a GPU in half precision."""

import jax
import jax.numpy as jnp

_ALIGN_BYTES = 16  # Rows are padded to a multiple of this,
_MIN_PADDED = 128  # if they have more columns than this.


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[..., I] @ [I, D]; in half precision, zero-padded to a GPU's alignment.

  A GPU's fastest kernels need matrices whose rows are multiples of 16 bytes.
  Rows of 250 features, for example, are not. The zeros cost next to nothing
  where there are many columns.
  """
  width = _ALIGN_BYTES // x.dtype.itemsize
  if x.dtype.itemsize > 2:
    return x @ kernel
  inner, outer = (-size % width * (size > _MIN_PADDED) for size in kernel.shape)
  out = kernel.shape[1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, inner)])
  kernel = jnp.pad(kernel, ((0, inner), (0, outer)))
  return (x @ kernel)[..., :out]
