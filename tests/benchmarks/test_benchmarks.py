"""Tests of the benchmarks' counts, on programs with known numbers."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels, seeds, update
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
  for impl in conv.IMPLS:
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


_HLO = """HloModule jit_update, is_scheduled=true

%body.1 (arg.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  %x.1 = f32[4]{0} get-tuple-element(%arg.1), index=1
  %dot.1 = f32[4]{0} fusion(%x.1), kind=kCustom, calls=%product.1
  %done.1 = ((f32[4]{0}), f32[4]{0}, u32[]) fusion-start(%dot.1), kind=kLoop
  %y.1 = f32[4]{0} fusion-done(%done.1)
  ROOT %out.1 = (s32[], f32[4]{0}) tuple(%arg.1, %y.1)
}

%called.1 (arg.2: f32[4]) -> f32[4] {
  %arg.2 = f32[4]{0} parameter(0)
  ROOT %neg.1 = f32[4]{0} fusion(%arg.2), kind=kLoop, calls=%negate.1
}

ENTRY %main.1 (x.2: f32[4]) -> f32[4] {
  %x.2 = f32[4]{0} parameter(0)
  %start.1 = (s32[], f32[4]{0}) tuple(%x.2, %x.2)
  %loop.1 = (s32[], f32[4]{0}) while(%start.1), condition=%c.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
  %conv.1 = (f32[4]{0}, u8[0]{0}) custom-call(%loop.1), custom_call_target="c"
  ROOT %call.1 = f32[4]{0} call(%conv.1), to_apply=%called.1
}
"""


def test_kernels_are_counted_in_hlo():
  assert kernels.count(_HLO) == {'kernels': 5 * 2 + 2, 'in_loops': 10}
