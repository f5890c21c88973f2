"""Transfer from the teacher's domains to the student (arXiv 2306.03360).

One function for each part: the similarity weights, the domain that they select,
the distillation map, the action VAE, and the guidance of the policy. Their
losses are in `finetune.transfer_losses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng
from vid2act_jax.types import Latent, Normal, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent

_MAX_GUIDANCE_NOISE = 0.5  # Noise of the guidance is clipped to this.


class ReplayOutputs(flax.struct.PyTreeNode):
  """Outputs of the action VAE on the source batches."""

  distilled: jax.Array  # f32 [N, B, L, F]
  recon: jax.Array  # f32 [N, B, L - 1, A], reconstructed actions
  latent: Normal  # [N, B, L - 1, 2A]


class TransferOutputs(flax.struct.PyTreeNode):
  """Outputs of the forward pass of the transfer losses."""

  similarity: jax.Array  # f32 [N, B, L], weights: their sum over N is 1
  distance: jax.Array  # f32 [N, B, L]
  label: jax.Array  # i32 [B, L], the domain of the guidance
  replay: ReplayOutputs | None


def similarity_weights(
  agent: Agent, params: Params, teacher: jax.Array, student: jax.Array
) -> jax.Array:
  """Similarity weights of the domains, according to the agent's variant.

  Args:
    agent: the networks, with a teacher.
    params: of the transfer modules.
    teacher: f32 [N, ..., F_teacher], features under every label.
    student: f32 [..., F].

  Returns:
    f32 [N, ...]; the sum over the domains is 1.
  """
  variant, shape = agent.variant, teacher.shape[:-1]
  if variant.weights == 'uniform':
    return jnp.full(shape, 1 / shape[0])
  if variant.weights == 'single':
    one_hot = jnp.arange(shape[0]) == variant.domain
    one_hot = one_hot.reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.broadcast_to(one_hot, shape).astype(jnp.float32)
  logits = apply(agent.similarity, params['similarity'], teacher, student)
  out = jax.nn.softmax(logits, 0)
  return jax.lax.stop_gradient(out) if variant.weights == 'frozen' else out


def select_domain(
  agent: Agent, weights: jax.Array, noise: jax.Array
) -> jax.Array:
  """Selects the most similar domain: weights f32 [N, ...] -> i32 [...].

  With uniform weights it is a random one, by `noise` f32 [N, ...].
  """
  if agent.variant.weights == 'uniform':
    return noise.argmax(0)
  return weights.argmax(0)


def distill(agent: Agent, params: Params, feat: jax.Array) -> jax.Array:
  """Maps teacher features [..., F_teacher] to the student's [..., F]."""
  return apply(agent.distill, params['distill'], feat)


def reconstruct_actions(
  agent: Agent, params: Params, source: jax.Array, action: jax.Array, rng: Rng
) -> ReplayOutputs:
  """Runs the action VAE: the actions taken at distilled teacher states.

  Args:
    agent: the networks, with action replay.
    params: of the transfer modules.
    source: f32 [N, B, L, F_teacher], features of the source batches.
    action: f32 [N, B, L - 1, A], the masked actions taken at them.
    rng: for the VAE's latents.
  """
  # The VAE trains neither the distillation map nor, through it, the student.
  distilled = jax.lax.stop_gradient(distill(agent, params, source))
  shape = action.shape[:-1]
  label = jnp.arange(len(source))[:, None, None]
  recon, latent = apply(
    agent.vae,
    params['vae'],
    distilled[:, :, :-1],
    action,
    jnp.broadcast_to(label, shape),
    agent.vae.latent_noise(rng, shape, row_axis=1),
  )
  return ReplayOutputs(distilled, recon, latent)


def actor_input(
  agent: Agent,
  params: Params,
  latent: Latent,
  label: jax.Array | None,
  noise: jax.Array | None,
) -> jax.Array:
  """The input of the actor: [s, guidance], or s without action replay.

  The guidance is the last hidden layer of the VAE's decoder, at the student's
  state and under the label of the most similar domain.

  Args:
    agent: the networks.
    params: of the transfer modules.
    latent: student states [M, ...].
    label: i32 [M], each state's most similar domain, or None.
    noise: from `ActionVAE.latent_noise`, [M, ...]; None without replay. It is
      clipped.
  """
  feat = feature(latent)
  if not agent.uses_action_replay:
    return feat
  assert noise is not None
  guidance = apply(
    agent.vae,
    params['vae'],
    feat,
    jnp.clip(noise, -_MAX_GUIDANCE_NOISE, _MAX_GUIDANCE_NOISE),
    label,
    method='guidance',
  )
  return jnp.concatenate([feat, guidance], -1)
