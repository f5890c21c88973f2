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
from vid2act_jax.learner import finetune, imagination, warm_start
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


def start():
  """Four starts, of which the second is an end."""
  latent = Latent(jnp.full((4, 3), 0.1), jnp.full((4, 8), 0.1))
  return Start(latent, jnp.zeros(4, int), jnp.array([1.0, 0, 1, 1]))


def behave(agent, state):
  actor = state.params['actor']
  return finetune.actor_loss(agent, state, actor, start(), KEY)[1]


def said(logit):
  """What is imagined where the head says one thing alone."""
  agent, state, _ = case()
  head = state.params['model']['world_model']['discount']
  state = with_heads(state, discount=always(head, logit))
  return agent, state, behave(agent, state)


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
  _, state, (metrics, imagined, target, weights) = said(logit=100.0)
  without, *_ = case(scale=0.0)
  _, same, expected, fixed = behave(without, state)
  small.assert_close(imagined, same, 1e-6)
  going = np.array([0, 2, 3])  # The end at the start is still one.
  small.assert_close(target[:, going], expected[:, going], 1e-6)
  for row in going:
    small.assert_close(weights[:, row], fixed[:, 0], 1e-6)
  np.testing.assert_array_equal(weights[:, 1], [1, 0, 0])
  assert float(metrics['imagined_discount']) == pytest.approx(0.99)


def test_where_all_ends_only_the_reward_at_hand_counts():
  agent, state, (_, imagined, target, weights) = said(logit=-100.0)
  world = state.params['model']['world_model']
  reward = agent.student.predict_reward(world, imagined.feat)
  # What has not ended at its start still goes one step.
  np.testing.assert_array_equal(target[1:], reward[1:-1])
  assert float(target[0, 1]) == float(reward[0, 1])
  assert not np.isclose(target[0, 0], reward[0, 0])
  np.testing.assert_allclose(
    weights, [[1, 1, 1, 1], [0.99, 0, 0.99, 0.99], [0, 0, 0, 0]], rtol=1e-6
  )


def test_the_critic_counts_states_as_the_actor_does():
  agent, state, (_, imagined, target, weights) = said(logit=0.0)
  later = state.replace(step=state.step + 1)  # The slow critic stays.
  _, metrics, _ = finetune.behavior_step(agent, later, start(), KEY)
  value = agent.critic.apply({'params': state.params['critic']}, imagined.feat)
  log_prob = dists.unit_log_prob(value[:-1], target, 0)
  assert float(metrics['value_loss']) == pytest.approx(
    -float((weights * log_prob).mean()), rel=1e-5
  )


def bare(scale):
  """No entropy, and one reward and one value everywhere."""
  agent, state, _ = case(scale=scale)
  settings = dataclasses.replace(agent.behavior, entropy=0.0)
  agent = dataclasses.replace(agent, behavior=settings)
  reward = state.params['model']['world_model']['reward']
  state = with_heads(state, reward=always(reward, 1.0))
  return agent, state.replace(slow_critic=always(state.slow_critic, 1.0))


def test_with_one_reward_everywhere_ends_alone_teach_the_actor():
  """By the returns: a state's weight is no reason to act."""
  agent, state = bare(_SCALE)
  model = state.params['model']

  def by_hand(actor):
    feat = imagination.imagine(agent, model, actor, start(), KEY).feat
    logit = agent.student.predict_discount(model['world_model'], feat)
    first, second, third, _ = 0.99 * jax.nn.sigmoid(logit)
    first = 0.99 * start().discount
    r2 = 1 + third
    r1 = 1 + second * (0.05 + 0.95 * r2)
    r0 = 1 + first * (0.05 + 0.95 * r1)
    weights = jnp.stack([jnp.ones(4), first, first * second])
    weights = jax.lax.stop_gradient(weights)
    return -(weights * jnp.stack([r0, r1, r2])).mean()

  loss = lambda actor: finetune.actor_loss(agent, state, actor, start(), KEY)[0]
  actor = state.params['actor']
  value, grads = jax.value_and_grad(loss)(actor)
  expected, expected_grads = jax.value_and_grad(by_hand)(actor)
  assert float(value) == pytest.approx(float(expected), rel=1e-6)
  small.assert_close(grads, expected_grads, 1e-4)
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) > 1e-5


def test_with_one_reward_everywhere_and_no_ends_there_is_nothing_to_learn():
  agent, state = bare(0.0)
  loss = lambda actor: finetune.actor_loss(agent, state, actor, start(), KEY)[0]
  grads = jax.grad(loss)(state.params['actor'])
  assert max(np.abs(x).max() for x in jax.tree.leaves(grads)) < 1e-9


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
  world = warm_start.start_from(agent.student, fresh, agent.pretrained, teacher)
  small.assert_equal(world['discount'], fresh['discount'])
  small.assert_equal(world['reward'], teacher['reward'])


@pytest.mark.parametrize('scale', [-1.0, float('nan'), float('inf')])
def test_a_wrong_scale_is_told(scale):
  settings = small.config()
  settings.scales.discount = scale
  with pytest.raises(UserError, match='config.learner.scales.discount='):
    learner.build_agent(settings, 2, (1, 3))


def test_a_batch_that_does_not_tell_its_ends():
  agent, state, batch = case()
  blind = batch.replace(target=batch.target.replace(discount=None))
  with pytest.raises(ValueError, match='Batch.discount is None'):
    jax.eval_shape(agent.finetune_step, state, blind, KEY)
