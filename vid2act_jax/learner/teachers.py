"""The frozen teacher, watching with the eyes of each of its domains."""

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner.noise import by_row
from vid2act_jax.nets.world_model import Track, feature, run
from vid2act_jax.types import FinetuneBatch, Latent


@flax.struct.dataclass
class TeacherView:
  """Features of the frozen teacher; no gradient reaches it."""

  target: jax.Array  # f32 [N, B, L, F], every domain on the target's frames
  source: jax.Array  # f32 [N, B, L, F], every domain on its own frames


def fit_actions(action: jax.Array, mask: jax.Array) -> jax.Array:
  """Shows an action to every domain as one of its own.

  Args:
    action: f32 [..., A].
    mask: f32 [N, A_teacher], the dimensions each domain has.

  Returns:
    f32 [N, ..., A_teacher]: cut off or zero-padded, and masked.
  """
  width = mask.shape[-1]
  action = action[..., :width]
  margin = [(0, 0)] * (action.ndim - 1) + [(0, width - action.shape[-1])]
  mask = mask.reshape(mask.shape[0], *(1,) * (action.ndim - 1), width)
  return jnp.pad(action, margin) * mask


def embed_all(model, params, image: jax.Array, labels=None) -> jax.Array:
  """Embeds frames under every label: u8 [B, L, ...] -> [N, B, L, E].

  Args:
    model: the teacher's `WorldModel`.
    params: its parameters.
    image: the frames.
    labels: i32 [K], only these; the result is [K, B, L, E] then.
  """

  def one(domain):
    label = jnp.full(image.shape[0], domain)
    return model.embed(params, image, label)

  if labels is None:
    labels = jnp.arange(model.num_domains)
  return jax.vmap(one)(labels)


def embed_frames(model, params, image: jax.Array, label: jax.Array):
  """Embeds frames to be kept: u8 [M, ...], i32 [K] -> f32 [M, K, E]."""
  embed = embed_all(model, params, image[None], label)[:, 0]
  return jnp.moveaxis(embed, 0, 1).astype(jnp.float32)


def observe(agent, params, batch: FinetuneBatch, key) -> TeacherView:
  """`prepare`, `run` and `view` at once."""
  ((latent, _),) = run(prepare(agent, params, batch, key))
  return view(agent, batch, latent)


def prepare(
  agent, params, batch: FinetuneBatch, key, axis_name: str | None = None
) -> Track:
  """Every domain on the target batch, then every domain on its own batch.

  Args:
    agent: an `Agent` with a teacher.
    params: the frozen teacher's {encoder, rssm}.
    batch: what this update sees.
    key: for the noise.
    axis_name: the mapped axis that B is split over, if any.
  """
  model, mask = agent.teacher, agent.source_mask
  target, sources = batch.target, batch.sources
  domains, size, length = sources.reward.shape
  rows = lambda x: x.reshape(-1, *x.shape[2:])
  every = lambda x: jnp.broadcast_to(x, (domains, *x.shape))

  source_label = jnp.repeat(jnp.arange(domains), size)
  embed = [
    rows(_target_embed(model, params, batch)),
    _source_embed(model, params, batch, source_label),
  ]
  own_action = sources.action * mask[:, None, None]
  action = [rows(fit_actions(target.action, mask)), rows(own_action)]
  is_first = [rows(every(target.is_first)), rows(sources.is_first)]
  target_label = jnp.repeat(jnp.arange(domains), target.reward.shape[0])
  label = jnp.concatenate([target_label, source_label])

  target_key, source_key = jax.random.split(key)
  noise = [
    rows(by_row(agent.draws.latent, key, shape, 1, axis_name))
    for key, shape in (
      (target_key, (domains, *target.reward.shape, model.sizes.stoch)),
      (source_key, (domains, size, length, model.sizes.stoch)),
    )
  ]
  return model.prepare(
    params,
    jnp.concatenate(embed),
    jnp.concatenate(action),
    jnp.concatenate(is_first),
    jnp.concatenate(noise),
    label,
  )


def view(agent, batch: FinetuneBatch, latent: Latent) -> TeacherView:
  """Sorts what the track of `prepare` gave: latent [rows, L, ...]."""
  feat = jax.lax.stop_gradient(feature(latent))
  domains = agent.num_domains
  target, source = jnp.split(feat, [domains * batch.target.reward.shape[0]])
  shape = (domains, -1, *feat.shape[1:])
  return TeacherView(target.reshape(shape), source.reshape(shape))


def _target_embed(model, params, batch):
  """Of the target's frames under every label: f32 [N, B, L, E]."""
  if batch.target_embed is None:
    return embed_all(model, params, batch.target.image)
  return jnp.moveaxis(batch.target_embed, 2, 0).astype(jnp.float32)


def _source_embed(model, params, batch, label):
  """Of the sources' frames, each under its own label: f32 [N * B, L, E]."""
  if batch.source_embed is None:
    image = batch.sources.image
    return model.embed(params, image.reshape(-1, *image.shape[2:]), label)
  embed = batch.source_embed
  return embed.reshape(-1, *embed.shape[2:]).astype(jnp.float32)
