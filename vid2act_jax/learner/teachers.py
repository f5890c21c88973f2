"""The frozen teacher's features, under the label of each of its domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.nets.world_model import WorldModel, feature
from vid2act_jax.ops.scan import ScanSpec
from vid2act_jax.rng import Rng
from vid2act_jax.types import Batch, FinetuneBatch, Latent, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


class TeacherFeatures(flax.struct.PyTreeNode):
  """Features of the frozen teacher, without gradients."""

  target: jax.Array  # f32 [N, B, L, F], every domain on the target's frames
  # f32 [N, B, L, F], every domain on its own frames; None without replay
  source: jax.Array | None


def action_mask(dims: tuple[int, ...], width: int) -> np.ndarray:
  """f32 [N, width]: 1 for the action dimensions that a domain has."""
  return (np.arange(width) < np.array(dims)[:, None]).astype(np.float32)


def fit_actions(action: jax.Array, mask: jax.Array | np.ndarray) -> jax.Array:
  """Fits an action to the action space of every domain.

  Args:
    action: f32 [..., A].
    mask: f32 [N, A_teacher]; 1 for the dimensions that a domain has.

  Returns:
    f32 [N, ..., A_teacher]: truncated or zero-padded, and masked.
  """
  width = mask.shape[-1]
  action = action[..., :width]
  padding = [(0, 0)] * (action.ndim - 1) + [(0, width - action.shape[-1])]
  mask = mask.reshape(mask.shape[0], *(1,) * (action.ndim - 1), width)
  return jnp.pad(action, padding) * mask


def embed_all(
  model: WorldModel,
  params: Params,
  image: jax.Array,
  labels: jax.Array | None = None,
) -> jax.Array:
  """Embeds frames under every label: u8 [B, L, ...] -> [N, B, L, E].

  Args:
    model: the teacher.
    params: its parameters.
    image: the frames.
    labels: i32 [K]; if given, the result is [K, B, L, E].
  """

  def one(domain):
    label = jnp.full(image.shape[0], domain)
    return model.embed(params, image, label)

  if labels is None:
    labels = jnp.arange(model.num_domains)
  return jax.vmap(one)(labels)


def embed_frames(
  model: WorldModel, params: Params, image: jax.Array, label: jax.Array
) -> jax.Array:
  """Embeds frames for a cache: u8 [M, ...], i32 [K] -> f32 [M, K, E]."""
  embed = embed_all(model, params, image[None], label)[:, 0]
  return jnp.moveaxis(embed, 0, 1).astype(jnp.float32)


def teacher_scan(
  agent: Agent, params: Params, batch: FinetuneBatch, rng: Rng
) -> ScanSpec:
  """The teacher's scan: every domain on the target batch and on its batch.

  The batches of the domains are included only with action replay.

  Args:
    agent: the networks, with a teacher.
    params: the frozen teacher's {encoder, rssm}.
    batch: of this update.
    rng: for the noise.
  """
  model, mask = agent.teacher, agent.source_mask
  assert model is not None
  domains, target = agent.num_domains, batch.target
  per_domain = lambda x: jnp.broadcast_to(x, (domains, *x.shape))
  target_rng, source_rng = rng.split()
  # Of each batch: embed, action, is_first, rng.
  parts = [
    (
      _target_embed(model, params, batch),
      fit_actions(target.action, mask),
      per_domain(target.is_first),
      target_rng,
    )
  ]
  if agent.uses_action_replay:
    assert batch.sources is not None
    embed = _source_embed(model, params, batch.sources, batch.source_embed)
    action = batch.sources.action * mask[:, None, None]
    parts.append((embed, action, batch.sources.is_first, source_rng))

  def rows(embed, action, is_first, rng):
    noise = model.latent_noise(rng, is_first.shape, row_axis=1)
    label = jnp.repeat(jnp.arange(domains), is_first.shape[1])
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return *map(flat, (embed, action, is_first, noise)), label

  columns = zip(*(rows(*part) for part in parts), strict=True)
  return model.observe_scan(params, *map(jnp.concatenate, columns))


def split_features(
  agent: Agent, batch: FinetuneBatch, latent: Latent
) -> TeacherFeatures:
  """Splits the states of the scan of `teacher_scan`, [rows, L, ...]."""
  feat = jax.lax.stop_gradient(feature(latent))
  domains = agent.num_domains
  shape = (domains, -1, *feat.shape[1:])
  target, source = jnp.split(feat, [domains * batch.target.reward.shape[0]])
  return TeacherFeatures(
    target.reshape(shape),
    source.reshape(shape) if agent.uses_action_replay else None,
  )


def _target_embed(model, params, batch):
  """Embeddings of the target's frames under every label: f32 [N, B, L, E]."""
  if batch.target_embed is None:
    return embed_all(model, params, batch.target.image)
  return jnp.moveaxis(batch.target_embed, 2, 0).astype(jnp.float32)


def _source_embed(model, params, sources: Batch, cached: jax.Array | None):
  """Embeddings of each source's frames under its label: f32 [N, B, L, E]."""
  if cached is not None:
    return cached.astype(jnp.float32)
  image = sources.image
  assert image is not None
  domains, size = image.shape[:2]
  label = jnp.repeat(jnp.arange(domains), size)
  embed = model.embed(params, image.reshape(-1, *image.shape[2:]), label)
  return embed.reshape(domains, size, *embed.shape[1:])
