"""The update of actor and critic on imagined trajectories.

DreamerV2 (arXiv 2010.02193) with gradients through the dynamics; with guidance
by a prior, the actor is also drawn to actions of the sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vid2act_jax.learner import imagination, transfer, update
from vid2act_jax.losses import behavior, returns
from vid2act_jax.nets import dists
from vid2act_jax.nets.apply import apply
from vid2act_jax.rng import Rng
from vid2act_jax.types import LearnerState, Metrics, Normal, Params

if TYPE_CHECKING:
  from vid2act_jax.learner.agent import Agent


def behavior_step(
  agent: Agent, state: LearnerState, start: imagination.Start, rng: Rng
) -> tuple[LearnerState, Metrics, Metrics]:
  """Updates actor and critic on trajectories of the updated model.

  Args:
    agent: the networks, optimizers and hyperparameters.
    state: with the updated parameters of the model.
    start: of M trajectories.
    rng: for the noise.

  Returns:
    The new state, metrics, and gradient norms.
  """
  due = state.step % agent.settings.behavior.slow_period == 0
  slow = jax.tree.map(
    lambda new, old: jnp.where(due, new, old),
    state.params['critic'],
    state.slow_critic,
  )
  state = state.replace(slow_critic=slow)

  actor_fn = jax.value_and_grad(actor_loss, argnums=2, has_aux=True)
  (loss, (metrics, imagined, target, weights)), actor_grads = actor_fn(
    agent, state, state.params['actor'], start, rng
  )
  feat = jax.lax.stop_gradient(imagined.feat[:-1])
  critic_fn = jax.value_and_grad(critic_loss, argnums=1)
  value_loss, critic_grads = critic_fn(
    agent, state.params['critic'], feat, target, weights
  )
  metrics = {'actor_loss': loss, 'value_loss': value_loss, **metrics}
  norms = {}
  for name, metric, grads in (
    ('actor', 'actor_grad_norm', actor_grads),
    ('critic', 'value_grad_norm', critic_grads),
  ):
    state, norms[metric] = update.apply_gradients(
      agent.optimizers[name], state, name, grads, rng.axis_name
    )
  return state, metrics, norms


def actor_loss(
  agent: Agent,
  state: LearnerState,
  actor_params: Params,
  start: imagination.Start,
  rng: Rng,
) -> tuple[
  jax.Array, tuple[Metrics, imagination.Imagined, jax.Array, jax.Array]
]:
  """The actor's loss on imagined λ-returns with the slow critic.

  Returns:
    The loss; metrics, the trajectories [H, M, ...], their λ-returns
    [H - 1, M] and their states' weights [H - 1, 1 or M].
  """
  settings = agent.settings.behavior
  model = state.params['model']
  imagined = imagination.imagine(agent, model, actor_params, start, rng)
  world = model['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  value = apply(agent.critic, state.slow_critic, imagined.feat)
  discount = _discounts(agent, world, imagined.feat, start.discount)
  target = returns.lambda_returns(reward, value, discount, settings.lambda_)
  weights = returns.discount_weights(jax.lax.stop_gradient(discount))[:-1]
  entropy = dists.entropy(imagined.dist)
  loss = behavior.actor_loss(target, entropy[:-1], weights, settings.entropy)
  prior_metrics = {}
  if start.demonstration is not None:
    first = _policy_at_start(agent, actor_params, imagined, start.demonstration)
    spread = _spread(jax.lax.stop_gradient(target), rng.axis_name)
    prior, prior_metrics = _prior_loss(
      agent, state.step, first, start.demonstration, spread
    )
    loss += prior
  metrics = {
    'actor_ent': entropy.mean(),
    'imagined_return': target.mean(),
    **behavior.reward_stats(reward),
    **prior_metrics,
  }
  if agent.student.predict_continue:
    metrics['imagined_discount'] = discount[1:].mean()
  return loss, (metrics, imagined, target, weights)


def _policy_at_start(agent, actor_params, imagined, demonstration):
  """The policy at the start states, which are real ones, as it acts there."""
  if not agent.has_base_action:
    return jax.tree.map(lambda x: x[0], imagined.dist)
  # In the target task the base action is generated at the teacher's own state.
  # Of source sequences it is the recorded one, so that the prior draws the
  # correction to zero.
  rest = imagined.actor_input[0, :, : -agent.action_dim]
  inputs = jnp.concatenate([rest, demonstration.action], -1)
  return apply(agent.actor, actor_params, inputs)


def _prior_loss(agent, step, dist, demonstration, spread):
  """Draws the actor to actions of the sources, ever more weakly.

  The loss is the KL of the policy to a Gaussian around these actions, as with
  behaviour priors (arXiv 2010.14274); its weight fades, as in kickstarting
  (1803.03835). The likelihood of the actions would narrow the policy instead,
  and then hold it there. The KL is taken at the start states, which are real
  ones, where the teacher's state is known. It is in units of the spread of the
  returns, but at least 1, so that large rewards do not outweigh it.
  """
  guidance, action = agent.variant.guidance, demonstration.action
  prior = Normal(action, jnp.full_like(action, guidance.prior_std))
  each = demonstration.weight * dists.kl_of_elements(dist, prior)
  kl = each.sum(-1).mean()
  strength = transfer.prior_strength(agent, step)
  scale = strength * guidance.prior_scale * jnp.maximum(spread, 1)
  return scale * kl, {'prior_kl': kl, 'guidance_strength': strength}


def _spread(returns, axis_name):
  """Standard deviation of the returns [H - 1, M] of all devices."""
  if not axis_name:
    return returns.std()
  mean = jax.lax.pmean(returns.mean(), axis_name)
  variance = jax.lax.pmean(jnp.square(returns - mean).mean(), axis_name)
  return jnp.sqrt(variance)


def _discounts(agent, world, feat, first):
  """γ after every state, [H, M]; [H, 1] without a discount head."""
  fixed = jnp.full((len(feat), 1), agent.settings.behavior.discount)
  if not agent.student.predict_continue:
    return fixed
  cont = jax.nn.sigmoid(agent.student.predict_discount(world, feat[1:]))
  return fixed * jnp.concatenate([first[None], cont])


def critic_loss(
  agent: Agent,
  params: Params,
  feat: jax.Array,
  target: jax.Array,
  weights: jax.Array,
) -> jax.Array:
  """Regression to the returns of `actor_loss`; feat [H - 1, M, F]."""
  value = apply(agent.critic, params, feat)
  return behavior.critic_loss(value, target, weights)
