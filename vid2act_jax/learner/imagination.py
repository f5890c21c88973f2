"""Imagined rollouts of the policy in the student's world model."""

import flax.struct
import jax
import jax.numpy as jnp

from vid2act_jax.learner.noise import by_row
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.ops.scan import ScanSpec, scan
from vid2act_jax.types import Latent, Normal


@flax.struct.dataclass
class Start:
  """The initial states of M trajectories."""

  latent: Latent  # [M, ...]
  label: jax.Array | None  # i32 [M], the domain of the guidance
  # f32 [M], 0 at a terminal state; used with a discount head
  discount: jax.Array | None = None


@flax.struct.dataclass
class Imagined:
  """Trajectories of H states from M starts; an action is taken at its state."""

  latent: Latent  # [H, M, ...], the first is the start
  feat: jax.Array  # f32 [H, M, F]
  actor_input: jax.Array  # f32 [H, M, F (+ guidance)]
  action: jax.Array  # f32 [H, M, A]
  dist: Normal  # [H, M, A], which the actions were sampled from


def actor_input(agent, params, latent, label, noise):
  """The input of the actor: [s, guidance], or s without action replay.

  Args:
    agent: an `Agent`.
    params: {world_model, transfer}.
    latent: student states [M, ...].
    label: i32 [M], each state's most similar domain, or None.
    noise: f32 [M, 2A], standard normal, will be clipped; None without replay.
  """
  feat = feature(latent)
  if not agent.replays:
    return feat
  guidance = agent.vae.apply(
    {'params': params['transfer']['vae']},
    feat,
    jnp.clip(noise, -0.5, 0.5),
    label,
    method='guidance',
  )
  return jnp.concatenate([feat, guidance], -1)


def imagine(
  agent,
  model,
  actor,
  start: Start,
  key,
  axis_name: str | None = None,
) -> Imagined:
  """Rolls out the policy for `agent.behavior.horizon` states.

  Gradients flow from the states to the actor through the dynamics; no gradient
  flows through the actor's input.

  Args:
    agent: an `Agent`.
    model: parameters {world_model, transfer}.
    actor: parameters of the actor.
    start: of M trajectories; its label is fixed along each of them.
    key: for the noise.
    axis_name: the mapped axis that the starts are split over, if any.
  """
  num, horizon = start.latent.deter.shape[0], agent.behavior.horizon
  keys = jax.random.split(key, 3)

  def sample(draw, key, size):
    return by_row(draw, key, (horizon, num, size), 1, axis_name)

  noise = {
    'latent': sample(agent.draws.latent, keys[0], agent.student.sizes.stoch),
    'action': sample(agent.draws.actor, keys[1], agent.action_dim),
    'guidance': None,
  }
  if agent.replays:
    size = agent.vae.latent_dim
    noise['guidance'] = sample(agent.draws.latent, keys[2], size)

  def actor_input_fn(params, latent, noise):
    model, _, label = params
    return actor_input(agent, model, latent, label, noise['guidance'])

  def act(actor, inputs, noise):
    dist = agent.actor.apply({'params': actor}, inputs)
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
  ((latent, outs),) = scan(spec, unroll=agent.student.unroll)
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
