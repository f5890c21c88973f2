"""Tests of pretraining on sources without rewards."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner.world_model_loss import world_model_losses
from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.types import Batch, Params

DIMS = (1, 3)


def build(rewards, variant='vid2act'):
  return learner.build_pretrainer(
    small.config(),
    DIMS,
    small.CONSTANT,
    learner.parse(variant),
    source_rewards=rewards,
  )


def compiled(rewards):
  """The initial state of a pretrainer, and its compiled step."""
  pretrainer = build(rewards)
  return small.state_of(pretrainer), small.jit(pretrainer.pretrain_step)


def source_batch():
  return small.batch_of(2, 2, 4, action_dim=3)


@functools.partial(small.jit, static_argnums=0)
def reward_loss_and_grads(
  model: WorldModel,
  params: Params,
  rows: Batch,
  label: jax.Array,
  mask: jax.Array | None,
):
  """The reward loss of labelled rows [B, L, ...], and its gradients."""
  noise = jnp.full((*rows.reward.shape, model.sizes.stoch), 0.3)

  def loss_fn(params):
    embed = model.embed(params, rows.image, label)
    observe = model.observe_scan(
      params,
      model.project_embed(params, embed),
      rows.action,
      rows.is_first,
      noise,
      label,
    )
    settings = build(None).loss
    losses, *_ = world_model_losses(
      model, params, observe, rows, settings, reward_mask=mask
    )
    return losses['reward']

  return jax.value_and_grad(loss_fn)(params)


def test_gradients_are_those_of_the_rows_with_rewards():
  model = build(None).teacher
  params, rows = small.model_params(model), small.batch_of(4, 4, action_dim=3)
  label, mask = jnp.array([0, 0, 1, 1]), jnp.array([1.0, 1, 0, 0])
  found = reward_loss_and_grads(model, params, rows, label, mask)
  first = jax.tree.map(lambda x: x[:2], rows)
  expected = reward_loss_and_grads(model, params, first, label[:2], None)
  assert np.abs(jax.tree.leaves(expected[1]['reward'])[0]).max() > 0
  small.assert_close(found, expected)
  # Of all rows, the loss is another.
  every = reward_loss_and_grads(model, params, rows, label, jnp.ones(4))
  assert float(every[0]) != pytest.approx(float(expected[0]), rel=1e-3)


def test_rewards_of_a_source_without_rewards_are_not_read():
  (state, step), batch = compiled((True, False)), source_batch()
  _, metrics = out = step(state, batch, KEY)
  other = batch.replace(reward=batch.reward.at[1].add(3))
  small.assert_equal(step(state, other, KEY), out)
  other = batch.replace(reward=batch.reward.at[0].add(3))
  changed = step(state, other, KEY)[1]
  assert float(changed['reward_loss']) != float(metrics['reward_loss'])
  names = ('kl_loss', 'image_loss', 'reward_loss')
  total = sum(float(metrics[name]) for name in names)
  assert float(metrics['model_loss']) == pytest.approx(total, rel=1e-5)


def test_without_any_rewards_the_reward_head_is_not_trained():
  state, step = compiled((False, False))
  new, metrics = step(state, source_batch(), KEY)
  before, after = (x.params['model'] for x in (state, new))
  small.assert_equal(after['reward'], before['reward'])
  for part in ('encoder', 'rssm', 'decoder'):
    assert small.differ(after[part], before[part])
  assert 'reward_loss' not in metrics
  total = float(metrics['kl_loss']) + float(metrics['image_loss'])
  assert float(metrics['model_loss']) == pytest.approx(total, rel=1e-5)


def test_sources_that_all_have_rewards_change_nothing():
  state, batch = small.state_of(build(None)), source_batch()
  trace = lambda rewards: str(
    jax.make_jaxpr(build(rewards).pretrain_step)(state, batch, KEY)
  )
  assert trace((True, True)) == trace(None) != trace((True, False))


@pytest.mark.parametrize('rewards', [(True, False), (False, False)])
def test_a_warm_start_takes_only_a_trained_reward_head(rewards):
  pretrainer = build(rewards, 'finetune')
  agent = learner.build_agent(
    small.config(), 2, DIMS, variant=learner.parse('finetune')
  )
  teacher = pretrainer.teacher_params(small.state_of(pretrainer))
  state = small.jit(agent.init)(KEY, teacher)
  own = state.params['model']['world_model']
  if any(rewards):
    expected = teacher['reward']
  else:
    assert 'reward' not in teacher
    scratch = dataclasses.replace(agent, variant=learner.parse('dreamerv2'))
    fresh = small.jit(scratch.init)(KEY, None).params['model']['world_model']
    expected = fresh['reward']
  small.assert_equal(own['reward'], expected)
  small.assert_equal(own['decoder'], teacher['decoder'])


def test_observed_states_are_paired_with_the_actions_taken_there():
  pretrainer = build(None)
  params = small.model_params(pretrainer.teacher)
  batch = source_batch()  # Two sources, two sequences of four frames.
  feat, action = pretrainer.observe_actions(params, batch, KEY)
  assert feat.shape == (2, 6, pretrainer.teacher.feat_dim)
  # An action is stored with the frame that follows it; the source with one
  # dimension has no others.
  np.testing.assert_array_equal(action[1], batch.action[1][:, 1:].reshape(6, 3))
  assert not action[0][:, 1:].any()
  # The first state of a sequence does not depend on what follows.
  later = batch.replace(image=batch.image.at[:, :, 1:].set(0))
  other, _ = pretrainer.observe_actions(params, later, KEY)
  small.assert_equal(other[:, ::3], feat[:, ::3])
  assert small.differ(other[:, 1::3], feat[:, 1::3])


def test_a_fitted_generator_reproduces_actions_from_states_alone():
  config = small.config()
  config.generator.update(steps=400, batch=32, lr=3e-3)
  pretrainer = learner.build_pretrainer(config, DIMS)
  rng = np.random.default_rng(0)
  size = pretrainer.teacher.feat_dim
  feat = rng.normal(size=(2, 64, size)).astype(np.float32)
  action = np.tanh(feat[..., :3]) * pretrainer.source_mask[:, None]
  fit = jax.jit(pretrainer.fit_generator)
  params, metrics = fit(feat, action, KEY)
  label = jnp.broadcast_to(jnp.arange(2)[:, None], feat.shape[:2])
  vae = pretrainer.generator
  noise = jnp.zeros((*label.shape, vae.latent_dim))
  hidden = vae.apply({'params': params}, feat, noise, label, method='guidance')
  decoded = vae.apply({'params': params}, hidden, method='decode')
  error = np.square(decoded - action)[1].mean()
  assert error < 0.2 * action[1].var()
  assert metrics['train/generator_error'] < 0.2 * action[1].var()
  # It depends on nothing else than its arguments.
  small.assert_equal(fit(feat, action, KEY)[0], params)
