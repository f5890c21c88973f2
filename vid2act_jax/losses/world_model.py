"""The world model's loss: image, reward, ends and KL (DreamerV2)."""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vid2act_jax.nets import dists
from vid2act_jax.nets.scan import ScanSpec
from vid2act_jax.nets.world_model import (
  WorldModel,
  feature,
  run,
  sum_chunks,
)
from vid2act_jax.types import Batch, Latent, Metrics, Normal, Params


@dataclasses.dataclass(frozen=True)
class Scales:
  """Weight of each loss in the model's total."""

  kl: float
  image: float
  reward: float
  discount: float
  distillation: float
  vae: float


@flax.struct.dataclass
class Forward:
  """What the loss's forward pass leaves to the other losses."""

  latent: Latent  # [B, L, ...], sampled posterior states
  post: Normal  # [B, L, stoch]
  prior: Normal  # [B, L, stoch]
  beside: list  # what the other tracks gave


def kl_loss(
  post: Normal,
  prior: Normal,
  balance: float,
  free: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Balanced KL with free nats on the mean over the whole batch.

  Args:
    post: posterior, [B, L, stoch].
    prior: prior, [B, L, stoch].
    balance: share of the term that trains the prior.
    free: nats below which a term has no gradient.
    axis_name: the mapped axis that the batch is split over, if any.

  Returns:
    The loss, a scalar, and KL(post || prior) of every state, [B, L].
  """

  def at_least_free(value):
    mean = value.mean()
    whole = jax.lax.pmean(mean, axis_name) if axis_name else mean
    return jnp.where(jax.lax.stop_gradient(whole) > free, mean, free)

  to_prior = dists.kl(post, dists.stop_gradient(prior))
  to_post = dists.kl(dists.stop_gradient(post), prior)
  loss = (1 - balance) * at_least_free(to_prior)
  return loss + balance * at_least_free(to_post), to_post


def world_model_loss(
  model: WorldModel,
  params: Params,
  embed: jax.Array,
  batch: Batch,
  noise: jax.Array,
  scales: Scales,
  balance: float,
  free: float,
  label: jax.Array | None = None,
  axis_name: str | None = None,
  beside: Sequence[ScanSpec] = (),
) -> tuple[jax.Array, tuple[Metrics, Forward]]:
  """Loss of one world model on a batch of sequences.

  Args:
    model: the networks; conditioned on `label` if they have domains.
    params: their parameters.
    embed: f32 [B, L, E], what the posterior reads of the frames.
    batch: [B, L, ...]; with its discount where the model predicts ends.
    noise: f32 [B, L, stoch], standard normal, for the posterior's samples.
    scales: weights of the losses.
    balance: KL balance.
    free: free nats.
    label: i32 [B], the domain of each row, or None.
    axis_name: the mapped axis that the batch is split over, if any.
    beside: others to be run along in the same scan, of the same length L.

  Returns:
    The scaled sum, and metrics with the states of the forward pass.

  Raises:
    ValueError: the model predicts ends, and the batch does not tell them.
  """
  if model.ends and batch.discount is None:
    raise ValueError('Batch.discount is None, but the model predicts ends')
  track = model.prepare(
    params, embed, batch.action, batch.is_first, noise, label
  )
  (latent, post), *beside = run(track, *beside, unroll=model.unroll)
  prior = model.prior(params, latent.deter)
  feat = feature(latent)

  image_loss = -_image_log_prob(model, params, feat, batch.image)
  reward = model.predict_reward(params, feat)
  reward_loss = -dists.unit_log_prob(reward, batch.reward, 0).mean()
  kl, kl_value = kl_loss(post, prior, balance, free, axis_name)

  losses = {
    'kl_loss': scales.kl * kl,
    'image_loss': scales.image * image_loss,
    'reward_loss': scales.reward * reward_loss,
  }
  if model.ends:
    logit = model.predict_discount(params, feat)
    cross = optax.sigmoid_binary_cross_entropy(logit, batch.discount)
    losses['discount_loss'] = scales.discount * cross.mean()
  metrics = {
    **losses,
    'kl': kl_value.mean(),
    'prior_ent': dists.entropy(prior).mean(),
    'post_ent': dists.entropy(post).mean(),
  }
  return sum(losses.values()), (metrics, Forward(latent, post, prior, beside))


def _image_log_prob(model, params, feat, images) -> jax.Array:
  """Mean over the frames; decoded images live for one chunk only."""

  def fn(params, x, image):
    mean = model.decode_rest(params, x)
    return dists.unit_log_prob(mean, image.astype(jnp.float32) / 255 - 0.5, 3)

  feat, images = (x.reshape(-1, *x.shape[2:]) for x in (feat, images))
  params = {'decoder': params['decoder']}
  first = model.decode_first(params, feat)
  return sum_chunks(fn, model.chunk, params, first, images) / len(feat)
