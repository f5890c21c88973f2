"""Tests of a student that predicts episode termination."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner import actor_critic, finetune, imagination, warm_start
from vid2act_jax.learner.imagination import Start
from vid2act_jax.nets import dists
from vid2act_jax.types import Latent, UserError

SOURCES = ('a', 'b')
_SCALE = 2.5


@functools.cache
def case(name='vid2act', scale=_SCALE):
  """Agent, state, batch."""
  settings = small.config()
  settings.scales.discount = scale
  settings.behavior.horizon = 4
  variant = learner.parse(name, SOURCES)
  agent = learner.build_agent(settings, 2, (1, 3), small.CONSTANT, variant)
  return agent, small.state_of(agent), small.finetune_batch(agent)


@functools.cache
def model_gradient(name='vid2act'):
  agent, state, batch = case(name)
  fn = jax.value_and_grad(finetune.model_loss, argnums=1, has_aux=True)
  rngs = agent.rng(KEY).split()
  (_, (metrics, forward, _)), grads = small.jit(fn, static_argnums=0)(
    agent, state.params['model'], state.teacher, batch, rngs
  )
  return metrics, forward, grads


def constant_head(head, value):
  """Parameters of a head with a constant output."""
  head = jax.tree.map(jnp.zeros_like, head)
  head['mlp']['out']['bias'] += value
  return head


def with_heads(state, **heads):
  """A state with other heads in its world model."""
  model = state.params['model']
  world = {**model['world_model'], **heads}
  model = {**model, 'world_model': world}
  return state.replace(params={**state.params, 'model': model})


def start():
  """Four starts, of which the second is a terminal state."""
  latent = Latent(jnp.full((4, 3), 0.1), jnp.full((4, 8), 0.1))
  return Start(latent, jnp.zeros(4, int), jnp.array([1.0, 0, 1, 1]))


def behave(agent, state):
  actor = state.params['actor']
  return actor_critic.actor_loss(agent, state, actor, start(), agent.rng(KEY))[
    1
  ]


def behave_with_logit(logit):
  """Agent, state and imagination with a constant logit of the discount."""
  agent, state, _ = case()
  head = state.params['model']['world_model']['discount']
  state = with_heads(state, discount=constant_head(head, logit))
  return agent, state, behave(agent, state)


def test_there_is_no_discount_head_by_default():
  agent, state, batch = case(scale=0.0)
  assert 'discount' not in state.params['model']['world_model']
  batch = batch.replace(target=batch.target.replace(discount=None))
  new, metrics = jax.eval_shape(agent.finetune_step, state, batch, KEY)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert not any('discount' in name for name in metrics)


def test_the_loss_is_a_cross_entropy_with_gradients_for_the_model():
  agent, state, batch = case()
  metrics, forward, grads = model_gradient()
  world = state.params['model']['world_model']
  feat = jnp.concatenate([forward.latent.stoch, forward.latent.deter], -1)
  prob = jax.nn.sigmoid(agent.student.predict_discount(world, feat))
  discount = batch.target.discount
  log_prob = jnp.log(jnp.where(discount > 0, prob, 1 - prob))
  assert set(np.unique(discount)) == {0, 1}
  assert float(metrics['discount_loss']) == pytest.approx(
    float(-_SCALE * log_prob.mean()), rel=1e-5
  )
  assert all(
    np.any(leaf) for leaf in jax.tree.leaves(grads['world_model']['discount'])
  )
  # Like the losses of the other heads, it trains the states.
  other = batch.target.replace(discount=1 - discount)
  fn = jax.grad(finetune.model_loss, argnums=1, has_aux=True)
  changed, _ = small.jit(fn, static_argnums=0)(
    agent,
    state.params['model'],
    state.teacher,
    batch.replace(target=other),
    agent.rng(KEY).split(),
  )
  for part in ('rssm', 'encoder'):
    assert small.differ(
      changed['world_model'][part], grads['world_model'][part]
    )
  small.assert_equal(
    changed['world_model']['reward'], grads['world_model']['reward']
  )


def test_without_termination_it_equals_a_fixed_discount():
  _, state, (metrics, imagined, target, weights) = behave_with_logit(
    logit=100.0
  )
  without, *_ = case(scale=0.0)
  _, same, expected, fixed = behave(without, state)
  small.assert_close(imagined, same, 1e-6)
  continuing = np.array([0, 2, 3])  # The other start is terminal.
  small.assert_close(target[:, continuing], expected[:, continuing], 1e-6)
  for row in continuing:
    small.assert_close(weights[:, row], fixed[:, 0], 1e-6)
  np.testing.assert_array_equal(weights[:, 1], [1, 0, 0])
  assert float(metrics['imagined_discount']) == pytest.approx(0.99)


def test_where_all_states_are_terminal_only_the_reward_counts():
  agent, state, (_, imagined, target, weights) = behave_with_logit(logit=-100.0)
  world = state.params['model']['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  # From a start that is not terminal there is still one step.
  np.testing.assert_array_equal(target[1:], reward[1:-1])
  assert float(target[0, 1]) == float(reward[0, 1])
  assert not np.isclose(target[0, 0], reward[0, 0])
  np.testing.assert_allclose(
    weights, [[1, 1, 1, 1], [0.99, 0, 0.99, 0.99], [0, 0, 0, 0]], rtol=1e-6
  )


def test_the_critic_has_the_same_weights_as_the_actor():
  agent, state, (_, imagined, target, weights) = behave_with_logit(logit=0.0)
  later = state.replace(step=state.step + 1)  # Keeps the slow critic.
  step = small.jit(actor_critic.behavior_step, static_argnums=0)
  _, metrics, _ = step(agent, later, start(), agent.rng(KEY))
  value = agent.critic.apply({'params': state.params['critic']}, imagined.feat)
  log_prob = dists.unit_log_prob(value[:-1], target, 0)
  assert float(metrics['value_loss']) == pytest.approx(
    -float((weights * log_prob).mean()), rel=1e-5
  )


def constant_reward_case(scale):
  """Without entropy, and with a constant reward and value."""
  agent, state, _ = case(scale=scale)
  settings = agent.settings
  behavior = dataclasses.replace(settings.behavior, entropy=0.0)
  settings = dataclasses.replace(settings, behavior=behavior)
  agent = dataclasses.replace(agent, settings=settings)
  reward = state.params['model']['world_model']['reward']
  state = with_heads(state, reward=constant_head(reward, 1.0))
  return agent, state.replace(slow_critic=constant_head(state.slow_critic, 1.0))


def test_with_a_constant_reward_the_actor_learns_from_termination():
  """Through the returns; the weights of the states have no gradient."""
  agent, state = constant_reward_case(_SCALE)
  model, rng = state.params['model'], agent.rng(KEY)

  def loss(actor):
    return actor_critic.actor_loss(agent, state, actor, start(), rng)[0]

  def by_hand(actor):
    feat = imagination.imagine(agent, model, actor, start(), rng).feat
    logit = agent.student.predict_discount(model['world_model'], feat)
    first, second, third, _ = 0.99 * jax.nn.sigmoid(logit)
    first = 0.99 * start().discount
    r2 = 1 + third
    r1 = 1 + second * (0.05 + 0.95 * r2)
    r0 = 1 + first * (0.05 + 0.95 * r1)
    weights = jnp.stack([jnp.ones(4), first, first * second])
    weights = jax.lax.stop_gradient(weights)
    return -(weights * jnp.stack([r0, r1, r2])).mean()

  actor = state.params['actor']
  value, grads = jax.value_and_grad(loss)(actor)
  expected, expected_grads = jax.value_and_grad(by_hand)(actor)
  assert float(value) == pytest.approx(float(expected), rel=1e-6)
  small.assert_close(grads, expected_grads, 1e-4)
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 1e-5


def test_with_a_constant_reward_and_discount_the_actor_has_no_gradient():
  agent, state = constant_reward_case(0.0)
  rng = agent.rng(KEY)

  def loss(actor):
    return actor_critic.actor_loss(agent, state, actor, start(), rng)[0]

  grads = jax.grad(loss)(state.params['actor'])
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) < 1e-9


@pytest.mark.parametrize('name', ['finetune', 'action_free'])
def test_every_variant_learns_the_discount_head(name):
  agent, state, batch = case(name)
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, metrics)))
  assert small.differ(
    new.params['model']['world_model']['discount'],
    state.params['model']['world_model']['discount'],
  )


def test_a_warm_start_keeps_its_fresh_discount_head():
  """The teacher has no discount head."""
  agent, *_ = case('finetune')
  teacher = small.model_params(agent.pretrained, seed=1)
  fresh = small.model_params(agent.student)
  assert 'discount' not in teacher
  world = warm_start.start_from(fresh, agent.pretrained, teacher)
  small.assert_equal(world['discount'], fresh['discount'])
  small.assert_equal(world['reward'], teacher['reward'])


@pytest.mark.parametrize('scale', [-1.0, float('nan'), float('inf')])
def test_an_invalid_scale_is_an_error(scale):
  settings = small.config()
  settings.scales.discount = scale
  with pytest.raises(UserError, match='config.learner.scales.discount='):
    learner.build_agent(settings, 2, (1, 3))


def test_a_batch_without_discount_is_an_error():
  agent, state, batch = case()
  batch = batch.replace(target=batch.target.replace(discount=None))
  with pytest.raises(ValueError, match='Batch.discount is None'):
    jax.eval_shape(agent.finetune_step, state, batch, KEY)
