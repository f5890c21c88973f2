"""Open-loop prediction videos: what a world model believes will happen."""

import jax
import jax.numpy as jnp

from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch

CONTEXT = 5  # frames
ROWS = 6  # sequences at most


def open_loop(
  model,
  params,
  draw,
  batch: Batch,
  key: jax.Array,
  label: jax.Array | None = None,
  embed: jax.Array | None = None,
  context: int = CONTEXT,
  rows: int = ROWS,
) -> jax.Array:
  """Reconstructs a few frames, then predicts the rest from the actions alone.

  Args:
    model: a `WorldModel`.
    params: its parameters.
    draw: (key, shape) -> standard normal noise.
    batch: [B, L, ...] with L > context.
    key: for the noise.
    label: i32 [B], the domains, or None.
    embed: f32 [B, context, E], what the posterior reads of the frames; None:
      the model's own embeddings.
    context: frames that the model sees.
    rows: at most this many sequences.

  Returns:
    f32 [min(B, rows), L, 3 * 64, 64, 3] in [0, 1], up to the model's excess:
    truth, model and error (0.5 where there is none) above each other.
  """
  given = batch, label, embed
  batch, label, embed = jax.tree.map(lambda x: x[:rows], given)
  num, length = batch.reward.shape
  see_key, guess_key = jax.random.split(key)
  seen = jax.tree.map(lambda x: x[:, :context], batch)
  if embed is None:
    embed = model.embed(params, seen.image, label)
  noise = draw(see_key, (num, context, model.sizes.stoch))
  latent, _ = model.observe(
    params, embed, seen.action, seen.is_first, noise, label
  )
  noise = draw(guess_key, (length - context, num, model.sizes.stoch))

  def step(latent, x):
    latent, _ = model.imagine_step(params, latent, *x, label)
    return latent, latent

  last = jax.tree.map(lambda x: x[:, -1], latent)
  actions = batch.action[:, context:].swapaxes(0, 1)
  _, future = jax.lax.scan(step, last, (actions, noise))
  future = jax.tree.map(lambda x: x.swapaxes(0, 1), future)
  feat = jnp.concatenate([feature(latent), feature(future)], 1)
  guess = model.decode(params, feat) + 0.5
  truth = batch.image.astype(jnp.float32) / 255
  return jnp.concatenate([truth, guess, (guess - truth + 1) / 2], 2)
