"""The world model's loss: image, reward, discount and KL (DreamerV2)."""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import (
  WorldModel,
  feature,
  run,
)
from vid2act_jax.ops.chunks import sum_chunks
from vid2act_jax.ops.scan import ScanSpec
from vid2act_jax.types import Batch, Latent, Metrics, Normal, Params


@dataclasses.dataclass(frozen=True)
class Scales:
  """Weight of each loss in the total loss of the model."""

  kl: float
  image: float
  reward: float
  discount: float
  distillation: float
  vae: float


@flax.struct.dataclass
class Forward:
  """Outputs of the forward pass that the other losses use."""

  latent: Latent  # [B, L, ...], sampled posterior states
  post: Normal  # [B, L, stoch]
  prior: Normal  # [B, L, stoch]
  frozen_outputs: list  # (states, posteriors) of the frozen scans


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
    balance: weight of the term that trains the prior.
    free: nats below which a term has no gradient.
    axis_name: the mapped axis that the batch is split over, if any.

  Returns:
    The loss, a scalar, and KL(post || prior) of every state, [B, L].
  """

  def apply_free_nats(value):
    mean = value.mean()
    global_mean = jax.lax.pmean(mean, axis_name) if axis_name else mean
    return jnp.where(jax.lax.stop_gradient(global_mean) > free, mean, free)

  to_prior = dists.kl(post, dists.stop_gradient(prior))
  to_post = dists.kl(dists.stop_gradient(post), prior)
  loss = (1 - balance) * apply_free_nats(to_prior)
  return loss + balance * apply_free_nats(to_post), to_post


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
  frozen_scans: Sequence[ScanSpec] = (),
) -> tuple[jax.Array, tuple[Metrics, Forward]]:
  """Loss of one world model on a batch of sequences.

  Args:
    model: the networks; conditioned on `label` if they have domains.
    params: their parameters.
    embed: f32 [B, L, E], embeddings of the frames for the posterior.
    batch: [B, L, ...]; with the discount if `model.predict_continue`.
    noise: f32 [B, L, stoch], standard normal, for the posterior's samples.
    scales: weights of the losses.
    balance: KL balance.
    free: free nats.
    label: i32 [B], the domain of each row, or None.
    axis_name: the mapped axis that the batch is split over, if any.
    frozen_scans: more scans of length L for the same loop, without gradients.

  Returns:
    The scaled sum, metrics, and outputs of the forward pass.

  Raises:
    ValueError: the model has a discount head, but the batch has no discount.
  """
  if model.predict_continue and batch.discount is None:
    raise ValueError(
      'Batch.discount is None, but the model has a discount head'
      ' (WorldModel.predict_continue)'
    )
  spec = model.observe_scan(
    params, embed, batch.action, batch.is_first, noise, label
  )
  (latent, post), *frozen_outputs = run(
    spec, *frozen_scans, unroll=model.unroll
  )
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
  if model.predict_continue:
    logit = model.predict_discount(params, feat)
    cross_entropy = optax.sigmoid_binary_cross_entropy(logit, batch.discount)
    losses['discount_loss'] = scales.discount * cross_entropy.mean()
  metrics = {
    **losses,
    'kl': kl_value.mean(),
    'prior_ent': dists.entropy(prior).mean(),
    'post_ent': dists.entropy(post).mean(),
  }
  forward = Forward(latent, post, prior, frozen_outputs)
  return sum(losses.values()), (metrics, forward)


def _image_log_prob(model, params, feat, images) -> jax.Array:
  """Mean over the frames; decoded images are kept for one chunk only."""

  def fn(params, x, image):
    mean = model.decode_rest(params, x)
    return dists.unit_log_prob(mean, image.astype(jnp.float32) / 255 - 0.5, 3)

  feat, images = (x.reshape(-1, *x.shape[2:]) for x in (feat, images))
  params = {'decoder': params['decoder']}
  first = model.decode_first(params, feat)
  return sum_chunks(fn, model.chunk, params, first, images) / len(feat)
