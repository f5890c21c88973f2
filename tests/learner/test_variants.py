"""Tests that every variant changes only what its fields name."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner import finetune, warm_start
from vid2act_jax.learner.variants import VARIANTS
from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.types import UserError

SOURCES = ('a', 'b')
NAMES = (*VARIANTS, 'single:b')


def build(name, action_dim=2, noise_fns=small.CONSTANT, dims=(1, 3)):
  settings = small.config()
  settings.kl.free = 0.0
  variant = learner.parse(name, SOURCES)
  return learner.build_agent(
    settings, action_dim, dims, noise_fns, variant, num_updates=10
  )


@functools.cache
def case(name):
  """Agent, state, batch; parameters that variants share are equal."""
  agent, full = build(name), small.setup()
  state = small.state_of(agent)
  same = {
    'model': {**state.params['model']},
    'critic': full.state.params['critic'],
  }
  if not agent.base:
    same['model']['world_model'] = full.state.params['model']['world_model']
  shared = full.state.params['model']['transfer']
  for part in state.params['model']['transfer'].keys() & shared.keys():
    same['model']['transfer'] = {
      **same['model']['transfer'],
      part: shared[part],
    }
  if agent.trains_generator:
    same['actor'] = full.state.params['actor']
  teacher = full.state.teacher if agent.teacher else {}
  state = state.replace(params={**state.params, **same}, teacher=teacher)
  batch = small.finetune_batch(agent)
  return agent, state, batch


@functools.cache
def gradient(name):
  """Metrics, gradients and outputs of the model's loss."""
  agent, state, batch = case(name)
  fn = jax.value_and_grad(finetune.model_loss, argnums=1, has_aux=True)
  rngs = agent.rng(KEY).split()
  out, grads = small.jit(fn, static_argnums=0)(
    agent, state.params['model'], state.teacher, batch, rngs
  )
  return out[1][0], grads, out[1][2]


def is_zero(tree):
  return not any(np.any(leaf) for leaf in jax.tree.leaves(tree))


# Compiled steps of other variants, whose losses are tested below, are slow.
_STEPS = ('vid2act', 'action_free', 'uniform')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in _STEPS else pytest.mark.slow)
    for name in NAMES
  ],
)
def test_a_step_and_the_policy(name):
  agent, state, batch = case(name)
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  for leaf in jax.tree.leaves((new, metrics)):
    assert np.isfinite(leaf).all()
  for part in new.params:
    assert small.differ(new.params[part], state.params[part])
  obs = {'image': batch.target.image[:, 0], 'is_first': np.ones(2, bool)}
  act = small.jit(agent.policy, static_argnums=4)
  carry, action, extras = act(new, agent.initial_carry(2), obs, KEY, True)
  same = jax.tree.structure(agent.initial_carry(2))
  assert jax.tree.structure(carry) == same
  assert action.shape == (2, 2) and np.abs(action).max() <= 1
  assert ('similarity' in extras) == bool(agent.teacher)


# The losses of the model, in addition to those that all variants have.
LOSSES = {
  'vid2act': {'distillation_loss', 'vae_loss'},
  'vid2act_paper': {'distillation_loss', 'vae_loss'},
  'dreamerv2': set(),
  'finetune': set(),
  'action_free': {'base_kl_loss'},
  'no_distill': {'distillation_loss', 'vae_loss'},
  'no_replay': {'distillation_loss'},
  'uniform': {'distillation_loss', 'vae_loss'},
  'frozen_weights': {'distillation_loss', 'vae_loss'},
  'single:b': {'distillation_loss', 'vae_loss'},
  'vid2act_guided': {'distillation_loss'},
}


@pytest.mark.parametrize('name', NAMES)
def test_losses(name):
  metrics, _, _ = gradient(name)
  world = {'image_loss', 'reward_loss', 'kl_loss'}
  losses = {key for key in metrics if key.endswith('_loss')} - {'model_loss'}
  assert losses == world | LOSSES[name]
  total = sum(float(metrics[key]) for key in losses)
  np.testing.assert_allclose(metrics['model_loss'], total, rtol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_parameters(name):
  agent, state, _ = case(name)
  transfer = set(state.params['model']['transfer'])
  full = {'distill', 'similarity', 'vae'}
  without = {
    'no_replay': {'vae'},
    'uniform': {'similarity'},
    'single:b': {'similarity'},
  }
  expected = full - without.get(name, set()) if agent.teacher else set()
  if name == 'vid2act_guided':
    expected = {'predict_teachers', 'vae'}
  assert transfer == expected
  assert bool(state.teacher) == bool(agent.teacher)


@pytest.mark.parametrize('name', ('dreamerv2', 'finetune', 'no_distill'))
def test_the_student_has_no_gradient_of_distillation(name):
  """Its gradient is that of the world model's loss alone."""
  _, grads, _ = gradient(name)
  _, alone, _ = gradient('dreamerv2')
  small.assert_close(grads['world_model'], alone['world_model'])
  _, full, _ = gradient('vid2act')
  assert small.differ(full['world_model'], alone['world_model'])


def test_without_distillation_the_distillation_map_still_learns():
  metrics, grads, _ = gradient('no_distill')
  expected, full, _ = gradient('vid2act')
  small.assert_close(metrics, expected)
  small.assert_close(grads['transfer'], full['transfer'])


def rounding_of_similarity_gradient():
  """Bounds the difference of its kernel's gradient between two programs.

  With weights w_i and distances D_i the gradient of logit i is a difference,

      w_i (D_i - sum_j w_j D_j) = w_i sum_j w_j (D_i - D_j).

  Both distances are about 6 and their difference is small. So float32 rounds
  the gradient by its epsilon times the distances (and the features, which they
  are multiplied with), not times the size of the gradient.
  """
  agent, state, batch = case('no_replay')
  _, _, forward = gradient('no_replay')
  teacher = small.jit(small.teacher_features, static_argnums=0)(
    agent, state.teacher, batch, agent.rng(KEY).split()[0]
  ).target
  subtracted = (forward.similarity * forward.distance)[..., None]
  size = np.linalg.norm((subtracted * np.abs(teacher)).mean((1, 2)).sum(0))
  return 2 * np.finfo(np.float32).eps * size


def test_without_replay_distillation_is_unchanged():
  metrics, grads, _ = gradient('no_replay')
  expected, full, _ = gradient('vid2act')
  for key in ('distillation_loss', 'similarity', 'image_loss'):
    np.testing.assert_allclose(metrics[key], expected[key], rtol=1e-5)
  small.assert_close(grads['world_model'], full['world_model'])
  small.assert_close(grads['transfer']['distill'], full['transfer']['distill'])
  # The softmax ignores a shift of all logits: the bias has no gradient.
  ours, theirs = (
    np.asarray(g['transfer']['similarity']['dense']['kernel'], np.float64)
    for g in (grads, full)
  )
  limit = rounding_of_similarity_gradient()
  assert np.linalg.norm(ours - theirs) <= limit
  assert np.linalg.norm(theirs) > 100 * limit
  agent, state, _ = case('no_replay')
  inputs = state.params['actor']['mlp']['hidden0']['kernel'].shape[0]
  assert inputs == agent.student.feat_dim


def test_frozen_weights_have_no_gradient():
  metrics, grads, forward = gradient('frozen_weights')
  expected, full, learned = gradient('vid2act')
  small.assert_close(metrics, expected)
  small.assert_close(forward.similarity, learned.similarity)
  assert is_zero(grads['transfer']['similarity'])
  assert not is_zero(full['transfer']['similarity'])
  small.assert_close(grads['transfer']['distill'], full['transfer']['distill'])
  # The student has no gradient through the weights, only by the distances.
  assert small.differ(grads['world_model'], full['world_model'])


def test_uniform_weights():
  metrics, grads, forward = gradient('uniform')
  np.testing.assert_array_equal(forward.similarity, 0.5)
  distance = forward.distance.mean((1, 2))
  expected = 0.5 * distance.sum()
  np.testing.assert_allclose(metrics['distillation_loss'], expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['similarity_entropy'], np.log(2))
  full, same, _ = gradient('vid2act')
  np.testing.assert_allclose(metrics['vae_loss'], full['vae_loss'], rtol=1e-5)
  small.assert_close(grads['transfer']['vae'], same['transfer']['vae'])


def test_with_uniform_weights_the_guidance_is_random():
  agent = build('uniform', noise_fns=learner.NoiseFns())
  state = small.state_of(agent)
  batch = small.finetune_batch(agent, size=8, length=6)
  loss = small.jit(finetune.model_loss, static_argnums=0)
  rngs = agent.rng(KEY).split()
  _, (_, _, forward) = loss(
    agent, state.params['model'], state.teacher, batch, rngs
  )
  label = np.asarray(forward.label)
  assert 10 < label.sum() < 38  # of 48


def test_a_single_domain_is_distilled_and_replayed():
  metrics, grads, forward = gradient('single:b')
  np.testing.assert_array_equal(forward.similarity[0], 0)
  np.testing.assert_array_equal(forward.similarity[1], 1)
  np.testing.assert_array_equal(forward.label, 1)
  expected = forward.distance[1].mean()  # no floor for the other one
  np.testing.assert_allclose(metrics['distillation_loss'], expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['similarity'], [0, 1])
  agent, state, batch = case('single:b')
  action = batch.sources.action.at[0].add(0.1)
  batch = batch.replace(sources=batch.sources.replace(action=action))
  loss = small.jit(finetune.model_loss, static_argnums=0)
  rngs = agent.rng(KEY).split()
  _, (other, _, _) = loss(
    agent, state.params['model'], state.teacher, batch, rngs
  )
  np.testing.assert_array_equal(other['vae_loss'], metrics['vae_loss'])


def test_dreamerv2_does_not_use_the_sources():
  agent, state, batch = case('dreamerv2')
  assert agent.pretrained is None and batch.sources is None
  assert state.teacher == {} == state.params['model']['transfer']


class TestWarmStart:
  """`finetune`, and the base of `action_free`."""

  def make(self, action_dim):
    teacher = WorldModel(
      learner.build_agent(small.config(), 2, (2,)).student.sizes, 3, 2
    )
    teacher_params = small.model_params(teacher, 1)
    student = dataclasses.replace(teacher, action_dim=action_dim, num_domains=0)
    fresh = small.model_params(student, 2)
    return teacher, teacher_params, student, fresh

  @pytest.mark.parametrize('action_dim', (2, 3, 5))
  def test_it_computes_the_teachers_function(self, action_dim):
    teacher, teacher_params, student, fresh = self.make(action_dim)
    params = warm_start.start_from(fresh, teacher, teacher_params)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(params) == shapes(fresh)
    action = np.zeros((1, action_dim), np.float32)
    action[:, :2] = [0.4, -0.7]
    teacher_action = np.zeros((1, 3), np.float32)
    teacher_action[:, :2] = action[:, :2]

    def projected(model, params, action, label):
      method = 'project_action'
      return model.rssm.apply(
        {'params': params['rssm']}, action, label, method=method
      )

    by_label = [
      projected(teacher, teacher_params, teacher_action, jnp.full(1, i))
      for i in range(2)
    ]
    got = projected(student, params, action, None)
    np.testing.assert_allclose(got, np.mean(by_label, 0), rtol=1e-5, atol=1e-6)
    # A label acts only as a bias of the first layer.
    layer = params['encoder']['layers_0']
    planes = teacher_params['encoder']['layers_0']['kernel'][:, :, :2]
    bias = teacher_params['encoder']['layers_0']['bias'] + planes.sum(
      (0, 1)
    ).mean(0)
    np.testing.assert_allclose(layer['bias'], bias, rtol=1e-6)
    kernel = teacher_params['encoder']['layers_0']['kernel'][:, :, 2:]
    np.testing.assert_array_equal(layer['kernel'], kernel)
    for part in ('decoder', 'reward'):
      small.assert_equal(params[part], teacher_params[part])
    own = fresh['rssm']['inp']['kernel'][3 + 3 :]
    got = params['rssm']['inp']['kernel'][3 + 3 :]
    np.testing.assert_array_equal(got, own)

  def test_a_reward_head_that_was_not_trained_is_not_used(self):
    teacher, params, student, fresh = self.make(2)
    del params['reward']
    own = warm_start.start_from(fresh, teacher, params)
    small.assert_equal(own['reward'], fresh['reward'])
    small.assert_equal(own['decoder'], params['decoder'])

  def test_with_one_domain_it_equals_the_teacher(self):
    agent = build('finetune', action_dim=3, dims=(3,))
    teacher_params = small.model_params(agent.pretrained, 1)
    state = small.jit(agent.init)(KEY, teacher_params)
    batch = small.finetune_batch(agent).target
    image, label = batch.image, jnp.zeros(2, int)
    student = state.params['model']['world_model']
    small.assert_close(
      agent.student.embed(student, image),
      agent.pretrained.embed(teacher_params, image, label),
    )

  def test_other_sizes_are_an_error(self):
    with pytest.raises(UserError, match=r'config\.learner\.student'):
      learner.build_agent(
        small.config(deter=5), 2, (2,), variant=learner.parse('finetune')
      )

  def test_the_base_is_the_pretrained_model(self):
    agent = build('action_free')
    teacher_params = small.model_params(agent.pretrained, 1)
    state = small.jit(agent.init)(KEY, teacher_params)
    base = state.params['model']['base']
    assert set(base) == {'encoder', 'rssm'}
    small.assert_equal(base['rssm']['cell'], teacher_params['rssm']['cell'])
    assert 'encoder' not in state.params['model']['world_model']


def test_action_free_pretraining_ignores_actions():
  variant = learner.parse('action_free')
  pretrainer = learner.build_pretrainer(
    small.config(), (1, 3), small.CONSTANT, variant
  )
  assert pretrainer.teacher.action_dim == 0
  state = small.state_of(pretrainer)
  batch = small.batch_of(2, 2, 6, action_dim=3)
  step = small.jit(pretrainer.pretrain_step)
  new, metrics = step(state, batch, KEY)
  other, after = step(state, batch.replace(action=batch.action + 1), KEY)
  small.assert_equal(new.params['model'], other.params['model'])
  small.assert_equal(metrics, after)
  video = small.jit(pretrainer.open_loop)(new, batch, KEY)
  assert np.isfinite(video).all()


def test_the_base_of_a_stacked_student_learns_from_all_losses():
  """Only the student reads the target's actions."""
  _, grads, _ = gradient('action_free')
  assert not is_zero(grads['base'])
  agent, state, batch = case('action_free')
  target = batch.target
  video = small.jit(agent.open_loop)(state, target, KEY)
  assert np.isfinite(video).all()
  moved = target.replace(action=target.action.at[:, 1:].add(0.3))
  loss = small.jit(finetune.model_loss, static_argnums=0)
  run = lambda batch: loss(
    agent, state.params['model'], {}, batch, agent.rng(KEY).split()
  )[1][0]
  before, after = run(batch), run(batch.replace(target=moved))
  np.testing.assert_array_equal(before['base_kl_loss'], after['base_kl_loss'])
  assert float(before['kl_loss']) != float(after['kl_loss'])


@pytest.mark.parametrize(
  'name, named', [('vid2akt', 'vid2act, dreamerv2'), ('single:c', 'a, b')]
)
def test_an_unknown_variant_is_an_error(name, named):
  with pytest.raises(UserError, match=named):
    learner.parse(name, SOURCES)
