"""Diagnostics of a teacher, against direct computations."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vid2act_jax import learner
from vid2act_jax.learner import open_loop, teacher_diagnostics, teachers
from vid2act_jax.nets import dists
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import Rng


@pytest.fixture(scope='module')
def setup():
  """A `Pretrainer` of two domains with 1 and 3 actions, and its parameters."""
  owner = learner.build_pretrainer(small.config(), (1, 3), small.CONSTANT)
  return owner, small.model_params(owner.teacher)


def own_actions(owner, batch, domain):
  return batch.replace(
    action=teachers.fit_actions(batch.action, owner.source_mask)[domain]
  )


def test_predictions_with_own_label_and_actions(setup):
  owner, params = setup
  batch = small.batch_of(6, 7, action_dim=2)
  args = owner, params, batch, small.KEY
  found = teacher_diagnostics.predictions(*args)
  predict = small.jit(
    lambda batch, label: open_loop.open_loop(
      owner.teacher, params, batch, Rng(small.KEY, None, small.CONSTANT), label
    )
  )
  for label in range(2):
    own = own_actions(owner, batch, label)
    image = predict(own, jnp.full(6, label))
    truth, guess, _ = np.split(np.asarray(image), 3, 2)
    error = np.square(truth - guess)[:, 5:].mean((0, 2, 3, 4))
    np.testing.assert_allclose(found[label], error, rtol=1e-4)
    frames = teacher_diagnostics.predicted_frames(*args, label)
    np.testing.assert_allclose(frames, guess.clip(0, 1), atol=1e-5)
  assert found[0] != found[1]
  agent = small.setup().agent  # Of the same domains and sizes.
  assert teacher_diagnostics.predictions(agent, *args[1:]) == found


def test_states_and_surprise_are_those_of_the_world_model(setup):
  owner, params = setup
  batch = small.batch_of(7, 8, action_dim=4)
  model, rows = owner.teacher, own_actions(owner, batch, 1)
  label, noise = jnp.ones(7, int), jnp.full((7, 8, 3), 0.3)
  embed = model.embed(params, rows.image, label)
  latent, post = model.observe(
    params, embed, rows.action, rows.is_first, noise, label
  )
  expected = dists.kl(post, model.prior(params, latent.deter))
  args = owner, params, batch, small.KEY
  feat, kl = teacher_diagnostics.states(*args, 1)
  np.testing.assert_allclose(feat, feature(latent), atol=1e-5)
  np.testing.assert_allclose(kl, expected, atol=1e-4)
  each = teacher_diagnostics.kl(*args)
  assert each[1] == pytest.approx(kl[:, 5:].mean(), rel=1e-5)
  assert each[0] != each[1]


def test_a_teacher_without_actions(setup):
  variant = learner.parse('action_free')
  owner = learner.build_pretrainer(small.config(), (1, 3), variant=variant)
  params = small.model_params(owner.teacher)
  batch = small.batch_of(2, 7, action_dim=2)
  other = batch.replace(action=-batch.action)
  found = [
    teacher_diagnostics.predictions(owner, params, x, small.KEY)
    for x in (batch, other)
  ]
  assert found[0] == found[1] and np.isfinite(found[0]).all()


def test_actions_that_states_give():
  """A part of the actions is a linear function of the state they follow."""
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(6, 2)) / 6

  def sequences(num, share):
    feat = rng.normal(size=(num, 20, 6)).astype(np.float32)
    action = rng.normal(size=(num, 20, 2)).astype(np.float32)
    signal = (feat[:, :-1] @ kernel)[:, 4:]
    noise = action[:, 5:] * signal.std()
    action[:, 5:] = share * signal + (1 - share) * noise
    return feat, action

  decode = teacher_diagnostics.decode_actions
  all_of_it = decode(sequences(60, 1), sequences(30, 1))
  # The regression is a ridge regression: it shrinks by a hundredth.
  assert all_of_it['r2'] > 0.999
  nothing = decode(sequences(60, 0), sequences(30, 0))
  assert -0.1 < nothing['r2'] < 0.02
  fitted, tested = sequences(60, 0.5), sequences(30, 0.5)
  half = decode(fitted, tested)
  x, y = (
    z.reshape(-1, z.shape[-1]) for z in (tested[0][:, 4:-1], tested[1][:, 5:])
  )
  x0, y0 = (
    z.reshape(-1, z.shape[-1]) for z in (fitted[0][:, 4:-1], fitted[1][:, 5:])
  )
  ones = lambda z: np.concatenate([z, np.ones((len(z), 1))], 1)
  weights, *_ = np.linalg.lstsq(ones(x0), y0, rcond=None)
  error = np.square(ones(x) @ weights - y).mean()
  assert half['error'] == pytest.approx(error, rel=0.01)
  assert half['variance'] == pytest.approx(y.var(0).mean(), rel=1e-5)
  assert half['r2'] == pytest.approx(1 - half['error'] / half['variance'])
  still = fitted[0], np.zeros_like(fitted[1])
  assert decode(still, still) == {'error': 0, 'variance': 0, 'r2': None}
