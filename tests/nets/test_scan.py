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
  label = params['label'][x['first'].astype(int)]
  return (y, cell), {'out': jnp.sin(cell @ kernel), 'label': label}


def _look(params, state, x):
  return jnp.cos(state[0] @ params['kernel'] + x['in'].sum(-1, keepdims=True))


def _seeing_step(params, state, x):
  x, seen = x
  state, out = _step(params, state, x)
  return (state[0] + 0.1 * seen @ params['kernel'], state[1]), out


def _track(first=3, rows=2):
  params = {
    'kernel': _normal(4, 4),
    'in': _normal(3, 4),
    'bias': _normal(4),
    'label': jnp.arange(2),
  }
  inputs = {
    'in': _normal(_LENGTH, rows, 3),
    'first': jnp.arange(_LENGTH)[:, None] == first * jnp.arange(rows),
  }
  state = _normal(rows, 4), _normal(4, rows).T
  return scan.ScanSpec(_step, params, state, inputs)


def _loss_and_grads(unroll, length=_LENGTH, twice=False, look=None, other=None):
  """Of a learned track and, `twice`, a frozen one with another row."""
  track, frozen = _track(), _track(first=2, rows=3)
  cut = lambda x: x[:length]

  def loss(kernel, bias, initial, inputs, frozen_kernel):
    params = {**track.params, 'kernel': kernel, 'bias': bias}
    inputs = jax.tree.map(cut, {**track.inputs, 'in': inputs})
    step = _seeing_step if look else _step
    tracks = [
      scan.ScanSpec(step, params, initial, inputs, look),
      frozen._replace(
        step=other or step,
        params={**frozen.params, 'kernel': frozen_kernel},
        inputs=jax.tree.map(cut, frozen.inputs),
        look=look,
      ),
    ]
    (states, outs), *rest = scan.scan(*tracks[: 1 + twice], unroll=unroll)
    out = outs[1]['out'] if look else outs['out']
    total = (states[0] ** 2).sum() + states[1][-1].sum() + out.sum()
    if rest:
      beside = rest[0][1][1] if look else rest[0][1]
      total += (beside['out'][:, :2] * out).sum()
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


@pytest.mark.parametrize('look', [None, _look])
@pytest.mark.parametrize('length', [1, _LENGTH])
@pytest.mark.parametrize('unroll', [1, 3, 10])
def test_the_gradient_is_that_of_lax_scan(unroll, length, look):
  ours = _loss_and_grads(unroll, length, look=look)
  expected = _loss_and_grads(0, length, look=look)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, ours, expected)
  *_, inputs, frozen = ours[1]
  assert np.abs(inputs[:length]).min() > 0
  assert np.abs(frozen).max() == 0


@pytest.mark.parametrize('look', [None, _look])
@pytest.mark.parametrize('unroll', [0, 2])
def test_no_gradient_reaches_the_frozen(unroll, look):
  (_, (_, _, rest)), grads = _loss_and_grads(unroll, twice=True, look=look)
  assert np.abs(rest[0][0][0]).max() > 0
  assert np.abs(grads[0]).max() > 0 and np.abs(grads[4]).max() == 0
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  expected = _loss_and_grads(0, twice=True, look=look)[1]
  jax.tree.map(close, grads, expected)


def test_tracks_are_alike_or_not():
  """One step's tracks run as one; the results are as of each by itself."""

  def other(params, state, x):
    return _step(params, state, x)

  results = [
    _loss_and_grads(unroll, twice=True, other=other)
    for unroll, other in ((0, None), (2, None), (2, other))
  ]
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, results[1], results[0])
  jax.tree.map(close, results[2], results[0])

  def products(frozen):
    run = lambda: scan.scan(_track(), frozen, unroll=1)
    return str(jax.make_jaxpr(run)()).count('dot_general')

  alike = _track(first=2, rows=3)
  one = products(alike)
  assert products(_track(first=2, rows=1)) == one
  assert products(alike._replace(step=other)) == 2 * one
  half = {**alike.params, 'bias': alike.params['bias'].astype(jnp.bfloat16)}
  assert products(alike._replace(params=half)) == 2 * one
  wide = {**alike.inputs, 'more': alike.inputs['in']}
  assert products(alike._replace(inputs=wide)) == 2 * one


def test_parameters_are_not_held_for_every_step():
  track = _track()
  kernel = track.params['kernel'].astype(jnp.bfloat16)  # Cast in every step.
  params = {**track.params, 'kernel': kernel}
  before = jax.tree.map(lambda x: jnp.stack([x] * _LENGTH), track.initial)
  shared, moving, _ = scan._linearize(_step, params, before, track.inputs)
  assert kernel.shape in [x.shape for x in shared]
  assert moving and all(x.shape[0] == _LENGTH for x in moving)
  assert kernel.shape not in [x.shape[1:] for x in moving]
