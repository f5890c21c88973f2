"""Embeddings of the frames, for the student's posterior.

They are those of its own encoder. A stacked student (APV, arXiv 2203.13880)
reads the states of an action-free model instead, the base.
"""

import jax
import jax.numpy as jnp

from vid2act_jax.learner.noise import by_row
from vid2act_jax.losses.world_model import kl_loss
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch, Latent, Metrics


def embed(
  agent, model, batch: Batch, key, axis_name: str | None = None
) -> tuple[jax.Array, Metrics]:
  """Embeds sequences.

  Args:
    agent: an `Agent`.
    model: parameters {world_model, base, ...}.
    batch: [B, L, ...].
    key: for the base's noise.
    axis_name: the mapped axis that B is split over, if any.

  Returns:
    f32 [B, L, E], and the losses of the base.
  """
  if not agent.base:
    return agent.student.embed(model['world_model'], batch.image), {}
  base, params, spec = agent.base, model['base'], agent.loss
  noise = by_row(
    agent.draws.latent,
    key,
    (*batch.reward.shape, base.sizes.stoch),
    0,
    axis_name,
  )
  latent, post = base.observe(
    params,
    base.embed(params, batch.image),
    batch.action[..., :0],
    batch.is_first,
    noise,
  )
  prior = base.prior(params, latent.deter)
  kl, _ = kl_loss(post, prior, spec.kl_balance, spec.kl_free, axis_name)
  return feature(latent), {'base_kl_loss': spec.scales.kl * kl}


def embed_step(
  agent, model, state: Latent | None, image, is_first, noise
) -> tuple[jax.Array, Latent | None]:
  """Embeds the next frame of E environments.

  Args:
    agent: an `Agent`.
    model: parameters {world_model, base, ...}.
    state: the base's, [E, ...]; None where there is no base.
    image: u8 [E, 64, 64, 3].
    is_first: bool [E].
    noise: f32 [E, stoch], for the base.

  Returns:
    f32 [E, ...], and the base's next state.
  """
  if not agent.base:
    return agent.student.embed(model['world_model'], image[:, None])[:, 0], None
  base, params = agent.base, model['base']
  latent, _ = base.observe_step(
    params,
    state,
    base.embed(params, image[:, None])[:, 0],
    jnp.zeros((len(image), 0)),
    is_first,
    noise,
  )
  return feature(latent), latent
