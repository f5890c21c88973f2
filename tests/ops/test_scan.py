"""Tests of scans with a gradient that is parallel in time, and `lax.scan`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.ops import scan

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


def _stop_grad_fn(params, state, x):
  return jnp.cos(state[0] @ params['kernel'] + x['in'].sum(-1, keepdims=True))


def _stop_grad_step(params, state, x):
  x, stop_grad_output = x
  state, out = _step(params, state, x)
  hidden = state[0] + 0.1 * stop_grad_output @ params['kernel']
  return (hidden, state[1]), out


def _spec(first=3, rows=2):
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


def _loss_and_grads(
  unroll,
  length=_LENGTH,
  with_frozen=False,
  stop_grad_fn=None,
  frozen_step=None,
):
  """Of a learned scan and, if asked for, a frozen one with another row."""
  learned, frozen = _spec(), _spec(first=2, rows=3)
  crop = lambda x: x[:length]

  def loss(kernel, bias, initial, inputs, frozen_kernel):
    params = {**learned.params, 'kernel': kernel, 'bias': bias}
    inputs = jax.tree.map(crop, {**learned.inputs, 'in': inputs})
    step = _stop_grad_step if stop_grad_fn else _step
    specs = [
      scan.ScanSpec(step, params, initial, inputs, stop_grad_fn),
      frozen._replace(
        step=frozen_step or step,
        params={**frozen.params, 'kernel': frozen_kernel},
        inputs=jax.tree.map(crop, frozen.inputs),
        stop_grad_fn=stop_grad_fn,
      ),
    ]
    (states, outs), *rest = scan.scan(*specs[: 1 + with_frozen], unroll=unroll)
    out = outs[1]['out'] if stop_grad_fn else outs['out']
    total = (states[0] ** 2).sum() + states[1][-1].sum() + out.sum()
    if rest:
      frozen_outs = rest[0][1][1] if stop_grad_fn else rest[0][1]
      total += (frozen_outs['out'][:, :2] * out).sum()
    return total, (states, outs, rest)

  inputs = (
    learned.params['kernel'],
    learned.params['bias'],
    learned.initial,
    learned.inputs['in'],
    frozen.params['kernel'],
  )
  fn = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)
  return jax.jit(fn)(*inputs)


@pytest.mark.parametrize('stop_grad_fn', [None, _stop_grad_fn])
@pytest.mark.parametrize('length', [1, _LENGTH])
@pytest.mark.parametrize('unroll', [1, 3, 10])
def test_gradient_equals_that_of_lax_scan(unroll, length, stop_grad_fn):
  ours = _loss_and_grads(unroll, length, stop_grad_fn=stop_grad_fn)
  expected = _loss_and_grads(0, length, stop_grad_fn=stop_grad_fn)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, ours, expected)
  *_, inputs, frozen = ours[1]
  assert np.abs(inputs[:length]).min() > 0
  assert np.abs(frozen).max() == 0


@pytest.mark.parametrize('stop_grad_fn', [None, _stop_grad_fn])
@pytest.mark.parametrize('unroll', [0, 2])
def test_no_gradient_reaches_frozen_scans(unroll, stop_grad_fn):
  (_, (_, _, rest)), grads = _loss_and_grads(
    unroll, with_frozen=True, stop_grad_fn=stop_grad_fn
  )
  assert np.abs(rest[0][0][0]).max() > 0
  assert np.abs(grads[0]).max() > 0 and np.abs(grads[4]).max() == 0
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  expected = _loss_and_grads(0, with_frozen=True, stop_grad_fn=stop_grad_fn)[1]
  jax.tree.map(close, grads, expected)


def test_scans_with_equal_signatures_share_a_step():
  """The results equal those of separate scans."""

  def other_step(params, state, x):
    return _step(params, state, x)

  results = [
    _loss_and_grads(unroll, with_frozen=True, frozen_step=frozen_step)
    for unroll, frozen_step in ((0, None), (2, None), (2, other_step))
  ]
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, results[1], results[0])
  jax.tree.map(close, results[2], results[0])

  def count_products(frozen):
    run = lambda: scan.scan(_spec(), frozen, unroll=1)
    return str(jax.make_jaxpr(run)()).count('dot_general')

  equal = _spec(first=2, rows=3)
  one = count_products(equal)
  assert count_products(_spec(first=2, rows=1)) == one
  assert count_products(equal._replace(step=other_step)) == 2 * one
  half = {**equal.params, 'bias': equal.params['bias'].astype(jnp.bfloat16)}
  assert count_products(equal._replace(params=half)) == 2 * one
  wide = {**equal.inputs, 'more': equal.inputs['in']}
  assert count_products(equal._replace(inputs=wide)) == 2 * one


def test_residuals_of_parameters_are_stored_once():
  spec = _spec()
  kernel = spec.params['kernel'].astype(jnp.bfloat16)  # Cast in every step.
  params = {**spec.params, 'kernel': kernel}
  states = jax.tree.map(lambda x: jnp.stack([x] * _LENGTH), spec.initial)
  shared, per_step, _ = scan._linearize(_step, params, states, spec.inputs)
  assert kernel.shape in [x.shape for x in shared]
  assert per_step and all(x.shape[0] == _LENGTH for x in per_step)
  assert kernel.shape not in [x.shape[1:] for x in per_step]
