"""Losses of domain-selective distillation and generative action replay."""

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.types import Normal


def distillation_loss(
  weights: jax.Array,
  mapped: jax.Array,
  other: jax.Array,
  floor: float,
  distance: str = 'mean',
) -> tuple[jax.Array, jax.Array]:
  """Regresses the student's features to those of similar domains.

  Vid2Act (arXiv 2306.03360): the distance to each domain's features is weighted
  by its similarity weight, but at least by a floor, so that every domain keeps
  contributing.

  Args:
    weights: similarity weights [N, B, L], a softmax over N.
    mapped: the features of one side mapped to the other, [N, B, L, F].
    other: those of the other side, [N, B, L, F] or [B, L, F].
    floor: minimum weight of a domain.
    distance: 'mean' or 'sum' of the squared differences over the features.

  Returns:
    The loss, and the distances [N, B, L].
  """
  squared = jnp.square(mapped - other)
  distances = squared.sum(-1) if distance == 'sum' else squared.mean(-1)
  floored = jnp.maximum(weights, floor)
  return (floored * distances).mean((1, 2)).sum(), distances


def vae_loss(
  recon: jax.Array,
  action: jax.Array,
  latent: Normal,
  mask: jax.Array | np.ndarray,
) -> tuple[jax.Array, jax.Array]:
  """Reconstruction and KL of the action VAE, for each domain.

  Args:
    recon: reconstructed actions [N, ..., A].
    action: recorded actions [N, ..., A].
    latent: the VAE's posterior, [N, ..., 2A].
    mask: f32 [N, A]; 1 where a domain has the action dimension, else 0. The
      error is the mean over the domain's own dimensions.

  Returns:
    The mean squared error, f32 [N], and the KL to a standard normal in nats,
    the mean over the latent's elements, f32 [N].
  """
  domains, dims = mask.shape
  mask = mask.reshape(domains, *(1,) * (recon.ndim - 2), dims)
  axes = tuple(range(1, recon.ndim))
  num_dims = mask.sum(-1).reshape(domains)
  rows = recon[0, ..., 0].size
  error = (mask * jnp.square(recon - action)).sum(axes) / (rows * num_dims)
  variance = jnp.square(latent.std)
  kl = -0.5 * (1 + jnp.log(variance) - jnp.square(latent.mean) - variance)
  return error, kl.mean(axes)
