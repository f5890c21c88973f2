"""Tests of the losses against numbers computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.losses import behavior, returns, transfer
from vid2act_jax.losses.world_model import discount_loss, kl_loss, reward_loss
from vid2act_jax.nets import dists
from vid2act_jax.types import Normal

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _array(*values):
  return jnp.array(values, jnp.float32)


def _normal(mean, std):
  return Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def test_lambda_returns_by_hand():
  # The last reward (7) and the first value (5) are not used.
  reward, value = _array(1, 2, 3, 7), _array(5, 1, 1.5, 2)
  r2 = 3 + 0.9 * (0.2 * 2 + 0.8 * 2)  # 4.8, bootstrapped with v3 = 2
  r1 = 2 + 0.9 * (0.2 * 1.5 + 0.8 * r2)  # 5.726
  r0 = 1 + 0.9 * (0.2 * 1 + 0.8 * r1)  # 5.30272
  assert r0 == pytest.approx(5.30272)
  ours = returns.lambda_returns(reward, value, jnp.full(4, 0.9), 0.8)
  np.testing.assert_allclose(ours, [r0, r1, r2], rtol=1e-6)


def test_lambda_returns_against_a_loop():
  rng = np.random.default_rng(0)
  reward, value = rng.normal(size=(2, 9, 5, 3))
  discount = rng.uniform(size=(9, 5, 1))
  expected = np.zeros((8, 5, 3))
  future = value[8]
  for t in range(7, -1, -1):
    after = 0.1 * value[t + 1] + 0.9 * future
    expected[t] = reward[t] + discount[t] * after
    future = expected[t]
  ours = returns.lambda_returns(
    *(jnp.asarray(x, jnp.float32) for x in (reward, value, discount)), 0.9
  )
  np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-5)


def test_a_reward_affects_only_returns_of_earlier_states():
  reward = _array(0, 1, 0, 0, 0)
  discount = jnp.full(5, 0.9)
  ours = returns.lambda_returns(reward, jnp.zeros(5), discount, 0.8)
  np.testing.assert_allclose(ours, [0.9 * 0.8, 1, 0, 0], rtol=1e-6)


def test_returns_stop_at_a_terminal_state():
  reward, value = _array(1, 2, 3, 4, 5), _array(7, 7, 7, 7, 7)
  discount = _array(0.9, 0.9, 0, 0.9, 0.9)
  ours = returns.lambda_returns(reward, value, discount, 1.0)
  # The reward of the terminal state (3) counts, later rewards do not.
  next_episode = 4 + 0.9 * 7
  expected = [1 + 0.9 * (2 + 0.9 * 3), 2 + 0.9 * 3, 3, next_episode]
  np.testing.assert_allclose(ours, expected, rtol=1e-6)
  weights = returns.discount_weights(discount)
  np.testing.assert_allclose(weights, [1, 0.9, 0.81, 0, 0], rtol=1e-6)


def test_discount_weights_start_at_one():
  weights = returns.discount_weights(jnp.full((4, 1), 0.9))
  np.testing.assert_allclose(weights[:, 0], [1, 0.9, 0.81, 0.729], rtol=1e-6)


def test_kl_by_hand():
  # N(1, 2) against N(0, 1): log(1/2) + (4 + 1) / 2 - 1/2
  # N(0, 1) against N(1/2, 2): log(2) + (1 + 1/4) / 8 - 1/2
  expected = -math.log(2) + 2 + math.log(2) + 1.25 / 8 - 0.5
  left, right = _normal([1, 0], [2, 1]), _normal([0, 0.5], [1, 2])
  assert float(dists.kl(left, right)) == pytest.approx(expected, rel=1e-6)


def _unit_normals(post, prior):
  """With unit deviations a state's KL is half the squared distance."""
  post, prior = jnp.asarray(post), jnp.asarray(prior)
  return _normal(post, jnp.ones_like(post)), _normal(
    prior, jnp.ones_like(prior)
  )


def _loss_of_means(free, balance=0.8):
  def loss(post, prior):
    return kl_loss(*_unit_normals(post, prior), balance, free)[0]

  return jax.value_and_grad(loss, argnums=(0, 1))


def test_kl_balance_weights_the_gradients():
  post, prior = np.array([[[3.0], [1.0]]]), np.array([[[0.0], [2.0]]])
  loss, (to_post, to_prior) = _loss_of_means(free=0.0)(post, prior)
  assert float(loss) == pytest.approx((9 / 2 + 1 / 2) / 2)
  difference = (post - prior) / 2  # The mean is over two states.
  np.testing.assert_allclose(to_post, 0.2 * difference, rtol=1e-6)
  np.testing.assert_allclose(to_prior, -0.8 * difference, rtol=1e-6)


def test_no_gradient_below_the_free_nats():
  post, prior = np.array([[[1.0], [0.5]]]), np.zeros((1, 2, 1))
  loss, grads = _loss_of_means(free=1.0)(post, prior)
  assert float(loss) == 1.0
  for grad in grads:
    np.testing.assert_array_equal(grad, 0)


def test_free_nats_apply_to_the_mean_not_to_each_state():
  zero = np.zeros((2, 2, 1))
  # KLs 4.5, 0.5, 0, 0: the mean of 1.25 is above, so all states count.
  above = np.array([[[3.0], [1.0]], [[0.0], [0.0]]])
  loss, (grad, _) = _loss_of_means(free=1.0)(above, zero)
  assert float(loss) == pytest.approx(1.25)
  np.testing.assert_allclose(grad, 0.2 * above / 4, rtol=1e-6)
  # KLs 2, 0.5, 0, 0: the mean of 0.625 is below, though one state is not.
  below = np.array([[[2.0], [1.0]], [[0.0], [0.0]]])
  loss, (grad, _) = _loss_of_means(free=1.0)(below, zero)
  assert float(loss) == 1.0
  np.testing.assert_array_equal(grad, 0)


def test_free_nats_apply_to_the_mean_of_a_sharded_batch():
  # Halves with 4.5 and 0.5: together above 1, the second half alone below.
  post = np.array([[[[3.0]]], [[[1.0]]]])

  def loss(half):
    pair = _unit_normals(half, jnp.zeros_like(half))
    return kl_loss(*pair, 0.8, 1.0, axis_name='batch')[0]

  loss, grad = jax.vmap(jax.value_and_grad(loss), axis_name='batch')(post)
  np.testing.assert_allclose(loss, [4.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(grad, 0.2 * post, rtol=1e-6)


def test_kl_loss_returns_the_kl_of_every_state():
  post, prior = _unit_normals(
    np.array([[[2.0, 1.0], [0, 0]]]), np.zeros((1, 2, 2))
  )
  value = kl_loss(post, prior, 0.8, 1.0)[1]
  np.testing.assert_allclose(value, [[2.5, 0]], rtol=1e-6)


def test_reward_loss_by_hand():
  loss = reward_loss(_array([1, 0]), _array([3, 1]))
  assert float(loss) == pytest.approx((2 + 0.5) / 2 + _HALF_LOG_2PI)


def test_reward_loss_of_the_rows_that_have_rewards():
  mean, reward = _array([1, 0], [5, 5], [0, 4]), _array([3, 1], [0, 9], [0, 0])
  loss = reward_loss(mean, reward, _array(1, 0, 1))
  assert float(loss) == pytest.approx((2 + 0.5 + 0 + 8) / 4 + _HALF_LOG_2PI)
  assert float(reward_loss(mean, reward, jnp.zeros(3))) == 0
  grad = jax.grad(reward_loss)(mean, reward, _array(1, 0, 1))
  np.testing.assert_allclose(grad, [[-0.5, -0.25], [0, 0], [0, 1]], rtol=1e-6)
  # Split over devices with different numbers of such rows: 1, 0 and 1.
  split = jax.vmap(
    lambda *xs: reward_loss(*xs, axis_name='batch'), axis_name='batch'
  )
  losses = split(mean[:, None], reward[:, None], _array([1], [0], [1]))
  assert float(losses.mean()) == pytest.approx(float(loss))


def test_discount_loss_by_hand():
  logit = math.log(3)  # A probability of 3/4.
  loss = discount_loss(_array([logit, logit]), _array([1, 0]))
  assert float(loss) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_clipping_has_a_straight_through_gradient():
  x = _array(-3, -0.5, 0.25, 1.5)
  clipped = dists.clip_straight_through(x)
  np.testing.assert_allclose(clipped, [-1, -0.5, 0.25, 1], rtol=1e-6)
  grad = jax.grad(lambda x: dists.clip_straight_through(x).sum())(x)
  np.testing.assert_array_equal(grad, 1)


def test_entropy_by_hand():
  ours = dists.entropy(_normal([[5, -5]], [[1, 2]]))
  expected = 2 * (0.5 + _HALF_LOG_2PI) + math.log(2)
  np.testing.assert_allclose(ours, [expected], rtol=1e-6)


def test_unit_log_prob_has_its_constant_in_each_dimension():
  mean, value = jnp.zeros((2, 3)), jnp.ones((2, 3)).at[0, 0].set(3)
  ours = dists.unit_log_prob(mean, value, 1)
  ones = -0.5 - _HALF_LOG_2PI
  np.testing.assert_allclose(ours, [3 * ones - 4, 3 * ones], rtol=1e-6)
  np.testing.assert_allclose(
    dists.unit_log_prob(mean, value, 0)[1], [ones] * 3, rtol=1e-6
  )


def _distillation(weights, distilled, student):
  return transfer.distillation_loss(weights, distilled, student, 0.1)


def test_distillation_floor_by_hand():
  # Three domains, one sequence of two frames, two features; student at zero.
  distilled = _array([[[1, 1], [1, 1]]], [[[2, 0], [4, 0]]], [[[0, 2], [0, 0]]])
  weights = _array([[0.05, 0.2]], [[0.02, 0.3]], [[0.93, 0.5]])
  loss, distance = _distillation(weights, distilled, jnp.zeros((1, 2, 2)))
  np.testing.assert_allclose(distance[:, 0], [[1, 1], [2, 8], [2, 0]])
  first = 0.1 * 1 + 0.1 * 2 + 0.93 * 2  # Two weights are raised to the floor.
  second = 0.2 * 1 + 0.3 * 8 + 0.5 * 0
  assert float(loss) == pytest.approx((first + second) / 2)


def test_distillation_gradients():
  distilled = _array([[[1, 1]]], [[[4, 0]]])
  weights, student = _array([[0.04]], [[0.96]]), jnp.zeros((1, 1, 2))
  loss = lambda *args: _distillation(*args)[0]
  grads = jax.grad(loss, argnums=(0, 1, 2))(weights, distilled, student)
  # Below the floor it is zero; above, it is the distance.
  np.testing.assert_allclose(grads[0], [[[0]], [[8]]])
  # max(w, floor) * 2 (d - s) / F
  expected = np.array([[[[0.1, 0.1]]], [[[0.96 * 4, 0]]]])
  np.testing.assert_allclose(grads[1], expected, rtol=1e-6)
  np.testing.assert_allclose(grads[2], -expected.sum(0), rtol=1e-6)


def _vae_example():
  """Two domains of 2 and 3 action dimensions, one row of two frames each."""
  mask = _array([1, 1, 0], [1, 1, 1])
  action = _array([[[1, 0, 9], [0, 1, 9]]], [[[0, 0, 1], [0, 0, 0]]])
  recon = _array([[[0, 0, 5], [0, 3, 5]]], [[[0, 0, 0], [2, 0, 1]]])
  zeros = jnp.zeros((2, 1, 2, 4))
  mean, std = zeros.at[0].set(0.5), zeros + 1
  return recon, action, _normal(mean, std.at[0].set(2)), mask


def test_vae_loss_by_hand():
  # Means over own dimensions.
  error = (1 + 4) / (2 * 2), (1 + 4 + 1) / (2 * 3)
  kl = -0.5 * (1 + math.log(4) - 0.25 - 4)  # the second domain has none
  got = transfer.vae_loss(*_vae_example())
  np.testing.assert_allclose(got[0], error, rtol=1e-6)
  np.testing.assert_allclose(got[1], [kl, 0], rtol=1e-6)


def test_padded_actions_change_neither_loss_nor_gradient():
  recon, action, latent, mask = _vae_example()

  def loss(recon, latent, action):
    error, kl = transfer.vae_loss(recon, action, latent, mask)
    return (error + kl).sum()

  fn = jax.value_and_grad(loss, argnums=(0, 1))
  before, grads = fn(recon, latent, action)
  np.testing.assert_array_equal(grads[0][0, ..., 2], 0)
  assert np.abs(grads[0][1, ..., 2]).min() > 0
  after, other = fn(recon.at[0, ..., 2].set(-7), latent, action)
  assert float(after) == float(before)
  jax.tree.map(np.testing.assert_array_equal, other, grads)
  after, other = fn(recon, latent, action.at[0, ..., 2].set(-7))
  assert float(after) == float(before)
  jax.tree.map(np.testing.assert_array_equal, other, grads)


def test_critic_loss_by_hand():
  value, target = _array([1], [0]), _array([3], [0])
  weights = _array([1], [0.5])
  expected = (1 * (2 + _HALF_LOG_2PI) + 0.5 * _HALF_LOG_2PI) / 2
  loss = behavior.critic_loss(value, target, weights)
  assert float(loss) == pytest.approx(expected)
  fn = jax.grad(behavior.critic_loss, argnums=(0, 1))
  to_value, to_target = fn(value, target, weights)
  np.testing.assert_allclose(to_value, [[-2 / 2], [0]])
  np.testing.assert_array_equal(to_target, 0)


def test_actor_loss_by_hand():
  target, entropy = _array([1, 3], [2, 0]), _array([10, 0], [20, 0])
  loss = lambda *args: behavior.actor_loss(*args, _array([1], [0.9]), 0.1)
  expected = -(1 * (2 + 3) + 0.9 * (4 + 0)) / 4
  assert float(loss(target, entropy)) == pytest.approx(expected)
  to_return, to_entropy = jax.grad(loss, argnums=(0, 1))(target, entropy)
  np.testing.assert_allclose(to_return, [[-0.25] * 2, [-0.225] * 2])
  np.testing.assert_allclose(to_entropy, 0.1 * to_return, rtol=1e-6)


def test_reward_std_is_unbiased():
  stats = behavior.reward_stats(_array([1, 2], [3, 6]))
  assert float(stats['reward_mean']) == 3
  expected = math.sqrt((4 + 1 + 0 + 9) / 3)
  assert float(stats['reward_std']) == pytest.approx(expected)
