"""Scans whose gradient is parallel in time, against `lax.scan`'s own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.nets import scan

_LENGTH = 7


def _normal(*shape):
  return jax.random.normal(jax.random.key(sum(shape)), shape)


def _step(params, state, x):
  hidden, cell = state
  kernel = params['kernel'].astype(jnp.float32)
  y = jnp.tanh(hidden @ kernel + x['in'] @ params['in'] + params['bias'])
  cell = jnp.where(x['first'][..., None], 0, cell) * jax.nn.sigmoid(y) + y
  return (y, cell), {'out': jnp.sin(cell @ kernel), 'label': params['label']}


def _track(first=3):
  params = {
    'kernel': _normal(4, 4),
    'in': _normal(3, 4),
    'bias': _normal(4),
    'label': jnp.arange(2),
  }
  inputs = {
    'in': _normal(_LENGTH, 2, 3),
    'first': jnp.arange(_LENGTH)[:, None] == jnp.array([0, first]),
  }
  state = _normal(2, 4), _normal(4, 2).T
  return scan.Track(_step, params, state, inputs)


def _loss_and_grads(unroll, length=_LENGTH, twice=False):
  track, frozen = _track(), _track(first=5)
  cut = lambda x: x[:length]

  def loss(kernel, bias, initial, inputs, frozen_kernel):
    params = {**track.params, 'kernel': kernel, 'bias': bias}
    inputs = jax.tree.map(cut, {**track.inputs, 'in': inputs})
    other = {**frozen.params, 'kernel': frozen_kernel}
    tracks = [
      scan.Track(_step, params, initial, inputs),
      scan.Track(
        _step, other, frozen.initial, jax.tree.map(cut, frozen.inputs)
      ),
    ]
    (states, outs), *rest = scan.scan(*tracks[: 1 + twice], unroll=unroll)
    total = (states[0] ** 2).sum() + states[1][-1].sum() + outs['out'].sum()
    if rest:
      total += (rest[0][1]['out'] * outs['out']).sum()
    return total, (states, outs, rest)

  inputs = (
    track.params['kernel'],
    track.params['bias'],
    track.initial,
    track.inputs['in'],
    frozen.params['kernel'],
  )
  fn = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)
  return jax.jit(fn)(*inputs)


@pytest.mark.parametrize('length', [1, _LENGTH])
@pytest.mark.parametrize('unroll', [1, 3, 10])
def test_the_gradient_is_that_of_lax_scan(unroll, length):
  ours = _loss_and_grads(unroll, length)
  expected = _loss_and_grads(0, length)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, ours, expected)
  *_, inputs, frozen = ours[1]
  assert np.abs(inputs[:length]).min() > 0
  assert np.abs(frozen).max() == 0


@pytest.mark.parametrize('unroll', [0, 2])
def test_no_gradient_reaches_the_frozen(unroll):
  (_, (_, _, rest)), grads = _loss_and_grads(unroll, twice=True)
  assert np.abs(rest[0][1]['out']).max() > 0
  assert np.abs(grads[0]).max() > 0 and np.abs(grads[4]).max() == 0
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, grads, _loss_and_grads(0, twice=True)[1])


def test_parameters_are_not_held_for_every_step():
  track = _track()
  kernel = track.params['kernel'].astype(jnp.bfloat16)  # Cast in every step.
  params = {**track.params, 'kernel': kernel}
  before = jax.tree.map(lambda x: jnp.stack([x] * _LENGTH), track.initial)
  shared, moving, _ = scan._linearize(_step, params, before, track.inputs)
  assert kernel.shape in [x.shape for x in shared]
  assert moving and all(x.shape[0] == _LENGTH for x in moving)
  assert kernel.shape not in [x.shape[1:] for x in moving]
