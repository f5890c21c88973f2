"""Diagnostics of a model's parts, against what can be computed by hand."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small
from vid2act_jax import learner
from vid2act_jax.learner import diagnostics, finetune, transfer
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import Latent


@pytest.mark.parametrize('num', [1, 6, 7, 12, 13])
def test_batches_of_rows_are_all_rows(num):
  seen = []

  def double(rows, key):
    seen.append(len(rows['x']))
    return 2 * rows['x'], jax.random.normal(key, (len(rows['x']),))

  rows = {'x': np.arange(num * 3.0).reshape(num, 3)}
  doubled, noise = diagnostics.in_batches(double, rows, jax.random.key(0))
  np.testing.assert_array_equal(doubled, 2 * rows['x'])
  assert set(seen) == {6} and len(noise) == num
  assert len(np.unique(noise)) == num


def test_last_frame_repeated():
  image = np.zeros((2, 8, 64, 64, 3), np.uint8)
  image[:, :5] = 7  # The context: only its last frame counts.
  image[0, 5], image[0, 6], image[0, 7] = 7, 7 + 51, 7 + 102
  image[1, 5:] = 7
  image[:, 0] = 200
  batch = small.batch_of(2, 8, action_dim=1).replace(image=image)
  found = diagnostics.last_frame(batch)
  assert found == pytest.approx([0, 0.5 * 0.2**2, 0.5 * 0.4**2])


def test_error_of_each_predicted_frame():
  def open_loop(state, batch, key):
    truth = jnp.full((*batch.reward.shape, 64, 64, 3), 0.5)
    guess = truth + state * batch.reward[..., None, None, None]
    return jnp.concatenate([truth, guess, guess], 2)

  batch = small.batch_of(7, 8, action_dim=1)
  reward = np.zeros((7, 8), np.float32)
  reward[:, 4], reward[:, 6], reward[-1, 7] = 9, 1, 2
  found = diagnostics.prediction(
    types.SimpleNamespace(open_loop=open_loop),
    jnp.float32(0.1),
    batch.replace(reward=reward),
    small.KEY,
  )
  assert found == pytest.approx([0, 0.01, 0.04 / 7])


def test_vae_is_that_of_the_losses():
  s = small.setup()
  keys = s.agent.rng(small.KEY).split()
  loss = small.jit(
    lambda *xs: finetune.model_loss(s.agent, *xs, s.batch, keys)[1][0]
  )
  metrics = loss(s.state.params['model'], s.state.teacher)
  sources = jax.tree.map(lambda x: x.swapaxes(0, 1), s.batch.sources)
  found = diagnostics.action_replay(s.agent, s.state, sources, small.KEY)
  for key in ('error', 'kl'):
    mean = np.mean([figures[key] for figures in found])
    assert mean == pytest.approx(float(metrics[f'vae_{key}']), rel=1e-4)
  assert [len(figures['recorded']) for figures in found] == [1, 3]


def test_vae_that_guesses_the_mean():
  rng = np.random.default_rng(0)
  recorded = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
  recon = np.broadcast_to(recorded.mean(0), recorded.shape)
  kl = np.tile([0.0, 0.5, 0.005], (500, 1))
  found = diagnostics.domain_replay(recorded, recon, recon, kl)
  assert found['error'] == pytest.approx(found['variance'], rel=1e-5)
  assert found['active'] == 1 and found['latent'] == 3
  assert found['kl'] == pytest.approx(0.505 / 3)
  assert max(found['replayed'][0]) == pytest.approx(10)  # All in a bin of 0.1.
  exact = diagnostics.domain_replay(recorded, recorded, recorded, kl)
  assert exact['error'] == 0 and exact['replayed'] == exact['recorded']


def test_coverage_of_recorded_actions():
  rng = np.random.default_rng(0)
  draw = lambda low, high: rng.uniform(low, high, (800, 2)).astype(np.float32)
  recorded = draw(-1, 1)
  assert diagnostics.coverage(recorded, recorded) == 1
  assert 0.95 < diagnostics.coverage(recorded, draw(-1, 1)) < 0.99
  # A quarter of the square, and what is nearer than 0.05 to it.
  assert 0.23 < diagnostics.coverage(recorded, draw(-0.5, 0.5)) < 0.35
  # Most are saturated: at a corner, and on the other side.
  corner = np.ones((800, 2), np.float32)
  assert diagnostics.coverage(corner, corner * 0.97) == 1
  assert diagnostics.coverage(corner, -corner) == 0
  assert diagnostics.coverage(corner[:2], corner) == 1


def test_following_is_acting():
  s = small.setup()
  batch = s.batch.target
  found = diagnostics.follow(s.agent, s.state, batch, small.KEY)
  inputs, weights, teacher = found
  carry = s.agent.initial_carry(2)
  policy = small.jit(s.agent.policy, static_argnums=4)
  dist = s.agent.actor.apply({'params': s.state.params['actor']}, inputs)
  for t in range(batch.reward.shape[1]):
    obs = {'image': batch.image[:, t], 'is_first': batch.is_first[:, t]}
    carry = carry.replace(action=batch.action[:, t])
    carry, action, extras = policy(s.state, carry, obs, small.KEY, False)
    np.testing.assert_allclose(action, dist.mean[:, t], atol=1e-5)
    np.testing.assert_allclose(extras['similarity'], weights[:, t].T, atol=1e-6)
    expected = feature(carry.teacher).swapaxes(0, 1)
    np.testing.assert_allclose(teacher[:, t], expected, atol=1e-5)


def test_what_weights_depend_on():
  """A view that knows all may be far, and one that knows nothing near."""
  s = small.setup()
  size, (rows, length) = s.agent.student.feat_dim, (60, 5)
  rng = np.random.default_rng(0)
  student = rng.normal(size=(rows, length, size)).astype(np.float32)
  knows = 3 * student[..., ::-1] + 2
  views = np.stack([knows, np.zeros_like(knows)], 2)
  found = diagnostics.feature_similarity(s.agent, s.state, student, views)
  assert found[0]['explained'] > 0.95 and abs(found[1]['explained']) < 0.05
  assert found[0]['distance'] > 5 * found[1]['distance']
  bias = s.state.params['model']['transfer']['distill']['out']['bias']
  expected = np.square(bias - student).mean()
  assert found[1]['distance'] == pytest.approx(float(expected), rel=1e-4)


def test_grad_norms_are_those_of_the_losses():
  """Both norms, and that a scale of the loss is one of its gradient."""
  s = small.setup()
  batch, keys = s.batch.target, s.agent.rng(small.KEY).split()
  grad = small.jit(
    lambda *xs: jax.grad(
      lambda *ys: finetune.model_loss(s.agent, *ys, s.batch, keys)[0]
    )(*xs)['world_model']
  )
  total = grad(s.state.params['model'], s.state.teacher)
  found = diagnostics.grad_norms(s.agent, s.state, batch, small.KEY)
  gap = abs(float(optax.tree.norm(total)) - found['others'])
  assert 0 < gap <= found['distillation'] * (1 + 1e-4)

  settings = s.agent.settings
  scales = dataclasses.replace(settings.loss.scales, distillation=10.0)
  loss = dataclasses.replace(settings.loss, scales=scales)
  settings = dataclasses.replace(settings, loss=loss)
  harder = dataclasses.replace(s.agent, settings=settings)
  ten = diagnostics.grad_norms(harder, s.state, batch, small.KEY)
  assert ten['distillation'] == pytest.approx(10 * found['distillation'], 1e-4)
  assert ten['others'] == pytest.approx(found['others'], rel=1e-4)


def test_grad_norm_without_distillation_is_zero():
  s = small.setup()
  off = learner.parse('no_distill')
  agent = dataclasses.replace(s.agent, variant=off)
  found = diagnostics.grad_norms(agent, s.state, s.batch.target, small.KEY)
  assert found['distillation'] == 0 and found['others'] > 0


def test_policy_that_does_not_read_its_guidance():
  s = small.setup()
  found = diagnostics.follow(s.agent, s.state, s.batch.target, small.KEY)
  rng = lambda: np.random.default_rng(0)
  depends = diagnostics.guidance_use(s.agent, s.state, found[0], rng())
  keys = 'shuffled', 'noise', 'across_domains'
  assert all(depends[key] > 0 for key in keys)

  actor = s.state.params['actor']
  first = actor['mlp']['hidden0']['kernel']
  deaf = first.at[s.agent.student.feat_dim :].set(0)
  hidden = {**actor['mlp']['hidden0'], 'kernel': deaf}
  actor = {**actor, 'mlp': {**actor['mlp'], 'hidden0': hidden}}
  state = s.state.replace(params={**s.state.params, 'actor': actor})
  ignores = diagnostics.guidance_use(s.agent, state, found[0], rng())
  assert all(ignores[key] == 0 for key in keys)
  assert ignores['across_states'] > 0


def test_guidance_of_two_domains():
  """Against the actions that the policy takes under either label."""
  s = small.setup()
  inputs, *_ = diagnostics.follow(s.agent, s.state, s.batch.target, small.KEY)
  flat = inputs.reshape(-1, inputs.shape[-1])
  feat = jnp.asarray(flat[:, : s.agent.student.feat_dim])
  params = s.state.params['model']['transfer']
  latent = Latent(feat[:, :3], feat[:, 3:])
  noise = jnp.zeros((len(feat), s.agent.vae.latent_dim))
  actions = []
  for domain in range(2):
    label = jnp.full(len(feat), domain)
    args = s.agent, params, latent, label, noise
    dist = s.agent.actor.apply(
      {'params': s.state.params['actor']}, transfer.actor_input(*args)
    )
    actions.append(dist.mean)
  rng = np.random.default_rng(0)
  found = diagnostics.guidance_use(s.agent, s.state, inputs, rng)
  expected = float(jnp.abs(actions[0] - actions[1]).mean())
  assert found['across_domains'] == pytest.approx(expected, rel=1e-4)
  single = learner.parse('single:a', ('a', 'b'))
  agent = dataclasses.replace(s.agent, variant=single)
  found = diagnostics.guidance_use(agent, s.state, inputs, rng)
  assert found['across_domains'] is None


def test_units_that_are_never_on():
  s = small.setup()
  inputs = np.ones((4, 3, s.agent.student.feat_dim + 5), np.float32)
  inputs[..., -1] = 0
  inputs[1:, ..., -2] = 0  # On in some states.
  found = diagnostics.guidance_use(
    s.agent, s.state, inputs, np.random.default_rng(0)
  )
  assert found['dead_units'] == pytest.approx(1 / 5)
