"""Tests of the networks against independent implementations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vid2act_jax.nets import dense, dists, image, rssm
from vid2act_jax.nets.world_model import Compute, Sizes, WorldModel
from vid2act_jax.ops import conv
from vid2act_jax.ops.chunks import sum_chunks
from vid2act_jax.types import Latent

_DIMS = ('NHWC', 'HWIO', 'NHWC')
_SIZES = Sizes(
  depth=2, stoch=3, deter=8, hidden=7, units=6, reward_layers=1
)  # fmt: skip


def _rng():
  return np.random.default_rng(0)


def _normal(*shape):
  return jnp.asarray(_rng().normal(size=shape), jnp.float32)


@pytest.mark.parametrize('network', ['encoder', 'decoder'])
def test_networks_agree_with_all_conv_impls(network):
  """With few channels in the image only, as in practice."""
  if network == 'encoder':
    nets = [image.Encoder(depth=5, conv_impl=impl) for impl in conv.IMPLS]
    x = small.batch_of(2, action_dim=1).image
  else:
    nets = [image.Decoder(depth=5, conv_impl=impl) for impl in conv.IMPLS]
    x = _normal(2, 7)
  shapes = jax.eval_shape(nets[0].init, jax.random.key(0), x)
  params = small.fill(shapes)['params']

  def run(net):
    apply = lambda params: net.apply({'params': params}, x)
    loss = lambda params: jnp.sin(apply(params)).sum()
    return small.jit(lambda p: (apply(p), jax.grad(loss)(p)))(params)

  first, *others = map(run, nets)
  for other in others:
    jax.tree.map(small.assert_norm_close, first, other)


def test_student_and_teacher_share_the_scan_step():
  def step(sizes, action_dim, **keys):
    model = WorldModel(sizes, action_dim, **keys)
    return model._recurrence(small.model_params(model))[0]

  student = step(_SIZES, 2)
  teacher = step(_SIZES, 3, num_domains=2)
  assert student == teacher and hash(student) == hash(teacher)
  assert student == step(_SIZES, 2, embed_dim=5)
  assert student != step(dataclasses.replace(_SIZES, deter=9), 2)
  assert student != step(_SIZES, 2, compute=Compute(dtype='bfloat16'))


def test_encoder_rejects_other_image_sizes():
  with pytest.raises(ValueError, match='62, 62.*64 x 64'):
    image.Encoder(depth=2).init(jax.random.key(0), _normal(1, 62, 62, 3))


@pytest.mark.parametrize('impl', conv.IMPLS)
def test_label_bias_equals_label_planes(impl):
  """In the first convolution of the encoder, with its gradients."""
  encoder = image.Encoder(depth=2, num_domains=3, conv_impl=impl)
  frames = small.batch_of(3, action_dim=1).image
  label = jnp.array([2, 0, 1])
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), frames, label)
  params = small.fill(shapes)['params']

  def with_planes(params):
    planes = jnp.broadcast_to(
      jax.nn.one_hot(label, 3)[:, None, None], (3, 64, 64, 3)
    )
    x = jnp.concatenate([planes, frames / 255.0 - 0.5], -1)
    for i in range(4):
      layer = params[f'layers_{i}']
      x = jax.lax.conv_general_dilated(
        x, layer['kernel'], (2, 2), 'VALID', dimension_numbers=_DIMS
      )
      x = jax.nn.elu(x + layer['bias'])
    return x.reshape(3, -1)

  def with_bias(params):
    return encoder.apply({'params': params}, frames, label)

  def both(fn):
    grad = jax.grad(lambda params: jnp.sin(fn(params)).sum())
    return small.jit(lambda params: (fn(params), grad(params)))(params)

  ours, expected = both(with_bias), both(with_planes)
  assert np.ptp(np.asarray(ours[0]), axis=0).max() > 0.1
  jax.tree.map(small.assert_norm_close, ours, expected)


def test_split_dense_looks_up_labels_as_rows():
  layer = dense.SplitDense(5, (3, 2, 4))
  parameters = {'kernel': _normal(9, 5), 'bias': _normal(5)}
  z, a, label = _normal(6, 3), _normal(6, 2), jnp.array([3, 0, 1, 2, 2, 3])
  bound = layer.bind({'params': parameters})
  ours = bound(0, z) + bound(1, a) + bound(2, label) + bound.bias
  whole = jnp.concatenate([z, a, jax.nn.one_hot(label, 4)], -1)
  small.assert_norm_close(
    ours, whole @ parameters['kernel'] + parameters['bias']
  )


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_gru_matches_its_formula():
  """Gates in the order reset, candidate, update."""
  cell, rng = rssm.GRUCell(4), _rng()
  x, h = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
  kernel, bias = rng.normal(size=(7, 12)), rng.normal(size=12)
  scale, shift = rng.normal(size=(2, 12))
  # Small values, so that the epsilon of the LayerNorm matters.
  kernel, bias = 1e-3 * kernel, 1e-3 * bias
  y = np.concatenate([x, h], -1) @ kernel + bias
  y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
  reset, candidate, update = np.split(y * scale + shift, 3, -1)
  candidate = np.tanh(_sigmoid(reset) * candidate)
  update = _sigmoid(update - 1)
  expected = update * candidate + (1 - update) * h
  parameters = {
    'dense': {'kernel': kernel, 'bias': bias},
    'norm': {'scale': scale, 'bias': shift},
  }
  parameters, x, h = jax.tree.map(jnp.float32, (parameters, x, h))
  small.assert_norm_close(cell.apply({'params': parameters}, x, h), expected)


def test_std_is_bounded():
  raw = jnp.array([-100.0, 0, 2, 100])
  expected = [0.1, 1.1, 2 * _sigmoid(1) + 0.1, 2.1]
  np.testing.assert_allclose(dists.bounded_std(raw), expected, rtol=1e-6)
  stats = dists.from_stats(jnp.array([1.0, 2, 0, -100]))
  np.testing.assert_allclose(stats.mean, [1, 2])
  np.testing.assert_allclose(stats.std, [1.1, 0.1], rtol=1e-6)


def test_sample_is_mean_plus_noise_times_std():
  dist = dists.from_stats(jnp.array([1.0, 2, 0, 0]))
  ours = dists.sample(dist, jnp.array([2.0, -1]))
  np.testing.assert_allclose(ours, [1 + 2.2, 2 - 1.1], rtol=1e-6)


@pytest.fixture(scope='module')
def world():
  """A model with domains, its parameters, and inputs of [2, 6] to observe."""
  model = WorldModel(_SIZES, action_dim=2, num_domains=3)
  params = small.model_params(model)
  rng = _rng()
  draw = lambda *shape: jnp.asarray(rng.normal(size=(2, 6, *shape)), 'float32')
  inputs = {
    'embed': draw(model.encoder.embed_dim),
    'action': draw(2),
    'is_first': jnp.zeros((2, 6), bool),
    'noise': draw(3),
  }
  label = jnp.array([2, 0])
  observe = small.jit(lambda xs: model.observe(params, **xs, label=label))
  return model, params, inputs, label, observe


def test_is_first_resets_the_state(world):
  _, _, inputs, _, observe = world
  first = inputs['is_first'].at[0, 3].set(True)
  reset, post = observe({**inputs, 'is_first': first})
  plain, _ = observe(inputs)
  # The second sequence and the earlier frames are unchanged.
  small.assert_norm_close(reset.deter[1], plain.deter[1])
  small.assert_norm_close(reset.deter[0, :3], plain.deter[0, :3])
  assert np.abs(reset.deter[0, 3:] - plain.deter[0, 3:]).max() > 1e-2
  # From there it equals a new sequence, for any action at the reset.
  fresh = jax.tree.map(lambda x: jnp.roll(x, -3, 1), inputs)
  fresh['action'] = fresh['action'].at[0, 0].set(0)
  alone, alone_post = observe(fresh)
  for ours, expected in ((reset, alone), (post, alone_post)):
    jax.tree.map(
      lambda x, y: small.assert_norm_close(x[0, 3:], y[0, :3]), ours, expected
    )


def test_observe_equals_repeated_observe_step(world):
  model, params, inputs, label, observe = world
  inputs = {**inputs, 'is_first': inputs['is_first'].at[1, 2].set(True)}
  expected = observe(inputs)
  step = small.jit(
    lambda latent, xs: model.observe_step(params, latent, **xs, label=label)
  )
  latent = model.initial(2)
  for t in range(6):
    latent, post = step(latent, {k: v[:, t] for k, v in inputs.items()})
    now = jax.tree.map(lambda x, t=t: x[:, t], expected)
    jax.tree.map(small.assert_norm_close, (latent, post), now)


def test_imagine_step_samples_from_the_prior(world):
  model, params, inputs, label, observe = world
  latent, _ = observe(inputs)
  state = jax.tree.map(lambda x: x[:, 2], latent)
  noise = inputs['noise'][:, 0]
  next_state, prior = model.imagine_step(
    params, state, inputs['action'][:, 3], noise, label
  )
  small.assert_norm_close(next_state.deter, latent.deter[:, 3])
  expected = model.prior(params, latent.deter)
  jax.tree.map(
    lambda x, y: small.assert_norm_close(x, y[:, 3]), prior, expected
  )
  small.assert_norm_close(next_state.stoch, prior.mean + prior.std * noise)


def test_the_recurrence_depends_on_the_domain(world):
  model, params, inputs, _, observe = world
  state = Latent(jnp.ones((2, 3)), jnp.ones((2, 8)))
  args = params, state, inputs['action'][:, 0], inputs['noise'][:, 0]
  one, _ = model.imagine_step(*args, jnp.array([0, 1]))
  other, _ = model.imagine_step(*args, jnp.array([0, 2]))
  np.testing.assert_array_equal(one.deter[0], other.deter[0])
  assert np.abs(one.deter[1] - other.deter[1]).max() > 1e-3


@pytest.mark.parametrize(
  'rows, chunk', [(7, 3), (12, 5), (12, 4), (6, 0), (5, 9)]
)
def test_sum_chunks_has_the_gradients_of_one_call(rows, chunk):
  """For a decoder whose first layers run before, for all rows at once."""
  compute = Compute(conv_impl='subpixel', chunk=chunk)
  model = WorldModel(_SIZES, action_dim=1, compute=compute)
  feat, images = _normal(rows, model.feat_dim), _normal(rows, 64, 64, 3)
  shapes = jax.eval_shape(model.decoder.init, jax.random.key(0), feat)
  params = {'decoder': small.fill(shapes)['params']}

  def fn(params, x, images):
    mean = model.decode_rest(params, x).pixels()
    return jnp.square(mean - images).sum((1, 2, 3))

  def ours(params, feat):
    first = model.decode_first(params, feat)
    # With a factor, like the losses.
    return 3 * sum_chunks(fn, chunk, params, first, images)

  def expected(params, feat):
    mean = model.decoder.apply({'params': params['decoder']}, feat)
    return 3 * jnp.square(mean - images).sum()

  run = lambda fn: small.jit(jax.value_and_grad(fn, (0, 1)))(params, feat)
  value, grads = run(ours)
  true_value, true_grads = run(expected)
  small.assert_norm_close(value, true_value)
  small.assert_norm_close(
    ours(params, feat), true_value
  )  # The path without a gradient.
  jax.tree.map(small.assert_norm_close, grads, true_grads)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(true_grads))


@pytest.mark.parametrize('impl', conv.IMPLS)
def test_image_log_prob_is_the_mean_over_frames(impl):
  compute = Compute(conv_impl=impl, chunk=4)
  model = WorldModel(_SIZES, action_dim=1, compute=compute)
  params = small.model_params(model)
  feat = _normal(2, 6, model.feat_dim)
  images = small.batch_of(2, 6, action_dim=1).image
  ours = small.jit(model.image_log_prob)(params, feat, images)
  error = model.decode(params, feat) - (images / 255.0 - 0.5)
  constant = 0.5 * np.log(2 * np.pi) * 64 * 64 * 3
  expected = -0.5 * jnp.square(error).sum((2, 3, 4)).mean() - constant
  small.assert_norm_close(ours, expected)
