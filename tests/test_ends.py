"""A student that predicts where episodes truly end."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner import finetune, warm

SOURCES = ('a', 'b')
_SCALE = 2.5


@functools.cache
def case(name='vid2act', scale=_SCALE):
  """Agent, state, batch."""
  settings = small.config()
  settings.scales.discount = scale
  variant = learner.parse(name, SOURCES)
  agent = learner.build_agent(settings, 2, (1, 3), small.CONSTANT, variant)
  return agent, small.state_of(agent), small.finetune_batch(agent)


@functools.cache
def model_gradient(name='vid2act'):
  agent, state, batch = case(name)
  fn = jax.value_and_grad(finetune.model_loss, argnums=1, has_aux=True)
  keys = jax.random.split(KEY)
  (_, (metrics, forward, _)), grads = small.jit(fn, static_argnums=0)(
    agent, state.params['model'], state.teacher, batch, keys
  )
  return metrics, forward, grads


def always(head, value):
  """A head's parameters that give one value, whatever it reads."""
  head = jax.tree.map(jnp.zeros_like, head)
  head['mlp']['out']['bias'] += value
  return head


def with_heads(state, **heads):
  """A state with other heads of its world model."""
  model = state.params['model']
  world = {**model['world_model'], **heads}
  model = {**model, 'world_model': world}
  return state.replace(params={**state.params, 'model': model})


def actor_loss(agent, state, actor):
  start = jax.tree.map(
    lambda x: jnp.full((4, *x.shape[1:]), 0.1), agent.student.initial(1)
  )
  label = jnp.zeros(4, int)
  return finetune.actor_loss(agent, state, actor, start, label, KEY)


def behave(logit):
  """What the actor learns from where the head says one thing alone."""
  agent, state, _ = case()
  head = state.params['model']['world_model']['discount']
  state = with_heads(state, discount=always(head, logit))
  return agent, state, actor_loss(agent, state, state.params['actor'])[1]


def test_by_default_nothing_of_it_is_there():
  agent, state, batch = case(scale=0.0)
  assert 'discount' not in state.params['model']['world_model']
  blind = batch.replace(target=batch.target.replace(discount=None))
  new, metrics = jax.eval_shape(agent.finetune_step, state, blind, KEY)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert not any('discount' in name for name in metrics)


def test_the_loss_is_a_cross_entropy_that_reaches_all_of_the_model():
  agent, state, batch = case()
  metrics, forward, grads = model_gradient()
  world = state.params['model']['world_model']
  feat = jnp.concatenate([forward.latent.stoch, forward.latent.deter], -1)
  chance = jax.nn.sigmoid(agent.student.predict_discount(world, feat))
  goes_on = batch.target.discount
  right = jnp.log(jnp.where(goes_on > 0, chance, 1 - chance))
  assert set(np.unique(goes_on)) == {0, 1}
  assert float(metrics['discount_loss']) == pytest.approx(
    float(-_SCALE * right.mean()), rel=1e-5
  )
  assert all(
    np.any(leaf) for leaf in jax.tree.leaves(grads['world_model']['discount'])
  )
  # As the other heads' losses do, it shapes the states.
  other = batch.target.replace(discount=1 - goes_on)
  fn = jax.grad(finetune.model_loss, argnums=1, has_aux=True)
  changed, _ = small.jit(fn, static_argnums=0)(
    agent,
    state.params['model'],
    state.teacher,
    batch.replace(target=other),
    jax.random.split(KEY),
  )
  for part in ('rssm', 'encoder'):
    assert small.differ(
      changed['world_model'][part], grads['world_model'][part]
    )
  small.assert_equal(
    changed['world_model']['reward'], grads['world_model']['reward']
  )


def test_where_all_goes_on_it_is_as_without():
  agent, state, (metrics, imagined, target, weights) = behave(logit=100.0)
  without, *_ = case(scale=0.0)
  _, expected = actor_loss(without, state, state.params['actor'])
  small.assert_close(target, expected[2], 1e-6)
  small.assert_close(imagined, expected[1], 1e-6)
  small.assert_close(weights, jnp.broadcast_to(expected[3], weights.shape))
  assert float(metrics['imagined_discount']) == pytest.approx(0.99)


def test_where_all_ends_only_the_reward_at_hand_counts():
  agent, state, (_, imagined, target, weights) = behave(logit=-100.0)
  world = state.params['model']['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  np.testing.assert_array_equal(target, reward[:-1])
  np.testing.assert_array_equal(weights[0], 1)
  np.testing.assert_array_equal(weights[1:], 0)


def test_with_one_reward_everywhere_ends_alone_teach_the_actor():
  def gradient(scale):
    agent, state, _ = case(scale=scale)
    reward = state.params['model']['world_model']['reward']
    state = with_heads(state, reward=always(reward, 1.0))
    state = state.replace(slow_critic=always(state.slow_critic, 1.0))
    # Entropy would be worth something by itself.
    settings = dataclasses.replace(agent.behavior, entropy=0.0)
    agent = dataclasses.replace(agent, behavior=settings)
    fn = lambda actor: actor_loss(agent, state, actor)[0]
    return jax.tree.leaves(jax.grad(fn)(state.params['actor']))

  assert any(np.abs(x).max() > 1e-6 for x in gradient(_SCALE))
  assert all(np.abs(x).max() < 1e-9 for x in gradient(0.0))


@pytest.mark.parametrize('name', ['finetune', 'action_free'])
def test_every_kind_of_student_learns_it(name):
  agent, state, batch = case(name)
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, metrics)))
  assert small.differ(
    new.params['model']['world_model']['discount'],
    state.params['model']['world_model']['discount'],
  )


def test_a_warm_start_has_a_head_of_its_own():
  """The teacher has none."""
  agent, *_ = case('finetune')
  teacher = small.model_params(agent.pretrained, seed=1)
  fresh = small.model_params(agent.student)
  assert 'discount' not in teacher
  world = warm.start_from(agent.student, fresh, agent.pretrained, teacher)
  small.assert_equal(world['discount'], fresh['discount'])
  small.assert_equal(world['reward'], teacher['reward'])
