"""One finetuning update: seconds, parts, operations and memory.

  python -m benchmarks.update
  python -m benchmarks.update --preset quickstart --repeats 20
  python -m benchmarks.update --domains 1 --embeddings none

Prints one line of JSON and a table. Parts are compiled and timed separately, so
they may not add up to the whole update. `model` includes the teachers.
"""

import argparse
import functools
import math
import time

import jax
import jax.numpy as jnp

from benchmarks import measure
from experiments import base, quickstart
from vid2act_jax import learner
from vid2act_jax.learner import actor_critic, finetune, teachers
from vid2act_jax.types import Batch, FinetuneBatch

PRESETS = {'full': base, 'quickstart': quickstart}
_ACTIONS = 6
_QUEUED = 10  # Updates dispatched without waiting.


def make_batch(agent, batch: int, length: int, embeddings: str):
  """A random batch with the shapes of an update."""
  key = jax.random.key(0)

  def sample(*shape, images=True):
    image_shape = (*shape, 64, 64, 3)
    return Batch(
      jax.random.randint(key, image_shape, 0, 256, jnp.uint8)
      if images
      else None,
      jax.random.uniform(key, (*shape, _ACTIONS), minval=-1, maxval=1),
      jax.random.normal(key, shape),
      jnp.zeros(shape, bool).at[..., 0].set(True),
    )

  n, cached = agent.num_domains, embeddings != 'none'
  target = sample(batch, length)
  if not n:
    return FinetuneBatch(target, None)
  sources = sample(n, batch, length, images=not cached)
  if not cached:
    return FinetuneBatch(target, sources)
  shape = (n, batch, length, agent.teacher.encoder.embed_dim)
  source = jax.random.normal(key, shape).astype(embeddings)
  return FinetuneBatch(target, sources, jnp.moveaxis(source, 0, 2), source)


def count(jaxpr) -> tuple[float, int]:
  """Operations of products and convolutions, and sequential steps.

  Counted in the jaxpr, before the compiler optimizes it, with the body of a
  scan once for each step. Only steps of a scan with a carry are sequential.
  """
  operations, steps = 0.0, 0
  for eqn in jaxpr.eqns:
    operations += _operations(eqn)
    inner = [count(sub) for sub in _subprograms(eqn)]
    inner_operations, inner_steps = (
      (sum(x) for x in zip(*inner, strict=True)) if inner else (0, 0)
    )
    if eqn.primitive.name == 'scan':
      length = eqn.params['length']
      trips = -(-length // eqn.params['unroll'])
      inner_operations *= length
      if _has_carry(eqn) and trips > 1:
        inner_steps = trips * max(1, inner_steps)
    operations, steps = operations + inner_operations, steps + inner_steps
  return operations, steps


def _has_carry(scan) -> bool:
  """Whether an output is a carry, which is not stacked along the steps."""
  inner = scan.params['jaxpr'].out_avals
  outer = (x.aval for x in scan.outvars)
  return any(x.shape == y.shape for x, y in zip(inner, outer, strict=True))


def _subprograms(eqn):
  for param in eqn.params.values():
    for sub in param if isinstance(param, tuple | list) else (param,):
      sub = getattr(sub, 'jaxpr', sub)
      if hasattr(sub, 'eqns'):
        yield sub


def _operations(eqn):
  if eqn.primitive.name not in ('dot_general', 'conv_general_dilated'):
    return 0
  left, right = (x.aval.shape for x in eqn.invars[:2])
  out = math.prod(eqn.outvars[0].aval.shape)
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    return 2 * out * math.prod(left[axis] for axis in contracted)
  features = eqn.params['dimension_numbers'].rhs_spec[0]
  # The zeros that a dilation inserts cost nothing.
  dilation = math.prod(eqn.params['lhs_dilation'])
  return 2 * out * math.prod(right) / right[features] / dilation


def make_parts(agent, state, batch, key):
  """The parts of an update as (function, arguments), by name."""

  rng = agent.rng(key)

  def teacher_features(teacher, batch):
    specs = teachers.teacher_scans(agent, teacher, batch, rng)
    outputs = agent.teacher.run_scans(*specs)
    return teachers.compute_features(agent, teacher, batch, outputs, rng)

  def model(params, teacher, batch):
    grad_fn = jax.grad(finetune.model_loss, argnums=1, has_aux=True)
    return grad_fn(agent, params, teacher, batch, (rng, rng))

  inputs = state.params['model'], state.teacher, batch
  grads, (_, forward, transfer_forward) = jax.jit(model)(*inputs)
  del grads
  start = finetune.imagination_start(agent, batch, forward, transfer_forward)

  def behavior(state, start):
    return actor_critic.behavior_step(agent, state, start, rng)

  parts = {
    'model': (model, inputs),
    'behavior': (behavior, (state, start)),
  }
  if agent.teacher:
    parts['teachers'] = teacher_features, (state.teacher, batch)
  return parts


def measure_update(args) -> dict:
  """Builds, compiles, times and counts an update."""
  config = PRESETS[args.preset].get_config()
  c = config.learner
  c.behavior.horizon = args.horizon or c.behavior.horizon
  c.dtype = args.dtype
  variant = learner.parse('vid2act' if args.domains else 'dreamerv2')

  def build(config):
    return learner.build_agent(
      config, _ACTIONS, (_ACTIONS,) * args.domains, variant=variant
    )

  agent = build(c)
  key = jax.random.key(0)
  teacher = agent.teacher and jax.jit(agent.teacher.init)(key)
  state = jax.jit(agent.init)(key, teacher)
  batch = make_batch(
    agent,
    args.batch or config.finetune.batch,
    args.length or config.finetune.length,
    args.embeddings,
  )
  step = jax.jit(agent.finetune_step, donate_argnums=0)
  program = lambda agent: jax.make_jaxpr(agent.finetune_step)(state, batch, key)
  operations, _ = count(program(agent).jaxpr)
  # Sequential steps are counted without a CPU's chunks and without unrolling.
  c.update(cpu_chunk=0, unroll=0)
  _, steps = count(program(build(c)).jaxpr)
  started = time.perf_counter()
  compiled = step.lower(state, batch, key).compile()
  figures = {'compile_s': time.perf_counter() - started}
  parts = {} if args.no_parts else make_parts(agent, state, batch, key)
  for name, (fn, inputs) in parts.items():
    run = jax.jit(fn)
    call = functools.partial(run, *inputs)
    figures[f'{name}_s'] = measure.seconds(call, args.repeats)

  def update():
    nonlocal state
    state, metrics = step(state, batch, key)
    return metrics

  def queued_updates():
    # As in training: the next update is dispatched without waiting.
    for _ in range(_QUEUED):
      metrics = update()
    return metrics

  figures['update_s'] = measure.seconds(update, args.repeats)
  if jax.default_backend() != 'cpu':
    queued = measure.seconds(queued_updates, -(-args.repeats // _QUEUED))
    figures['update_queued_s'] = queued / _QUEUED
  peak = measure.matmul_flops(args.dtype)
  figures |= {
    'compilations': step._cache_size(),
    'operations': operations,
    'operations_xla': (compiled.cost_analysis() or {}).get('flops', 0.0),
    'sequential_steps': steps,
    'operations_per_s': operations / figures['update_s'],
    'matmul_operations_per_s': peak,
    'share_of_matmul': operations / figures['update_s'] / peak,
    'peak_memory_bytes': measure.peak_memory(),
  }
  return figures


def parse(arguments=None):
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--preset', choices=PRESETS, default='full')
  parser.add_argument('--domains', type=int, default=4, help='0: no transfer')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--batch', type=int, default=0)
  parser.add_argument('--length', type=int, default=0)
  parser.add_argument('--horizon', type=int, default=0)
  parser.add_argument(
    '--embeddings',
    choices=('none', 'float16', 'float32'),
    default='float16',
    help="dtype of the teacher's embeddings in the batch; none: computed",
  )
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--no-parts', action='store_true')
  return parser.parse_args(arguments)


def main():
  """Command line."""
  args = parse()
  figures = measure_update(args)
  measure.report({**vars(args), **figures, **measure.machine()})


if __name__ == '__main__':
  main()
