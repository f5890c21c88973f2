"""Tests of the pure steps of pretraining and finetuning."""

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
from vid2act_jax.learner import finetune, teachers
from vid2act_jax.nets import dists
from vid2act_jax.types import UserError


def _assert_finite(tree):
  for leaf in jax.tree.leaves(tree):
    assert np.isfinite(leaf).all()


@pytest.fixture
def setup():
  return small.setup()


# Target action size, those of the sources, B, L, H and the student's sizes.
_CASES = {
  'one domain, smallest sizes': (3, (3,), 1, 2, 2, {}),
  'target larger than the sources': (5, (2, 3), 3, 4, 4, {}),
  'target smaller, student smaller': (
    1, (4, 2, 2), 2, 5, 3, {'depth': 1, 'deter': 5, 'stoch': 2, 'hidden': 4},
  ),
}  # fmt: skip


def _cases():
  """Each takes seconds to compile: only the last one is not marked as slow."""
  *slow, last = _CASES
  marked = [pytest.param(_CASES[x], id=x, marks=pytest.mark.slow) for x in slow]
  return [*marked, pytest.param(_CASES[last], id=last)]


@pytest.mark.parametrize('case', _cases())
def test_a_step_at_different_sizes(case):
  action_dim, sources, size, length, horizon, student = case
  config = small.config(**student)
  config.behavior.horizon = horizon
  agent = learner.build_agent(config, action_dim, sources)
  state = small.state_of(agent)
  batch = small.finetune_batch(agent, size, length)
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  _assert_finite((new, metrics))
  assert metrics['similarity'].shape == (len(sources),)
  np.testing.assert_allclose(metrics['similarity'].sum(), 1, rtol=1e-5)
  _equal(new.teacher, state.teacher)
  for name in state.params:
    assert _differ(new.params[name], state.params[name])
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(new) == shapes(state)


def test_updates_are_counted_and_the_slow_critic_is_copied(setup):
  state = setup.state
  for done in range(5):
    due = done in (0, 2, 4)  # the period is 2
    expected = state.params['critic'] if due else state.slow_critic
    new, _ = setup.step(state, setup.batch, KEY)
    _equal(new.slow_critic, expected)
    assert _differ(new.params['critic'], expected)
    assert int(new.step) == done + 1
    state = new
  _equal(state.teacher, setup.state.teacher)


def test_model_loss_is_the_sum_of_its_terms(setup):
  _, metrics = setup.step(setup.state, setup.batch, KEY)
  names = ('kl_loss', 'image_loss', 'reward_loss')
  names += ('distillation_loss', 'vae_loss')
  total = sum(float(metrics[name]) for name in names)
  assert float(metrics['model_loss']) == pytest.approx(total, rel=1e-5)


def test_padded_action_dimensions_have_no_effect(setup):
  out = setup.step(setup.state, setup.batch, KEY)
  sources = setup.batch.sources
  assert np.abs(sources.action[0, ..., 1:]).min() > 0
  action = sources.action.at[0, ..., 1:].set(7)
  batch = setup.batch.replace(sources=sources.replace(action=action))
  _equal(setup.step(setup.state, batch, KEY), out)
  # A dimension of the domain has an effect, but not at the first frame.
  action = sources.action.at[0, :, 2, 0].add(0.1)
  batch = setup.batch.replace(sources=sources.replace(action=action))
  other = setup.step(setup.state, batch, KEY)
  assert float(other[1]['vae_loss']) != float(out[1]['vae_loss'])


def test_teachers_read_only_action_dimensions_of_their_domain(setup):
  observe = small.jit(small.teacher_features, static_argnums=0)

  rng = setup.agent.rng(KEY)

  def target_features(dim):
    batch = setup.batch
    action = batch.target.action.at[:, 1:, dim].add(0.5)
    batch = batch.replace(target=batch.target.replace(action=action))
    return observe(setup.agent, setup.state.teacher, batch, rng).target

  plain = observe(setup.agent, setup.state.teacher, setup.batch, rng).target
  # The first domain has a single action dimension.
  _equal(target_features(1)[0], plain[0])
  assert _differ(target_features(1)[1], plain[1])
  assert _differ(target_features(0)[0], plain[0])


def test_actions_are_fitted_to_every_domain():
  mask = teachers.action_mask((1, 3), 3)
  fitted = teachers.fit_actions(jnp.array([[1.0, 2]]), mask)
  np.testing.assert_array_equal(fitted, [[[1, 0, 0]], [[1, 2, 0]]])
  fitted = teachers.fit_actions(jnp.array([[1.0, 2, 3, 4]]), mask)
  np.testing.assert_array_equal(fitted, [[[1, 0, 0]], [[1, 2, 3]]])


def test_a_step_and_the_policy_without_transfer():
  variant = learner.parse('dreamerv2')
  agent = learner.build_agent(small.config(), 2, (), variant=variant)
  state, batch = small.state_of(agent), small.finetune_batch(agent)
  assert state.params['model']['transfer'] == {} == state.teacher
  assert batch.sources is None
  new, metrics = small.jit(agent.finetune_step)(state, batch, KEY)
  _assert_finite((new, metrics))
  assert not {'similarity', 'vae_loss', 'distillation_loss'} & set(metrics)
  obs = {'image': batch.target.image[:, 0], 'is_first': np.ones(2, bool)}
  act = small.jit(agent.policy, static_argnums=4)
  carry, action, extras = act(new, agent.initial_carry(2), obs, KEY, True)
  assert carry.teacher is None and extras == {}
  assert np.abs(action).max() <= 1


def test_randomness_depends_on_the_key_and_the_step():
  agent = learner.build_agent(small.config(), 2, (2,))
  state, batch = small.state_of(agent), small.finetune_batch(agent)
  step = small.jit(agent.finetune_step)
  out = step(state, batch, KEY)
  _equal(step(state, batch, KEY), out)
  for other in (
    step(state.replace(step=state.step + 1), batch, KEY),
    step(state, batch, jax.random.key(1)),
  ):
    for name in ('image_loss', 'vae_loss', 'actor_loss'):
      assert float(other[1][name]) != float(out[1][name])


def _split_rows(batch):
  """Moves the rows to a new first axis: targets of B, sources of N, B."""
  target = jax.tree.map(lambda x: x[:, None], batch.target)
  sources = jax.tree.map(lambda x: x.swapaxes(0, 1)[:, :, None], batch.sources)
  return batch.replace(target=target, sources=sources)


def test_a_sharded_batch_equals_the_global_batch(setup):
  agent, state, batch = setup.agent, setup.state, setup.batch

  def divergence(params):
    rngs = agent.rng(KEY), agent.rng(KEY)
    loss = finetune.model_loss(agent, params, state.teacher, batch, rngs)
    forward = loss[1][1]
    return dists.kl(forward.post, forward.prior).mean(1)

  kl = small.jit(divergence)(state.params['model'])
  # Free nats between the KLs of both shards, and below the global mean.
  free = float((kl.min() + kl.mean()) / 2)
  assert kl.min() < free < kl.mean()
  loss = dataclasses.replace(agent.settings.loss, kl_free=free)
  settings = dataclasses.replace(agent.settings, loss=loss)
  agent = dataclasses.replace(agent, settings=settings)

  def split_step(state, batch, key):
    return agent.finetune_step(state, batch, key, axis_name='batch')

  mapped = jax.vmap(split_step, (None, 0, None), axis_name='batch')
  ours, metrics = small.jit(mapped)(state, _split_rows(batch), KEY)
  whole, expected = small.jit(agent.finetune_step)(state, batch, KEY)
  del metrics['reward_std'], expected['reward_std']  # not a mean over shards
  for device in range(2):
    select = lambda x, i=device: x[i]
    _close(jax.tree.map(select, metrics), expected, 1e-4)
    # Adam's moments show the scale of the gradients, its updates do not.
    _close(jax.tree.map(select, ours.opt), whole.opt, 1e-4)
    _close(jax.tree.map(select, ours.params), whole.params)


def test_a_nonfinite_update_is_skipped(setup):
  target = setup.batch.target
  bad = target.replace(reward=target.reward.at[0, 2].set(jnp.nan))
  new, metrics = setup.step(setup.state, setup.batch.replace(target=bad), KEY)
  assert float(metrics['skipped']) == 1 and np.isnan(metrics['model_loss'])
  assert int(new.step) == int(setup.state.step) + 1
  # Except for the copy to the slow critic, which is due before the update.
  _equal(new.slow_critic, setup.state.params['critic'])
  old = {key: getattr(setup.state, key) for key in ('step', 'slow_critic')}
  _equal(new.replace(**old), setup.state)
  _, metrics = setup.step(new, setup.batch, KEY)
  assert float(metrics['skipped']) == 0


def test_it_overfits_a_small_batch():
  config = small.config(stoch=6, deter=16, hidden=16, units=16)
  config.optim.update(model_lr=1e-2, actor_lr=1e-3, critic_lr=1e-2)
  config.optim.model_clip = 1e6
  agent = learner.build_agent(config, 2, (2, 2))
  batch = small.finetune_batch(agent)
  # Frames of uniform gray: few updates are enough.
  gray = np.linspace(40, 215, 6).astype(np.uint8)[:, None, None, None]
  fill = lambda x: x.replace(image=jnp.broadcast_to(gray, x.image.shape))
  batch = batch.replace(target=fill(batch.target), sources=fill(batch.sources))
  step = small.jit(agent.finetune_step, donate_argnums=0)
  state, history = small.state_of(agent), []
  for _ in range(60):
    state, metrics = step(state, batch, KEY)
    history.append(jax.device_get(metrics))
  constants = {'image_loss': 64 * 64 * 3 * 0.918939, 'reward_loss': 1.837877}
  for name, constant in constants.items():
    first, last = (h[name] - constant for h in (history[0], history[-1]))
    assert last < 0.5 * first, name
  mean = lambda name, part: np.mean([h[name] for h in history[part]])
  for name in ('vae_loss', 'distillation_loss', 'value_loss'):
    assert mean(name, slice(-5, None)) < 0.9 * mean(name, slice(5)), name


def test_pretraining_ignores_padded_actions():
  pretrainer = learner.build_pretrainer(small.config(), (1, 3), small.CONSTANT)
  state = small.state_of(pretrainer)
  batch = small.batch_of(2, 1, 4, action_dim=3)
  step = small.jit(pretrainer.pretrain_step)
  new, metrics = out = step(state, batch, KEY)
  _assert_finite(out)
  assert int(new.step) == 1 and _differ(new.params, state.params)
  names = ('kl_loss', 'image_loss', 'reward_loss')
  total = sum(float(metrics[name]) for name in names)
  assert float(metrics['model_loss']) == pytest.approx(total, rel=1e-5)
  padded = batch.replace(action=batch.action.at[0, ..., 1:].set(7))
  _equal(step(state, padded, KEY), out)
  unpadded = batch.replace(action=batch.action.at[1, ..., 1:].add(0.1))
  assert _differ(step(state, unpadded, KEY)[0], new)


def test_open_loop_videos_have_few_rows_of_every_domain(setup):
  video = jax.eval_shape(
    setup.agent.open_loop, setup.state,
    small.batch_of(8, 7, action_dim=2), KEY,
  )  # fmt: skip
  assert video.shape == (6, 7, 3 * 64, 64, 3)
  pretrainer = learner.build_pretrainer(small.config(), (1, 3, 2, 2))
  video = jax.eval_shape(
    pretrainer.open_loop, small.state_of(pretrainer),
    small.batch_of(4, 3, 7, action_dim=3), KEY,
  )  # fmt: skip
  assert video.shape == (6, 7, 3 * 64, 64, 3)


def test_initial_state(setup):
  agent = setup.agent
  teacher = small.model_params(agent.teacher)
  state = small.jit(agent.init)(KEY, teacher)
  assert set(state.teacher) == {'encoder', 'rssm'}
  _equal(state.teacher, {k: teacher[k] for k in state.teacher})
  _equal(state.slow_critic, state.params['critic'])
  assert int(state.step) == 0
  _assert_finite(state)
  same = lambda x, y: x.shape == y.shape and x.dtype == y.dtype
  assert all(jax.tree.leaves(jax.tree.map(same, state, setup.state)))


@pytest.mark.parametrize(
  'key, value, sources, named',
  [
    ('conv', 'fft', (2,), "'fft'"),
    ('conv', 'auto', (), 'config.sources'),
  ],
)
def test_an_invalid_config_is_an_error(key, value, sources, named):
  config = small.config()
  config[key] = value
  with pytest.raises(UserError, match=named):
    learner.build_agent(config, 2, sources)


def test_bfloat16_update_is_close_to_float32(setup):
  """Parameters, state and metrics stay float32."""
  settings = small.config()
  settings.behavior.slow_period = 2
  settings.kl.free = 0.0
  settings.dtype = 'bfloat16'
  agent = learner.build_agent(settings, 2, (1, 3), small.CONSTANT)
  jaxpr = str(
    jax.make_jaxpr(agent.finetune_step)(setup.state, setup.batch, KEY)
  )
  assert 'bf16' in jaxpr
  new, metrics = small.jit(agent.finetune_step)(setup.state, setup.batch, KEY)
  types = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  expected, expected_metrics = setup.step(setup.state, setup.batch, KEY)
  assert types(new) == types(expected)
  assert types(metrics) == types(expected_metrics)
  for name in ('model_loss', 'kl', 'vae_loss', 'actor_loss', 'value_loss'):
    assert float(metrics[name]) == pytest.approx(
      float(expected_metrics[name]), rel=0.05, abs=0.05
    ), name
  carry = agent.initial_carry(2)
  obs = {
    'image': setup.batch.target.image[:, 0],
    'is_first': jnp.ones(2, bool),
  }
  act = lambda *args: agent.policy(*args, explore=False)
  carry, action, _ = jax.eval_shape(act, new, carry, obs, KEY)
  assert {x.dtype for x in jax.tree.leaves((carry, action))} == {
    jnp.dtype('float32')
  }
