"""What the benchmarks count, on programs whose numbers are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import update
from experiments import base
from vid2act_jax import learner
from vid2act_jax.nets import conv


def count(fn, *args):
  return update.count(jax.make_jaxpr(fn)(*args).jaxpr)


def test_operations():
  x = jnp.ones((3, 5))
  assert count(lambda x: x @ jnp.ones((5, 7)), x) == (2 * 3 * 5 * 7, 0)
  image, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((4, 4, 4, 6))
  taps = 2 * 2 * 3 * 3 * 6 * (4 * 4 * 4)
  for form in conv.FORMS:
    found, steps = count(lambda x, f=form: conv.conv(x, kernel, f), image)
    assert (found, steps) == (taps, 0)


@pytest.mark.parametrize('unroll, steps', [(1, 10), (2, 5), (10, 0)])
def test_steps(unroll, steps):
  def fn(x):
    step = lambda x, _: (x @ x, None)
    return jax.lax.scan(step, x, None, length=10, unroll=unroll)[0]

  assert count(fn, jnp.ones((4, 4))) == (10 * 2 * 4**3, steps)
  chunks = lambda x: jax.lax.map(lambda row: row * 2, x)
  assert count(chunks, jnp.ones((4, 4))) == (0, 0)


def test_an_update_has_128_steps():
  """50 and 50 back along the sequences, 14 and 14 back in imagination."""
  config = base.get_config().learner
  config.update(conv='native', cpu_chunk=0)
  agent = learner.build_agent(config, 6, (6,) * 4)
  key = jax.random.key(0)
  state = jax.eval_shape(lambda: agent.init(key, agent.teacher.init(key)))
  for kept in ('none', 'float16'):
    batch = jax.eval_shape(lambda k=kept: update.make_batch(agent, 50, 50, k))
    operations, steps = count(agent.finetune_step, state, batch, key)
    assert steps == 128
    # Embedding: every frame of 5 batches, under 4 labels or its own.
    expected = {'none': 1.8e12, 'float16': 1.2e12}[kept]
    assert operations == pytest.approx(expected, rel=0.1)
