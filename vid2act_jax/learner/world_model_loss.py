"""The losses of one world model, in pretraining and in finetuning."""

from collections.abc import Sequence

import flax.struct
import jax

from vid2act_jax.learner.settings import LossSettings
from vid2act_jax.losses.world_model import discount_loss, kl_loss, reward_loss
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import WorldModel, feature
from vid2act_jax.ops.scan import ScanSpec
from vid2act_jax.types import Batch, Latent, Metrics, Normal, Params


class WorldModelOutputs(flax.struct.PyTreeNode):
  """Outputs of the forward pass that the other losses use."""

  latent: Latent  # [B, L, ...], sampled posterior states
  post: Normal  # [B, L, stoch]
  prior: Normal  # [B, L, stoch]
  frozen_outputs: list  # (states, posteriors) of the frozen scans


def world_model_losses(
  model: WorldModel,
  params: Params,
  observe: ScanSpec,
  batch: Batch,
  settings: LossSettings,
  axis_name: str | None = None,
  frozen_scans: Sequence[ScanSpec] = (),
  reward_mask: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Metrics, WorldModelOutputs]:
  """Losses of one world model on a batch of sequences.

  Args:
    model: the networks.
    params: their parameters.
    observe: of the posterior, from `model.observe_scan`.
    batch: [B, L, ...]; with the discount if `model.predict_continue`.
    settings: balance and free nats of the KL.
    axis_name: the mapped axis that the batch is split over, if any.
    frozen_scans: more scans of length L for the same loop, without gradients.
    reward_mask: f32 [B], 1 for the rows whose rewards and discounts are
      learned; None: all.

  Returns:
    The losses before scaling, each the mean over B and L, by the names of
    `LossScales`; other metrics; and outputs of the forward pass. The loss of
    the reward is the mean over the rows that have rewards, 0 without any.

  Raises:
    ValueError: the model has a discount head, but the batch has no discount.
  """
  assert batch.image is not None
  if model.predict_continue and batch.discount is None:
    raise ValueError(
      'Batch.discount is None, but the model has a discount head'
      ' (WorldModel.predict_continue)'
    )
  (latent, post), *frozen_outputs = model.run_scans(observe, *frozen_scans)
  prior = model.prior(params, latent.deter)
  feat = feature(latent)

  kl, kl_value = kl_loss(
    post, prior, settings.kl_balance, settings.kl_free, axis_name
  )
  losses = {
    'kl': kl,
    'image': -model.image_log_prob(params, feat, batch.image),
    'reward': reward_loss(
      model.predict_reward(params, feat), batch.reward, reward_mask, axis_name
    ),
  }
  if model.predict_continue:
    assert batch.discount is not None
    logit = model.predict_discount(params, feat)
    losses['discount'] = discount_loss(
      logit, batch.discount, reward_mask, axis_name
    )
  metrics = {
    'kl': kl_value.mean(),
    'prior_ent': dists.entropy(prior).mean(),
    'post_ent': dists.entropy(post).mean(),
  }
  outputs = WorldModelOutputs(latent, post, prior, frozen_outputs)
  return losses, metrics, outputs
