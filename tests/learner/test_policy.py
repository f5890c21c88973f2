"""Tests of the policy, in two environments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.small import KEY
from tests.small import assert_close as _close
from tests.small import assert_equal as _equal
from tests.small import differ as _differ
from vid2act_jax import learner
from vid2act_jax.learner import teachers
from vid2act_jax.nets.world_model import feature
from vid2act_jax.rng import ZERO_NOISE, Rng


@pytest.fixture(scope='module')
def setup():
  return small.setup()


@pytest.fixture(scope='module')
def act(setup):
  return small.jit(setup.agent.policy, static_argnums=4)


def _frames(length):
  return small.batch_of(2, length, action_dim=1, seed=5).image


def _obs(frames, t, first=(False, False)):
  return {'image': frames[:, t], 'is_first': jnp.array(first)}


def _rollout(act, setup, frames, resets):
  """Acts without exploration; returns all carries, actions and extras."""
  carry, out = setup.agent.initial_carry(2), []
  for t in range(frames.shape[1]):
    first = [t in times for times in resets]
    carry, action, extras = act(
      setup.state, carry, _obs(frames, t, first), KEY, False
    )
    out.append((carry, action, extras))
  return jax.tree.map(lambda *xs: np.stack(xs), *out)


def test_states_equal_those_of_training(setup, act):
  """Of the student, and of the teacher under every label."""
  agent, state, frames = setup.agent, setup.state, _frames(4)
  carry, action, extras = _rollout(act, setup, frames, [{0, 2}, {0}])
  first = jnp.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
  prev_action = np.roll(action, 1, 0).swapaxes(0, 1)

  zero_rng = Rng(KEY, noise_fns=ZERO_NOISE)

  def observe(model, params, action, label):
    embed = model.embed(params, frames, label)
    noise = model.latent_noise(zero_rng, (2, 4))
    return model.observe(params, embed, action, first, noise, label)[0]

  observe = small.jit(observe, static_argnums=0)
  world = state.params['model']['world_model']
  student = observe(agent.student, world, prev_action, None)
  time_first = lambda x: x.swapaxes(0, 1)
  _close(carry.student, jax.tree.map(time_first, student))
  fitted = teachers.fit_actions(jnp.asarray(prev_action), agent.source_mask)
  features = []
  for i in range(2):
    label = jnp.full(2, i)
    teacher = observe(agent.teacher, state.teacher, fitted[i], label)
    ours = jax.tree.map(lambda x, i=i: x[:, i], carry.teacher)
    _close(ours, jax.tree.map(time_first, teacher))
    features.append(feature(teacher))
  logits = agent.similarity.apply(
    {'params': state.params['model']['transfer']['similarity']},
    jnp.stack(features),
    feature(student),
  )
  expected = jax.nn.softmax(logits, 0).transpose(2, 0, 1)
  _close(extras['similarity'], expected)
  _close(carry.action, action)


def test_is_first_resets_the_policy(setup, act):
  frames = _frames(3)
  carry, action, _ = _rollout(act, setup, frames, [{2}, set()])
  plain, _, _ = _rollout(act, setup, frames, [set(), set()])
  fresh, fresh_action, _ = act(
    setup.state, setup.agent.initial_carry(2), _obs(frames, 2), KEY, False
  )
  last = jax.tree.map(lambda x: x[-1], carry)
  _close(last.student.deter[0], fresh.student.deter[0])
  _close(last.teacher.deter[:, 0], fresh.teacher.deter[:, 0])
  _close(action[-1][0], fresh_action[0])
  assert np.abs(last.student.deter[1] - fresh.student.deter[1]).max() > 1e-3
  # The other environment is not affected.
  _equal(last.student.deter[1], plain.student.deter[-1, 1])


def test_teacher_states_do_not_depend_on_the_student(setup, act):
  carry, obs = setup.agent.initial_carry(2), _obs(_frames(1), 0)
  student = jax.tree.map(lambda x: x + 1, carry.student)
  one, _, _ = act(setup.state, carry, obs, KEY, False)
  other, _, _ = act(
    setup.state, carry.replace(student=student), obs, KEY, False
  )
  _equal(one.teacher, other.teacher)
  assert _differ(one.student, other.student)
  teacher = jax.tree.map(lambda x: x.at[0].add(1), carry.teacher)
  other, _, _ = act(
    setup.state, carry.replace(teacher=teacher), obs, KEY, False
  )
  _equal(one.student, other.student)
  second = lambda carry: jax.tree.map(lambda x: x[1], carry.teacher)
  _equal(second(one), second(other))
  assert _differ(one.teacher, other.teacher)


def test_exploration_depends_on_the_key(setup):
  agent = dataclasses.replace(setup.agent, noise_fns=learner.NoiseFns())
  act = small.jit(agent.policy, static_argnums=4)
  carry, obs = agent.initial_carry(2), _obs(_frames(1), 0)
  other_key = jax.random.key(1)
  _equal(
    act(setup.state, carry, obs, KEY, False),
    act(setup.state, carry, obs, other_key, False),
  )
  out = act(setup.state, carry, obs, KEY, True)
  _equal(act(setup.state, carry, obs, KEY, True), out)
  other = act(setup.state, carry, obs, other_key, True)
  assert _differ(out[0].student.stoch, other[0].student.stoch)
  assert _differ(out[0].teacher.stoch, other[0].teacher.stoch)
  assert _differ(out[1], other[1])
  actions = np.stack(
    [
      act(setup.state, carry, obs, jax.random.key(i), True)[1]
      for i in range(20)
    ]
  )
  assert actions.shape == (20, 2, 2)
  assert actions.min() == -1 and actions.max() == 1  # the std is about one
