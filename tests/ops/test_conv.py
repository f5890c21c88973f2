"""Tests of the convolutions: all implementations, and their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage


@pytest.mark.parametrize('channels', [3, 6])
@pytest.mark.parametrize(
  'size, kernel', [(64, 4), (62, 4), (31, 4), (14, 3), (14, 5), (6, 4)]
)
def test_conv_impls_agree(size, kernel, channels):
  inputs = small.normal(2, size, size, channels)
  kernel = small.normal(kernel, kernel, channels, 5)
  _assert_impls_agree(conv.conv, inputs, kernel)


@pytest.mark.parametrize('channels', [3, 6])
@pytest.mark.parametrize('kernel', [5, 6])
@pytest.mark.parametrize('size', [1, 5, 13, 30])
def test_conv_transpose_impls_agree(size, kernel, channels):
  inputs = (
    small.normal(2, size, size, 5),
    small.normal(kernel, kernel, 5, channels),
  )
  _assert_impls_agree(conv.conv_transpose, *inputs)


def _assert_impls_agree(fn, x, kernel):
  def run(impl):
    pixels = lambda x, kernel: fn(BlockedImage.of(x), kernel, impl).pixels()
    loss = lambda x, kernel: jnp.sin(pixels(x, kernel)).sum()
    both = lambda *args: (pixels(*args), jax.grad(loss, (0, 1))(*args))
    return small.jit(both)(x, kernel)

  expected = run('subpixel')
  for impl in conv.IMPLS.keys() - {'subpixel'}:
    jax.tree.map(small.assert_norm_close, expected, run(impl))


@pytest.mark.parametrize('impl', conv.IMPLS)
def test_layers_agree_where_images_stay_in_blocks(impl):
  """Odd sizes, whose last blocks are not full, with biases."""
  x, kernels = small.normal(2, 5, 5, 7), (5, 6, 5)
  # Small enough that tanh is not saturated.
  weights = [0.05 * small.normal(k, k, 7, 7) for k in kernels]
  bias = small.normal(7)

  def layers(impl, x, weights, bias):
    image = BlockedImage.of(x)
    for kernel in weights:  # To 13, 30 and 63 pixels.
      image = conv.conv_transpose(image, kernel, impl)
      image = conv.add_bias(image, bias, impl).map(jnp.tanh)
    for kernel in reversed(weights):  # To 30, 13 and 5.
      image = conv.conv(image, kernel, impl)
      image = conv.add_bias(image, bias, impl).map(jnp.tanh)
    return image.pixels()

  def run(impl):
    loss = lambda *args: jnp.sin(layers(impl, *args)).sum()
    both = lambda *args: (
      layers(impl, *args),
      jax.grad(loss, (0, 1, 2))(*args),
    )
    return small.jit(both)(x, weights, bias)

  jax.tree.map(small.assert_norm_close, run('subpixel'), run(impl))


@pytest.mark.parametrize('size', [64, 62])
@pytest.mark.parametrize('impl', conv.IMPLS)
def test_frames_and_their_first_pixels(impl, size):
  pixels = np.arange(2 * size * size * 3).reshape(2, size, size, 3) % 251
  frames = conv.frames(jnp.asarray(pixels, jnp.uint8), impl)
  assert frames.x.dtype == jnp.uint8
  assert np.array_equal(frames.pixels(), pixels)
  assert np.array_equal(frames.crop(61).pixels(), pixels[:, :61, :61])


@pytest.mark.parametrize('impl', conv.IMPLS)
def test_convolutions_match_their_definition(impl):
  x, kernel = (
    np.asarray(small.normal(1, 7, 7, 2)),
    np.asarray(small.normal(4, 4, 2, 3)),
  )
  expected = np.zeros((1, 2, 2, 3))
  for i, j in np.ndindex(2, 2):
    patch = x[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
    expected[:, i, j] = np.einsum('mabc,abcd->md', patch, kernel)
  small.assert_norm_close(
    conv.conv(BlockedImage.of(x), kernel, impl).pixels(), expected
  )
  expected = np.zeros((1, 16, 16, 3))
  for i, j, a, b in np.ndindex(7, 7, 4, 4):
    expected[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ kernel[a, b]
  small.assert_norm_close(
    conv.conv_transpose(BlockedImage.of(x), kernel, impl).pixels(), expected
  )


@pytest.mark.parametrize('size', [12, 13])
def test_blocked_image_round_trip(size):
  pixels = small.normal(2, size, size, 3)
  blocked = BlockedImage.of(pixels)
  for block_size in (2, 4, 1, 4, 2):
    blocked = blocked.blocks(block_size)
    grid = -(-size // block_size)
    assert blocked.x.shape == (2, grid, grid, 3 * block_size**2)
    assert np.array_equal(blocked.pixels(), pixels)
    # Values beyond the pixels are undefined, and zero in new blocks.
    full = grid * block_size == size
    blocked = blocked if full else blocked.map(lambda x: jnp.where(x, x, 7.0))
  four = BlockedImage.of(pixels).blocks(4)
  assert np.array_equal(four.x[:, 1, 2, 3:6], pixels[:, 4, 9])
  assert (four.blocks(4) is four) == (size == 12)  # Only full blocks.
