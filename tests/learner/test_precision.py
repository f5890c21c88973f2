"""Tests of the precision of the products, and of the target platform."""

import functools
import re

import jax
import pytest

from tests import small
from vid2act_jax import learner
from vid2act_jax.types import UserError

_PRODUCT = re.compile(r'stablehlo\.(dot_general|convolution)\b.*')


@functools.cache
def products(platform, precision):
  """The products of an update, lowered for a platform."""
  config = small.config()
  config.matmul_precision = precision
  agent = learner.build_agent(config, 2, (2, 3), platform=platform)
  state = jax.eval_shape(agent.init_random, small.KEY)
  batch = small.finetune_batch(agent, 2, 3)
  traced = jax.jit(agent.finetune_step).trace(state, batch, small.KEY)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return [found[0] for found in _PRODUCT.finditer(text)]


@pytest.mark.parametrize(
  'platform', [pytest.param('cpu', marks=pytest.mark.slow), 'tpu']
)
def test_every_product_of_an_update_has_the_precision(platform):
  lines = products(platform, 'highest')
  assert len(lines) > 100
  assert [line for line in lines if line.count('HIGHEST') != 2] == []
  assert 'HIGH' not in ''.join(products(platform, 'default'))


def test_the_platform_decides_how_the_update_is_computed():
  """On a CPU some convolutions are matrix products."""
  count = lambda platform: sum(
    'convolution' in line for line in products(platform, 'default')
  )
  assert count('tpu') > count('cpu')


@pytest.mark.parametrize(
  'platform, conv, unroll',
  [('cpu', 'subpixel', 0), ('gpu', 'native', 10), ('tpu', 'blocked', 1)],
)
def test_defaults_of_a_platform(platform, conv, unroll):
  config = small.config()
  config.update(conv='auto', unroll=-1)
  agent = learner.build_agent(config, 2, (2, 3), platform=platform)
  compute = agent.student.compute
  assert (compute.conv_impl, compute.unroll) == (conv, unroll)


def test_pretraining_has_the_precision():
  config = small.config()
  config.matmul_precision = 'high'
  pretrainer = learner.build_pretrainer(config, (2, 3))
  state = jax.eval_shape(pretrainer.init, small.KEY)
  batch = small.finetune_batch(small.setup().agent, 2, 3).sources
  text = jax.jit(pretrainer.pretrain_step).lower(state, batch, small.KEY)
  lines = [found[0] for found in _PRODUCT.finditer(text.as_text())]
  assert lines and all(line.count('HIGH') == 2 for line in lines)


def test_an_unknown_precision_is_an_error():
  config = small.config()
  config.matmul_precision = 'float31'
  with pytest.raises(UserError, match='matmul_precision.*default, high, high'):
    learner.build_agent(config, 2, (2,))
