"""Imagined rollouts of the policy in the student's world model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner.transfer import Demonstration, actor_input
from vid2act_jax.nets import dists
from vid2act_jax.nets.apply import apply
from vid2act_jax.nets.world_model import feature
from vid2act_jax.ops.scan import ScanSpec, scan
from vid2act_jax.rng import Rng
from vid2act_jax.types import Latent, Normal, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


class Start(flax.struct.PyTreeNode):
  """The initial states of M trajectories."""

  latent: Latent  # [M, ...]
  label: jax.Array | None  # i32 [M], the domain of the guidance
  # f32 [M], 0 at a terminal state; used with a discount head
  discount: jax.Array | None = None
  demonstration: Demonstration | None = None  # [M, ...], at these states


class Imagined(flax.struct.PyTreeNode):
  """Trajectories of H states from M starts; an action is taken at its state."""

  latent: Latent  # [H, M, ...], the first is the start
  feat: jax.Array  # f32 [H, M, F]
  actor_input: jax.Array  # f32 [H, M, F (+ guidance, + A)]
  action: jax.Array  # f32 [H, M, A]
  dist: Normal  # [H, M, A], which the actions were sampled from


def imagine(
  agent: Agent, model: Params, actor: Params, start: Start, rng: Rng
) -> Imagined:
  """Rolls out the policy for `settings.behavior.horizon` states.

  Gradients flow from the states to the actor through the dynamics; no gradient
  flows through the actor's input.

  Args:
    agent: the networks.
    model: parameters {world_model, transfer}.
    actor: parameters of the actor.
    start: of M trajectories; its label is fixed along each of them.
    rng: for all noise.
  """
  noise = _noise(agent, len(start.latent.deter), rng)

  def actor_input_fn(params, latent, noise):
    model, _, label = params
    transfer = model['transfer']
    return actor_input(agent, transfer, latent, label, noise['guidance'])

  def act(actor, inputs, noise):
    dist = apply(agent.actor, actor, inputs)
    action = dists.sample(dist, noise['action'])
    return dists.clip_straight_through(action), dist

  def step(params, latent, x):
    (model, actor, _), (noise, inputs) = params, x
    out = act(actor, inputs, noise)
    latent, _ = agent.student.imagine_step(
      model['world_model'], latent, out[0], noise['latent']
    )
    return latent, out

  # The last state needs no transition.
  scan_noise = jax.tree.map(lambda x: x[:-1], noise)
  last_noise = jax.tree.map(lambda x: x[-1], noise)
  params = model, actor, start.label
  spec = ScanSpec(step, params, start.latent, scan_noise, actor_input_fn)
  ((latent, outs),) = scan(spec, unroll=agent.student.compute.unroll)
  last = jax.tree.map(lambda x: x[-1], latent)
  inputs = jax.lax.stop_gradient(actor_input_fn(params, last, last_noise))
  last_out = inputs, act(actor, inputs, last_noise)
  inputs, (action, dist) = jax.tree.map(
    lambda xs, x: jnp.concatenate([xs, x[None]]), outs, last_out
  )
  latent = jax.tree.map(
    lambda x, xs: jnp.concatenate([x[None], xs]), start.latent, latent
  )
  return Imagined(latent, feature(latent), inputs, action, dist)


def _noise(agent, num, rng):
  """The noise of all steps, [H, num, ...]."""
  shape = agent.settings.behavior.horizon, num
  latent_rng, action_rng, guidance_rng = rng.split(3)
  noise = {
    'latent': agent.student.latent_noise(latent_rng, shape, row_axis=1),
    'action': action_rng.action_normal((*shape, agent.action_dim), row_axis=1),
    'guidance': None,
  }
  if agent.reads_guidance or agent.has_base_action:
    noise['guidance'] = agent.vae.latent_noise(guidance_rng, shape, row_axis=1)
  return noise
