"""Features of the frozen teachers, one for each domain.

They are either one mixture model under the label of each of its domains, or
separate models, whose parameters have a leading axis [N].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.learner import warm_start
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import WorldModel, feature
from vid2act_jax.ops.scan import ScanSpec
from vid2act_jax.rng import Rng
from vid2act_jax.types import Batch, FinetuneBatch, Latent, Normal, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


class TeacherFeatures(flax.struct.PyTreeNode):
  """Features of the frozen teacher, without gradients."""

  target: jax.Array  # f32 [N, B, L, F], every domain on the target's frames
  # f32 [N, B, L, F], every domain on its own frames; None without source batch
  source: jax.Array | None
  # f32 [N, B, L], KL of posterior to prior on the target's frames, nats; None
  # unless the similarity weights need it
  kl: jax.Array | None = None


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


def for_each_domain(agent: Agent, fn: Callable, params: Params, *xs: Any):
  """Applies a function to every domain.

  Args:
    agent: the networks, with a teacher.
    fn: (params, label, *x) -> outputs; the label is i32 [], or None with
      separate teachers.
    params: of the teacher, or of separate teachers, [N, ...].
    *xs: trees of arrays [N, ...].

  Returns:
    The outputs, [N, ...].
  """
  if agent.variant.teachers == 'separate':
    return jax.vmap(lambda params, *x: fn(params, None, *x))(params, *xs)
  labels = jnp.arange(agent.num_domains)
  return jax.vmap(lambda label, *x: fn(params, label, *x))(labels, *xs)


def embed_all(agent: Agent, params: Params, image: jax.Array) -> jax.Array:
  """Embeds frames under every label: u8 [B, L, ...] -> [N, B, L, E]."""
  model = agent.teacher
  assert model is not None

  def one(params, label):
    rows = None if label is None else jnp.full(image.shape[0], label)
    return model.embed(params, image, rows)

  return for_each_domain(agent, one, params)


def embed_frames(
  agent: Agent, params: Params, image: jax.Array, label: jax.Array
) -> jax.Array:
  """Embeds frames for a cache: u8 [M, ...], i32 [K] -> f32 [M, K, E]."""
  model = agent.teacher
  assert model is not None

  def one(domain):
    if agent.variant.teachers == 'separate':
      own = jax.tree.map(lambda x: x[domain], params)
      return model.embed(own, image[None])[0]
    return model.embed(params, image[None], domain[None])[0]

  return jax.vmap(one, out_axes=1)(label).astype(jnp.float32)


def teacher_scans(
  agent: Agent, params: Params, batch: FinetuneBatch, rng: Rng
) -> list[ScanSpec]:
  """The teachers' scans: every domain on the target batch and on its batch.

  The batches of the domains are included only if the generator is trained. A
  mixture has one scan, with the rows of all domains.

  Args:
    agent: the networks, with a teacher.
    params: the frozen teacher's {encoder, rssm}.
    batch: of this update.
    rng: for the noise.
  """
  model = agent.teacher
  assert model is not None
  domains, target = agent.num_domains, batch.target
  per_domain = lambda x: jnp.broadcast_to(x, (domains, *x.shape))
  target_rng, source_rng = rng.split()
  project = model.project_embed
  if agent.variant.teachers == 'separate':
    project = jax.vmap(project)
  # Of each batch: projected embeddings, action, is_first, rng. They are
  # projected first: a TPU would rearrange the larger embeddings for `flat`.
  parts = [
    (
      project(params, _target_embed(agent, params, batch)),
      fit_actions(target.action, agent.teacher_mask),
      per_domain(target.is_first),
      target_rng,
    )
  ]
  if agent.trains_generator:
    assert batch.sources is not None
    embed = _source_embed(agent, params, batch.sources, batch.source_embed)
    action = batch.sources.action[..., : model.action_dim]
    action = action * agent.teacher_mask[:, None, None]
    embed = project(params, embed)
    parts.append((embed, action, batch.sources.is_first, source_rng))

  # Of each batch: projected embeddings, action, is_first, noise.
  columns = [
    (*part[:3], model.latent_noise(part[3], part[2].shape, row_axis=1))
    for part in parts
  ]
  if agent.variant.teachers == 'separate':
    joined = [jnp.concatenate(xs, 1) for xs in zip(*columns, strict=True)]
    scans = []
    for domain in range(domains):
      own = jax.tree.map(lambda x, i=domain: x[i], params)
      embed, action, is_first, noise = (x[domain] for x in joined)
      scans.append(model.observe_scan(own, embed, action, is_first, noise))
    return scans
  # Not -1: teachers without actions have arrays of size zero.
  flat = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
  embed, action, is_first, noise = (
    jnp.concatenate([flat(x) for x in xs]) for xs in zip(*columns, strict=True)
  )
  labels = [jnp.repeat(jnp.arange(domains), x[2].shape[1]) for x in columns]
  label = jnp.concatenate(labels)
  return [model.observe_scan(params, embed, action, is_first, noise, label)]


def compute_features(
  agent: Agent,
  params: Params,
  batch: FinetuneBatch,
  outputs: Sequence[tuple[Latent, Normal]],
  rng: Rng,
) -> TeacherFeatures:
  """The features of the states that the variant compares and replays.

  Args:
    agent: the networks, with a teacher.
    params: the frozen teacher's {encoder, rssm}.
    batch: of this update.
    outputs: states and posteriors of the scans of `teacher_scans`.
    rng: for the noise of predicted states.
  """
  (latent, post), source = _split_rows(agent, batch, outputs)
  latent, post, source = jax.lax.stop_gradient((latent, post, source))
  kl = None
  if agent.variant.weights.kind == 'evidence':
    kl = prediction_kl(agent, params, latent, post)
  for step in range(agent.variant.distillation.horizon):
    noise_rng = rng.fold_in(step)
    latent = _predict_step(agent, params, batch.target, latent, noise_rng)
  return TeacherFeatures(
    feature(latent),
    feature(source[0]) if agent.trains_generator else None,
    kl,
  )


def prediction_kl(
  agent: Agent, params: Params, latent: Latent, post: Normal
) -> jax.Array:
  """KL of posterior to prior of every domain's states: -> f32 [N, ...]."""
  model = agent.teacher
  assert model is not None
  prior = for_each_domain(
    agent, lambda p, _, deter: model.prior(p, deter), params, latent.deter
  )
  return dists.kl(post, prior)


def imagine_step(
  agent: Agent,
  params: Params,
  latent: Latent,
  action: jax.Array,
  noise: jax.Array,
) -> Latent:
  """Predicts every domain's next states: all arrays [N, ...]."""
  model = agent.teacher
  assert model is not None

  def one(params, label, latent, action, noise):
    if label is not None:
      label = jnp.broadcast_to(label, action.shape[:-1])
    return model.imagine_step(params, latent, action, noise, label)[0]

  return for_each_domain(agent, one, params, latent, action, noise)


def _predict_step(agent, params, target: Batch, latent: Latent, rng: Rng):
  """States predicted for every frame from those of the frame before.

  At the start of an episode or a sequence the state itself stays.
  """
  model = agent.teacher
  action = fit_actions(target.action, agent.teacher_mask)
  noise = model.latent_noise(rng, action.shape[:-1], row_axis=1)
  before = jax.tree.map(lambda x: jnp.roll(x, 1, 2), latent)
  predicted = imagine_step(agent, params, before, action, noise)
  first = target.is_first.at[:, 0].set(True)[None, ..., None]
  return jax.lax.stop_gradient(
    jax.tree.map(lambda x, y: jnp.where(first, x, y), latent, predicted)
  )


def _split_rows(agent, batch, outputs):
  """Outputs on the target and on the sources, [N, B, L, ...] each."""
  rows = batch.target.reward.shape[0]
  if agent.variant.teachers == 'separate':
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *outputs)
    target = jax.tree.map(lambda x: x[:, :rows], stacked)
    return target, jax.tree.map(lambda x: x[:, rows:], stacked)
  ((latent, post),) = outputs
  domains = agent.num_domains
  target = jax.tree.map(lambda x: x[: domains * rows], (latent, post))
  source = jax.tree.map(lambda x: x[domains * rows :], (latent, post))
  unflatten = lambda x: x.reshape(domains, -1, *x.shape[1:])
  if not agent.trains_generator:
    return jax.tree.map(unflatten, target), source
  return jax.tree.map(unflatten, (target, source))


def stack_separate(
  models: Sequence[WorldModel], all_params: Sequence[Params], action_dim: int
) -> Params:
  """Stacks the parameters of teachers of one domain each.

  Args:
    models: the teachers, each with one domain.
    all_params: their parameters.
    action_dim: of the stacked model; the action dimensions that a teacher does
      not have are ignored.

  Returns:
    Parameters [N, ...] of a model without domains. The label of a teacher's
    only domain becomes part of its biases.
  """
  merged = [
    warm_start.unlabel(
      model, params, jnp.zeros((action_dim, model.sizes.hidden))
    )
    for model, params in zip(models, all_params, strict=True)
  ]
  return jax.tree.map(lambda *xs: jnp.stack(xs), *merged)


def _target_embed(agent, params, batch):
  """Embeddings of the target's frames under every label: f32 [N, B, L, E]."""
  if batch.target_embed is None:
    return embed_all(agent, params, batch.target.image)
  return jnp.moveaxis(batch.target_embed, 2, 0).astype(jnp.float32)


def _source_embed(agent, params, sources: Batch, cached: jax.Array | None):
  """Embeddings of each source's frames under its label: f32 [N, B, L, E]."""
  if cached is not None:
    return cached.astype(jnp.float32)
  model, image = agent.teacher, sources.image
  assert image is not None
  domains, size = image.shape[:2]
  if agent.variant.teachers == 'separate':
    return jax.vmap(model.embed)(params, image)
  label = jnp.repeat(jnp.arange(domains), size)
  embed = model.embed(params, image.reshape(-1, *image.shape[2:]), label)
  return embed.reshape(domains, size, *embed.shape[1:])
