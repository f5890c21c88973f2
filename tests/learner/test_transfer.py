"""Tests of the fields of `config.learner.transfer`, one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner import (
  actor_critic,
  finetune,
  imagination,
  rehearsal,
  teachers,
  transfer,
)
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Batch, UserError

SOURCES = ('a', 'b')
DIMS = 1, 3  # Action sizes of the sources; the target has 2.
NUM_UPDATES = 10


def build(preset='vid2act', noise_fns=small.CONSTANT, **fields):
  settings = small.config()
  settings.kl.free = 0.0
  variant = learner.parse(preset, SOURCES, fields)
  return learner.build_agent(
    settings, 2, DIMS, noise_fns, variant, num_updates=NUM_UPDATES
  )


@functools.cache
def run_loss(preset='vid2act', **fields):
  """Agent, state, batch; metrics, outputs and gradients of the model's loss."""
  agent = build(preset, **fields)
  state, batch = small.state_of(agent), small.finetune_batch(agent)
  fn = jax.value_and_grad(finetune.model_loss, argnums=1, has_aux=True)
  rngs = agent.rng(KEY).split()
  (_, (metrics, world, forward)), grads = small.jit(fn, static_argnums=0)(
    agent, state.params['model'], state.teacher, batch, rngs
  )
  return agent, state, batch, metrics, (world, forward), grads


def teacher_outputs(agent, state, batch):
  """States and posteriors of the teacher on the target, [N, B, L, ...]."""
  specs = teachers.teacher_scans(
    agent, state.teacher, batch, agent.rng(KEY).split()[0]
  )
  outputs = agent.teacher.run_scans(*specs)
  rows = agent.num_domains * batch.target.reward.shape[0]
  ((latent, post),) = outputs
  split = lambda x: x[:rows].reshape(agent.num_domains, -1, *x.shape[1:])
  return jax.tree.map(split, (latent, post))


class TestParse:
  def test_a_field_replaces_the_value_of_the_preset(self):
    variant = learner.parse('vid2act_paper', SOURCES, {'distance': 'mean'})
    assert variant.distillation.distance == 'mean'
    assert variant.distillation.horizon == 1  # Of the preset.
    assert learner.parse('vid2act', SOURCES, {'weights': None}) == (
      learner.Variant()
    )

  def test_a_single_source_has_no_floor_unless_it_is_set(self):
    assert learner.parse('single:b', SOURCES).distillation.floor == 0
    fields = {'weights': 'single:b', 'importance_floor': 0.2}
    assert learner.parse('vid2act', SOURCES, fields).distillation.floor == 0.2

  @pytest.mark.parametrize(
    'fields, named',
    [
      ({'states': 'rollout:0'}, r'transfer\.states.*rollout:<k>'),
      ({'states': 'past'}, r'transfer\.states.*posterior'),
      ({'distance': 'max'}, r'transfer\.distance.*sum'),
      ({'weights': 'single:c'}, r"'c' is not in.*\(a, b\)"),
      ({'weights': 'equal'}, r'transfer\.weights.*evidence'),
      ({'guidance': 'feature+push'}, r'transfer\.guidance.*jump_start'),
      ({'rehearsal': 1.0}, r'transfer\.rehearsal=1\.0.*less than 1'),
      ({'generator_until': 2.0}, r'transfer\.generator_until=2\.0.*0 to 1'),
      ({'generator_until': 0.0}, r'generator_start=pretrained'),
      ({'temperature': 0.0}, r'transfer\.temperature=0\.0.*nats'),
      (
        {'prior_std': 0.1},
        r'transfer\.prior_std=0\.1.*0\.1 and less than 2\.1',
      ),
      ({'prior_scale': float('inf')}, r'transfer\.prior_scale=inf'),
      ({'generator_start': 'pretrained'}, r'direction=to_teacher'),
      ({'teachers': 'separate', 'start': 'teacher'}, r'teachers=mixture'),
      (
        {
          'teachers': 'separate',
          'direction': 'to_teacher',
          'generator_start': 'pretrained',
        },
        r'generator_start=fresh',
      ),
      ({'generator': 'selected', 'weights': 'uniform'}, r'generator=all'),
      (
        {
          'teachers': 'none',
          'rehearsal': 0.5,
          'rehearsal_domains': 'selected',
        },
        r'rehearsal_domains=all',
      ),
    ],
  )
  def test_values_and_combinations_without_sense_are_errors(
    self, fields, named
  ):
    with pytest.raises(UserError, match=named) as error:
      learner.parse('vid2act', SOURCES, fields)
    assert '\n' not in str(error.value)


def test_the_sum_is_the_mean_times_the_number_of_features():
  _, _, _, mean, _, _ = run_loss()
  _, _, _, total, _, _ = run_loss(distance='sum')
  size = small.config().student.stoch + small.config().student.deter
  np.testing.assert_allclose(
    total['distillation_loss'], size * mean['distillation_loss'], rtol=1e-5
  )


def predicted(agent, state, batch, horizon):
  """The teacher's states predicted over `horizon` steps, one at a time."""
  (latent, _), params = teacher_outputs(agent, state, batch), state.teacher
  action = teachers.fit_actions(batch.target.action, agent.teacher_mask)
  length = batch.target.reward.shape[1]
  frames = []
  for t in range(length):
    start = max(t - horizon, 0)
    now = jax.tree.map(lambda x, start=start: x[:, :, start], latent)
    for step in range(start + 1, t + 1):
      noise = jnp.full(now.stoch.shape, 0.3)
      now = teachers.imagine_step(agent, params, now, action[:, :, step], noise)
    frames.append(feature(now))
  return jnp.stack(frames, 2)


@pytest.mark.parametrize('states, horizon', [('prior', 1), ('rollout:3', 3)])
def test_predicted_states(states, horizon):
  agent = build(states=states)
  state, batch = small.state_of(agent), small.finetune_batch(agent)
  rng = agent.rng(KEY).split()[0]
  specs = teachers.teacher_scans(agent, state.teacher, batch, rng)
  features = teachers.compute_features(
    agent, state.teacher, batch, agent.teacher.run_scans(*specs), rng
  )
  expected = predicted(agent, state, batch, horizon)
  small.assert_close(features.target, expected)
  posterior, _ = teacher_outputs(agent, state, batch)
  assert small.differ(features.target, feature(posterior))
  # The generator's states have seen their frames.
  rows = jax.tree.leaves(specs[0].initial)[0].shape[0]
  assert features.source.shape[1] * 2 + 2 * 2 == rows


def test_the_student_is_compared_by_its_prediction_next_to_predicted_states():
  agent, state, batch, _, (world, forward), _ = run_loss(states='prior')
  stoch = dists.sample(world.prior, 0.3)
  student = feature(world.latent.replace(stoch=stoch))
  params = state.params['model']['transfer']
  target = predicted(agent, state, batch, 1)
  difference = transfer.distill(agent, params, target) - student
  small.assert_close(forward.distance, jnp.square(difference).mean(-1))


def test_weights_by_evidence():
  agent, state, batch, metrics, (_, forward), _ = run_loss(
    weights='evidence', temperature=2.0
  )
  assert 'similarity' not in state.params['model']['transfer']
  latent, post = teacher_outputs(agent, state, batch)
  prior = agent.teacher.prior(state.teacher, latent.deter)
  kl = np.asarray(dists.kl(post, prior), np.float64)
  evidence = np.zeros(kl.shape[:-1])
  for t in range(kl.shape[-1]):
    evidence = 0.95 * evidence - kl[..., t]
    weights = np.exp(evidence / 2) / np.exp(evidence / 2).sum(0)
    small.assert_close(forward.similarity[..., t], weights)
  small.assert_close(metrics['teacher_kl'], kl.mean((1, 2)))


@pytest.mark.parametrize(
  'fields',
  [
    {'states': 'rollout:3', 'weights': 'evidence'},
    {'states': 'prior'},
    {'teachers': 'separate', 'weights': 'evidence'},
  ],
  ids=lambda fields: '-'.join(fields.values()),
)
def test_the_policy_has_the_weights_of_training(fields):
  """On the same frames and actions, from the start of an episode."""
  agent, state, batch, _, (_, forward), _ = run_loss(**fields)

  @small.jit
  def act(state, target):
    def step(carry, frame):
      obs = {'image': frame.image, 'is_first': frame.is_first}
      carry = carry.replace(action=frame.action)
      carry, _, extras = agent.policy(state, carry, obs, KEY, explore=True)
      return carry, extras['similarity']

    frames = jax.tree.map(lambda x: x.swapaxes(0, 1), target)
    carry = agent.initial_carry(batch.target.reward.shape[0])
    return jax.lax.scan(step, carry, frames)[1]

  weights = jnp.moveaxis(act(state, batch.target), 0, -1)
  assert np.asarray(weights).std() > 1e-3
  small.assert_close(weights, forward.similarity, 1e-4)


def test_separate_teachers_equal_a_mixture_of_them():
  """Each separate teacher is the mixture under one of its labels."""
  mixture, separate = build(), build(teachers='separate')
  params = small.model_params(mixture.teacher, 1)
  models, singles = [], []
  for domain, dim in enumerate(DIMS):
    model = dataclasses.replace(mixture.teacher, num_domains=1, action_dim=dim)
    kernel = params['encoder']['layers_0']['kernel']
    planes = jnp.concatenate(
      [kernel[:, :, domain : domain + 1], kernel[:, :, 2:]], 2
    )
    layer = {**params['encoder']['layers_0'], 'kernel': planes}
    inp = params['rssm']['inp']
    stoch = mixture.teacher.sizes.stoch
    rows = [
      inp['kernel'][: stoch + dim],
      inp['kernel'][stoch + 3 + domain][None],
    ]
    inp = {**inp, 'kernel': jnp.concatenate(rows)}
    singles.append(
      {
        'encoder': {**params['encoder'], 'layers_0': layer},
        'rssm': {**params['rssm'], 'inp': inp},
      }
    )
    models.append(model)
  stacked = teachers.stack_separate(models, singles, 3)
  batch, rng = small.finetune_batch(mixture), mixture.rng(KEY)
  frozen = {k: params[k] for k in ('encoder', 'rssm')}
  expected = small.teacher_features(mixture, frozen, batch, rng)
  found = small.teacher_features(separate, stacked, batch, rng)
  small.assert_close(found, expected)


def test_to_teacher_the_student_predicts_the_teachers_features():
  agent, state, batch, metrics, (world, forward), grads = run_loss(
    direction='to_teacher'
  )
  params = state.params['model']['transfer']
  assert set(params) == {'predict_teachers', 'similarity', 'vae'}
  latent, _ = teacher_outputs(agent, state, batch)
  mapped = transfer.predict_teachers(agent, params, feature(world.latent))
  distance = jnp.square(mapped - feature(latent)).mean(-1)
  small.assert_close(forward.distance, distance)
  assert small.differ(
    grads['world_model'], run_loss('no_distill')[-1]['world_model']
  )
  # The generator reads the teacher's own features.
  rng = agent.rng(KEY).split()[0]
  features = small.teacher_features(agent, state.teacher, batch, rng)
  small.assert_close(forward.replay.states, features.source)
  assert np.isfinite(metrics['model_loss'])


def test_the_generator_learns_from_the_selected_domain():
  agent, state, batch, metrics, _, grads = run_loss(generator='selected')
  rng = agent.rng(KEY).split()[0]
  source = small.teacher_features(agent, state.teacher, batch, rng).source
  used = jax.nn.one_hot(metrics['similarity'].argmax(), 2)

  def loss(params):
    args = agent, params, source, batch.sources, used, rng
    return finetune.replay_loss(*args)[0]

  params = state.params['model']['transfer']
  expected, gradient = small.jit(jax.value_and_grad(loss))(params)
  small.assert_close(metrics['vae_loss'], expected)
  small.assert_close(grads['transfer']['vae'], gradient['vae'])


def test_the_generator_is_frozen_after_its_share():
  agent = build(generator_until=0.5)
  old = small.state_of(agent)
  new = old.replace(params=jax.tree.map(lambda x: x + 1, old.params))
  part = lambda state: state.params['model']['transfer']['vae']
  for step, frozen in ((4, False), (5, True)):
    before = old.replace(step=jnp.int32(step))
    after = transfer.freeze_generator(agent, before, new)
    small.assert_equal(part(after), part(before if frozen else new))
    small.assert_equal(after.params['actor'], new.params['actor'])


GUIDED = {
  'direction': 'to_teacher',
  'generator_start': 'pretrained',
  'generator_until': 0.0,
}


def test_a_pretrained_generator_needs_no_source_batches():
  agent = build(**GUIDED, guidance='prior')
  assert not agent.trains_generator and agent.variant.generates_actions
  assert small.finetune_batch(agent).sources is None
  pretrainer = learner.build_pretrainer(small.config(), DIMS)
  teacher = small.state_of(pretrainer)
  state = small.jit(agent.init)(KEY, pretrainer.teacher_params(teacher))
  small.assert_equal(
    state.params['model']['transfer']['vae'], teacher.params['generator']
  )


def demonstrated(agent, num, weight, limit):
  """Initial states with demonstrations of random actions in ±limit."""
  action = small.normal(num, 2).clip(-limit, limit)
  demonstration = transfer.Demonstration(action, jnp.full((num, 2), weight))
  return imagination.Start(
    agent.student.initial(num), jnp.ones(num, int), None, demonstration
  )


def test_the_prior_draws_the_actor_to_the_generated_actions():
  agent = build(**GUIDED, guidance='prior', prior_scale=100.0)
  state = small.state_of(agent)
  start = demonstrated(agent, 6, 0.7, 1.0)
  loss = lambda actor, state: actor_critic.actor_loss(
    agent, state, actor, start, agent.rng(KEY)
  )
  value_and_grad = small.jit(jax.value_and_grad(loss, has_aux=True))
  (_, (before, *_)), grads = value_and_grad(state.params['actor'], state)
  moved = jax.tree.map(lambda x, g: x - 1e-4 * g, state.params['actor'], grads)
  (_, (after, *_)), _ = value_and_grad(moved, state)
  assert after['prior_kl'] < before['prior_kl']
  for step, strength in (
    (0, 1), (2_500, 1e-3**0.5), (5_000, 1e-3), (10_000, 1e-6), (10**6, 0),
  ):  # fmt: skip
    later = state.replace(step=jnp.int32(step))
    (_, (metrics, *_)), _ = value_and_grad(state.params['actor'], later)
    expected = pytest.approx(strength, rel=1e-4)
    assert metrics['guidance_strength'] == expected


def test_no_updates_of_guidance_are_no_prior():
  agent = build(**GUIDED, guidance='prior', guidance_updates=0)
  assert transfer.prior_strength(agent, jnp.int32(0)) == 0


def test_the_prior_keeps_the_policy_as_wide_as_itself():
  """Not as narrow as it can be, as the actions' likelihood would."""
  agent = build(
    **GUIDED, guidance='residual+prior', prior_scale=1e6, prior_std=0.5
  )
  state = small.state_of(agent)
  start = demonstrated(agent, 6, 1.0, 0.9)
  actor = state.params['actor']
  optimizer = optax.adam(0.03)

  @small.jit
  def update(actor, opt):
    loss = lambda actor: actor_critic.actor_loss(
      agent, state, actor, start, agent.rng(KEY)
    )
    grads, (metrics, imagined, *_) = jax.grad(loss, has_aux=True)(actor)
    changes, opt = optimizer.update(grads, opt)
    std = imagined.dist.std[0].mean()
    return optax.apply_updates(actor, changes), opt, metrics['prior_kl'], std

  opt = optimizer.init(actor)
  for _ in range(200):
    actor, opt, kl, std = update(actor, opt)
  assert kl < 0.02 and abs(std - 0.5) < 0.05


def test_demonstrations_are_generated_at_the_teachers_states():
  agent, state, batch, _, (_, forward), _ = run_loss(guidance='prior')
  latent, _ = teacher_outputs(agent, state, batch)
  params = state.params['model']['transfer']
  feat = transfer.select(feature(latent), forward.label)
  states = transfer.distill(agent, params, feat)
  noise = jnp.zeros((*forward.label.shape, agent.vae.latent_dim))
  action, mask = transfer.generate_actions(
    agent, params, states, forward.label, noise
  )
  small.assert_close(forward.demonstration.action, action)
  weight = forward.similarity.max(0)[..., None] * mask
  small.assert_close(forward.demonstration.weight, weight)


def test_actions_that_a_domain_does_not_have_are_not_generated():
  agent = build(direction='to_teacher')
  params = small.state_of(agent).params['model']['transfer']
  feat = small.normal(4, agent.teacher.feat_dim)
  noise = jnp.zeros((4, agent.vae.latent_dim))
  label = jnp.array([0, 1, 0, 1])
  action, mask = transfer.generate_actions(agent, params, feat, label, noise)
  assert action.shape == mask.shape == (4, 2)
  np.testing.assert_array_equal(mask, [[1, 0], [1, 1]] * 2)
  assert not np.any(action[::2, 1]) and np.all(action[:, 0])


def test_generated_actions_act_in_early_episodes():
  agent = build(**GUIDED, guidance='jump_start', jump_start_share=1.0)
  state, num = small.state_of(agent), 3
  batch = small.finetune_batch(agent).target
  act = small.jit(agent.policy, static_argnums=4)

  def step(state, carry, t, explore=True):
    image = jnp.broadcast_to(batch.image[0, t], (num, 64, 64, 3))
    obs = {'image': image, 'is_first': jnp.full(num, t == 0)}
    return act(state, carry, obs, KEY, explore)

  carry, action, extras = step(state, agent.initial_carry(num), 0)
  assert carry.guided.all()
  label = extras['similarity'].argmax(0)
  feat = transfer.select(feature(carry.teacher), label)
  params = state.params['model']['transfer']
  noise = jnp.full((num, agent.vae.latent_dim), 0.3)
  expected, mask = transfer.generate_actions(agent, params, feat, label, noise)
  acting = mask > 0
  assert acting.any()
  small.assert_close(action[acting], expected[acting], 1e-4)
  assert not np.any(np.asarray(action)[~acting] == 0)  # The policy's own.
  # Late in training the episode that has begun stays guided; a new one is not.
  late = state.replace(step=jnp.int32(agent.variant.guidance.updates))
  assert step(late, carry, 1)[0].guided.all()
  assert not step(late, carry, 0)[0].guided.any()
  _, evaluated, _ = step(state, agent.initial_carry(num), 0, False)
  assert small.differ(evaluated, action)


def without_output(actor):
  """Parameters of an actor whose network adds nothing to a base action."""
  out = jax.tree.map(jnp.zeros_like, actor['mlp']['out'])
  return {'mlp': {**actor['mlp'], 'out': out}}


def test_the_policy_corrects_the_generated_action():
  agent = build(**GUIDED, guidance='residual')
  state, num = small.state_of(agent), 3
  actor = without_output(state.params['actor'])
  state = state.replace(params={**state.params, 'actor': actor})
  obs = {
    'image': jnp.broadcast_to(
      small.finetune_batch(agent).target.image[0, 0], (num, 64, 64, 3)
    ),
    'is_first': jnp.ones(num, bool),
  }
  act = small.jit(agent.policy, static_argnums=4)
  carry, action, extras = act(state, agent.initial_carry(num), obs, KEY, False)
  label = extras['similarity'].argmax(0)
  feat = transfer.select(feature(carry.teacher), label)
  params = state.params['model']['transfer']
  noise = jnp.zeros((num, agent.vae.latent_dim))
  expected, _ = transfer.generate_actions(agent, params, feat, label, noise)
  assert np.abs(expected).max() < 0.98 and np.any(expected)
  small.assert_close(action, expected, 1e-4)
  # In imagination it is generated at the student's states.
  start = imagination.Start(agent.student.initial(num), label)
  model = state.params['model']
  imagined = imagination.imagine(agent, model, actor, start, agent.rng(KEY))
  states = transfer.predict_teachers(agent, params, imagined.feat[0])
  noise = jnp.full((num, agent.vae.latent_dim), 0.3)
  base, _ = transfer.generate_actions(
    agent, params, transfer.select(states, label), label, noise
  )
  small.assert_close(imagined.dist.mean[0], base, 1e-4)


def test_the_prior_of_a_residual_holds_where_the_policy_acts():
  agent = build(**GUIDED, guidance='residual+prior', prior_scale=100.0)
  state, num = small.state_of(agent), 6
  start = demonstrated(agent, num, 1.0, 0.9)

  def kl(base, has_action=(1, 1)):
    actor = without_output(state.params['actor'])
    weight = jnp.broadcast_to(jnp.array(has_action, float), (num, 2))
    other = start.replace(demonstration=transfer.Demonstration(base, weight))
    loss = small.jit(actor_critic.actor_loss, static_argnums=0)
    _, (metrics, *_) = loss(agent, state, actor, other, agent.rng(KEY))
    return metrics['prior_kl']

  # The mean is the action itself, whatever the student's state is, and the
  # standard deviation 1.1; that of the prior is 0.3.
  ratio = (1.1 / 0.3) ** 2
  each = (ratio - 1 - np.log(ratio)) / 2
  action = start.demonstration.action
  for base in action, -action:
    assert kl(base) == pytest.approx(2 * each, rel=1e-4)
  # The source lacks the second action.
  assert kl(action, (1, 0)) == pytest.approx(each, rel=1e-4)


class TestRehearsal:
  def batch(self, agent, size=3):
    batch = small.finetune_batch(agent)
    sources = small.batch_of(2, size, 6, action_dim=3, seed=5)
    return batch.replace(rehearsal=sources)

  def test_all_domains_in_turn(self):
    agent = build('dreamerv2', rehearsal=0.5)
    state, batch = small.state_of(agent), self.batch(agent)
    for step, expected in ((0, [0, 1, 0]), (1, [1, 0, 1])):
      now = state.replace(step=jnp.int32(step))
      chosen = rehearsal.select_domains(now, batch)
      np.testing.assert_array_equal(chosen.rehearsal_domain, expected)

  def test_rows(self):
    agent = build('dreamerv2', rehearsal=0.5)
    state, batch = small.state_of(agent), self.batch(agent)
    batch = rehearsal.select_domains(state, batch)
    rows = rehearsal.join_rows(agent, batch)
    np.testing.assert_array_equal(rows.reward_mask, [1, 1, 0, 0, 0])
    source = batch.rehearsal
    for row, domain in enumerate([0, 1, 0]):
      found = jax.tree.map(lambda x, row=row: x[2 + row], rows.batch)
      np.testing.assert_array_equal(found.image, source.image[domain, row])
      width = min(DIMS[domain], 2)
      action = np.zeros((6, 2), np.float32)
      action[:, :width] = source.action[domain, row, :, :width]
      np.testing.assert_array_equal(found.action, action)

  def test_the_most_similar_domain(self):
    agent = build(rehearsal=0.5, rehearsal_domains='selected')
    state, batch = small.state_of(agent), self.batch(agent)
    state = state.replace(similarity=jnp.array([0.2, 0.8]))
    chosen = rehearsal.select_domains(state, batch)
    np.testing.assert_array_equal(chosen.rehearsal_domain, 1)
    new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
    mean = 0.99 * state.similarity + 0.01 * metrics['similarity']
    small.assert_close(new.similarity, mean)
    rows = rehearsal.join_rows(agent, chosen)
    label = rehearsal.join_labels(rows, jnp.zeros((2, 6), int))
    np.testing.assert_array_equal(label[2:], 1)

  def test_recorded_actions_are_demonstrations(self):
    agent = build(**GUIDED, guidance='prior', rehearsal=0.5)
    batch = self.batch(agent)
    batch = rehearsal.select_domains(small.state_of(agent), batch)
    rows = rehearsal.join_rows(agent, batch)
    generated = transfer.Demonstration(*jnp.full((2, 2, 6, 2), 0.5))
    joined = rehearsal.join_demonstrations(agent, rows, generated)
    np.testing.assert_array_equal(joined.action[:2], 0.5)
    source = batch.rehearsal
    for row, domain in enumerate([0, 1, 0]):
      width = min(DIMS[domain], 2)
      np.testing.assert_array_equal(
        joined.action[2 + row, :-1, :width],
        source.action[domain, row, 1:, :width],
      )
      expected = np.zeros((6, 2))
      expected[:-1, :width] = 1  # None is known for the last state.
      np.testing.assert_array_equal(joined.weight[2 + row], expected)

  def test_the_student_learns_images_but_no_rewards_of_the_sources(self):
    agent = build('dreamerv2', rehearsal=0.5)
    state, batch = small.state_of(agent), self.batch(agent)
    batch = rehearsal.select_domains(state, batch)
    loss = small.jit(finetune.model_loss, static_argnums=0)

    def metrics(batch: Batch):
      rngs = agent.rng(KEY).split()
      return loss(agent, state.params['model'], {}, batch, rngs)[1][0]

    before = metrics(batch)
    sources = batch.rehearsal
    other = sources.replace(reward=sources.reward + 3)
    assert metrics(batch.replace(rehearsal=other)) == before
    other = sources.replace(image=sources.image // 2)
    changed = metrics(batch.replace(rehearsal=other))
    assert changed['image_loss'] != before['image_loss']
    assert changed['reward_loss'] == before['reward_loss']


@pytest.mark.parametrize(
  'fields',
  [
    {'teachers': 'none', 'start': 'teacher', 'pretrain_actions': False},
    {'teachers': 'none', 'start': 'stacked', 'pretrain_actions': True},
    pytest.param(
      {'pretrain_actions': False, 'guidance': 'feature+prior+jump_start'},
      marks=pytest.mark.slow,
    ),
    pytest.param({'pretrain_actions': True, 'guidance': 'residual'}),
  ],
  ids=lambda fields: '-'.join(map(str, fields.values())),
)
def test_a_step_with_either_pretraining(fields):
  agent = build(**fields)
  state, batch = small.state_of(agent), small.finetune_batch(agent)
  width = 3 if fields['pretrain_actions'] else 0
  assert agent.pretrained.action_dim == width
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  for leaf in jax.tree.leaves((new, metrics)):
    assert np.isfinite(leaf).all()
  obs = {'image': batch.target.image[:, 0], 'is_first': np.ones(2, bool)}
  act = small.jit(agent.policy, static_argnums=4)
  carry, action, _ = act(new, agent.initial_carry(2), obs, KEY, True)
  same = jax.tree.structure(agent.initial_carry(2))
  assert jax.tree.structure(carry) == same and action.shape == (2, 2)


def test_shares_of_the_training_need_its_length():
  variant = learner.parse('vid2act', SOURCES, {'generator_until': 0.5})
  with pytest.raises(ValueError, match='num_updates'):
    learner.build_agent(small.config(), 2, DIMS, variant=variant)
