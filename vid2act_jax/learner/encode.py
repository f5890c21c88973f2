"""Embeddings of the frames, for the student's posterior.

They are those of its own encoder. A stacked student (APV, arXiv 2203.13880)
reads the states of a pretrained model instead, the base. In APV it is
action-free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from vid2act_jax.learner.teachers import action_mask, fit_actions
from vid2act_jax.losses.world_model import kl_loss
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import Batch, Latent, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


def embed(
  agent: Agent, model: Params, batch: Batch, rng: Rng
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Embeds sequences.

  Args:
    agent: the networks.
    model: parameters {world_model, base, ...}.
    batch: [B, L, ...].
    rng: for the base's noise.

  Returns:
    f32 [B, L, E], and the losses of the base, before scaling.
  """
  base = agent.base
  if base is None:
    return agent.student.embed(model['world_model'], batch.image), {}
  params, settings = model['base'], agent.settings.loss
  latent, post = base.observe(
    params,
    base.embed(params, batch.image),
    _base_actions(base, batch.action),
    batch.is_first,
    base.latent_noise(rng, batch.reward.shape, row_axis=0),
  )
  prior = base.prior(params, latent.deter)
  kl, _ = kl_loss(
    post, prior, settings.kl_balance, settings.kl_free, rng.axis_name
  )
  return feature(latent), {'base_kl': kl}


def embed_step(
  agent: Agent,
  model: Params,
  state: Latent | None,
  image: jax.Array,
  action: jax.Array,
  is_first: jax.Array,
  rng: Rng,
) -> tuple[jax.Array, Latent | None]:
  """Embeds the next frame of E environments.

  Args:
    agent: the networks.
    model: parameters {world_model, base, ...}.
    state: the base's, [E, ...]; None where there is no base.
    image: u8 [E, 64, 64, 3].
    action: f32 [E, A], the previous action.
    is_first: bool [E].
    rng: for the base's noise.

  Returns:
    f32 [E, ...], and the base's next state.
  """
  base, num = agent.base, len(image)
  if base is None:
    return agent.student.embed(model['world_model'], image[:, None])[:, 0], None
  params = model['base']
  latent, _ = base.observe_step(
    params,
    state,
    base.embed(params, image[:, None])[:, 0],
    _base_actions(base, action),
    is_first,
    base.latent_noise(rng, (num,)),
  )
  return feature(latent), latent


def _base_actions(base, action):
  """Actions of the target fitted to the base: [..., A] -> [..., A_base]."""
  mask = action_mask((base.action_dim,), base.action_dim)
  return fit_actions(action, mask)[0]
