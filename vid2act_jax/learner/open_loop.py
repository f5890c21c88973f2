"""Open-loop prediction videos of a world model."""

import jax
import jax.numpy as jnp

from vid2act_jax.nets.world_model import WorldModel, feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import Batch, Params

CONTEXT = 5  # frames
ROWS = 6  # sequences at most


def open_loop(
  model: WorldModel,
  params: Params,
  batch: Batch,
  rng: Rng,
  label: jax.Array | None = None,
  embed: jax.Array | None = None,
  context: int = CONTEXT,
  rows: int = ROWS,
) -> jax.Array:
  """Reconstructs a few frames, then predicts the rest from the actions.

  Args:
    model: the networks.
    params: their parameters.
    batch: [B, L, ...] with L > context.
    rng: for the noise.
    label: i32 [B], the domains, or None.
    embed: f32 [B, context, E], embeddings of the frames for the posterior;
      None: the model's own.
    context: number of frames for the posterior.
    rows: maximum number of sequences.

  Returns:
    f32 [min(B, rows), L, 3 * 64, 64, 3]: truth, prediction and error (0.5 is
    zero), stacked vertically. In [0, 1], but predictions may exceed it.
  """
  inputs = batch, label, embed
  batch, label, embed = jax.tree.map(lambda x: x[:rows], inputs)
  num, length = batch.reward.shape
  posterior_rng, prior_rng = rng.split()
  observed = jax.tree.map(lambda x: x[:, :context], batch)
  if embed is None:
    embed = model.embed(params, observed.image, label)
  noise = model.latent_noise(posterior_rng, (num, context))
  latent, _ = model.observe(
    params, embed, observed.action, observed.is_first, noise, label
  )
  noise = model.latent_noise(prior_rng, (length - context, num))

  def step(latent, x):
    action, noise = x
    latent, _ = model.imagine_step(params, latent, action, noise, label)
    return latent, latent

  last = jax.tree.map(lambda x: x[:, -1], latent)
  actions = batch.action[:, context:].swapaxes(0, 1)
  _, future = jax.lax.scan(step, last, (actions, noise))
  future = jax.tree.map(lambda x: x.swapaxes(0, 1), future)
  feat = jnp.concatenate([feature(latent), feature(future)], 1)
  prediction = model.decode(params, feat) + 0.5
  assert batch.image is not None
  truth = batch.image.astype(jnp.float32) / 255
  error = (prediction - truth + 1) / 2
  return jnp.concatenate([truth, prediction, error], 2)
