"""Tests of the benchmarks' counts, on programs with known numbers."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import seeds, update
from experiments import base, debug
from tests import small
from vid2act_jax import learner
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage


def count(fn, *args):
  return update.count(jax.make_jaxpr(fn)(*args).jaxpr)


def test_operations_are_counted():
  x = jnp.ones((3, 5))
  assert count(lambda x: x @ jnp.ones((5, 7)), x) == (2 * 3 * 5 * 7, 0)
  image, kernel = jnp.ones((2, 8, 8, 5)), jnp.ones((4, 4, 5, 6))
  taps = 2 * 2 * 3 * 3 * 6 * (4 * 4 * 5)
  for impl in ('native', 'subpixel'):  # The other one's kernels have zeros.
    fn = lambda x, impl=impl: conv.conv(BlockedImage.of(x), kernel, impl).x
    found, steps = count(fn, image)
    assert (found, steps) == (taps, 0)


@pytest.mark.parametrize('unroll, steps', [(1, 10), (2, 5), (10, 0)])
def test_sequential_steps_are_counted(unroll, steps):
  def fn(x):
    step = lambda x, _: (x @ x, None)
    return jax.lax.scan(step, x, None, length=10, unroll=unroll)[0]

  assert count(fn, jnp.ones((4, 4))) == (10 * 2 * 4**3, steps)
  chunks = lambda x: jax.lax.map(lambda row: row * 2, x)
  assert count(chunks, jnp.ones((4, 4))) == (0, 0)


def test_an_update_has_128_steps():
  """50 forward and backward over the sequences, 14 in imagination."""
  config = base.get_config().learner
  config.update(conv='native', cpu_chunk=0)
  agent = learner.build_agent(config, 6, (6,) * 4)
  key = jax.random.key(0)
  state = jax.eval_shape(lambda: agent.init(key, agent.teacher.init(key)))
  for embeddings in ('none', 'float16'):
    batch = jax.eval_shape(
      lambda e=embeddings: update.make_batch(agent, 50, 50, e)
    )
    operations, steps = count(agent.finetune_step, state, batch, key)
    assert steps == 128
    # Embedding: every frame of 5 batches, under 4 labels or its own.
    expected = {'none': 1.8e12, 'float16': 1.2e12}[embeddings]
    assert operations == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_figures_of_an_update():
  arguments = '--preset quickstart --domains 1 --batch 2 --length 4 --horizon 3'
  args = update.parse([*arguments.split(), '--repeats', '1', '--no-parts'])
  figures = update.measure_update(args)
  # The sequential chunks of the quickstart are not counted.
  assert figures['sequential_steps'] == 2 * 4 + 2 * 2
  assert figures['compilations'] == 1
  for key in ('compile_s', 'update_s', 'operations', 'peak_memory_bytes'):
    assert figures[key] > 0


@pytest.mark.slow
@pytest.mark.parametrize('flags', ([], ['--vectorized']))
def test_figures_of_several_seeds(monkeypatch, flags):
  monkeypatch.setitem(seeds.PRESETS, 'full', debug)
  arguments = ['--seeds', '1', '2', '--repeats', '1', '--domains', '1']
  figures = seeds.measure_seeds(seeds.parse([*arguments, *flags]))
  assert figures['seeds_1_ratio'] == 1 and figures['seeds_2_ratio'] > 0
  assert all(figures[f'seeds_{num}_s'] > 0 for num in (1, 2))


def test_parts_of_an_update():
  s = small.setup()

  def outputs(state, batch):
    parts = update.make_parts(s.agent, state, batch, small.KEY)
    return {name: fn(*inputs) for name, (fn, inputs) in parts.items()}

  found = jax.eval_shape(outputs, s.state, s.batch)
  assert set(found) == {'model', 'behavior', 'teachers'}
  assert found['teachers'].target.shape == (2, 2, 6, s.agent.teacher.feat_dim)
  new, *_ = found['behavior']
  assert jax.tree.structure(new) == jax.tree.structure(s.state)
