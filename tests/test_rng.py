"""Tests of noise, which is equal for any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vid2act_jax.rng import ZERO_NOISE, NoiseFns, Rng

KEY = jax.random.key(3)
SHAPE = (6, 6, 4)


@pytest.mark.parametrize('axis', (0, 1, 2))
def test_the_noise_of_a_row_depends_on_key_and_index(axis):
  """Bit for bit; a run that is resumed has the noise of its first start."""
  whole = np.asarray(Rng(KEY).normal(SHAPE, row_axis=axis))
  assert whole.shape == SHAPE and len(np.unique(whole)) == whole.size
  row_shape = SHAPE[:axis] + SHAPE[axis + 1 :]
  for row in range(SHAPE[axis]):
    expected = jax.random.normal(jax.random.fold_in(KEY, row), row_shape)
    np.testing.assert_array_equal(whole.take(row, axis), expected)


@pytest.mark.parametrize('axis', (0, 1))
def test_rows_that_are_split_over_devices_have_the_same_noise(axis):
  part = SHAPE[:axis] + (2,) + SHAPE[axis + 1 :]
  mapped = jax.vmap(
    lambda _: Rng(KEY, 'data').normal(part, row_axis=axis), axis_name='data'
  )(jnp.zeros(3))
  joined = jnp.concatenate(list(mapped), axis)
  np.testing.assert_array_equal(joined, Rng(KEY).normal(SHAPE, row_axis=axis))


def test_without_rows_it_is_a_single_draw():
  expected = jax.random.normal(KEY, SHAPE)
  np.testing.assert_array_equal(Rng(KEY).normal(SHAPE), expected)
  np.testing.assert_array_equal(Rng(KEY).action_normal(SHAPE), expected)


def test_keys_are_split_as_by_jax():
  rng = Rng(KEY, 'data', ZERO_NOISE)
  derived = [*rng.split(3), rng.fold_in(7)]
  expected = [*jax.random.split(KEY, 3), jax.random.fold_in(KEY, 7)]
  for ours, key in zip(derived, expected, strict=True):
    assert ours.key == key
    assert ours.axis_name == 'data' and ours.noise_fns is ZERO_NOISE


def test_noise_functions_are_replaceable():
  fill = lambda value: lambda key, shape: jnp.full(shape, value)
  rng = Rng(KEY, noise_fns=NoiseFns(latent=fill(2), action=fill(3)))
  for row_axis in (None, 1):
    assert (rng.normal(SHAPE, row_axis) == 2).all()
    assert (rng.action_normal(SHAPE, row_axis) == 3).all()
  rng = rng.replace(noise_fns=ZERO_NOISE)
  assert not rng.normal(SHAPE).any() and not rng.action_normal(SHAPE).any()


def test_an_rng_is_an_argument_of_a_compiled_function():
  """Key as an array; axis and functions are static."""
  draw = jax.jit(lambda rng: rng.normal(SHAPE, row_axis=0))
  rng = Rng(KEY)
  np.testing.assert_array_equal(draw(rng), rng.normal(SHAPE, row_axis=0))
  assert len(jax.tree.leaves(rng)) == 1
