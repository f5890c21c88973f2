"""One update of the finetuning: seconds, parts, operations, memory.

  python -m benchmarks.update
  python -m benchmarks.update --preset quickstart --repeats 20
  python -m benchmarks.update --domains 1 --embeddings none

Prints one line of JSON and a table. Parts are compiled and timed by themselves:
they need not add up to the whole, and `model` has the teachers in it.
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
from vid2act_jax.learner import finetune, teachers
from vid2act_jax.nets import world_model
from vid2act_jax.types import Batch, FinetuneBatch

PRESETS = {'full': base, 'quickstart': quickstart}
_ACTIONS = 6
_QUEUED = 10  # Updates asked for at once.


def make_batch(agent, batch: int, length: int, embeddings: str):
  """Random data of the shapes that an update sees."""
  key = jax.random.key(0)

  def draw(*lead, images=True):
    shape = (*lead, 64, 64, 3)
    return Batch(
      jax.random.randint(key, shape, 0, 256, jnp.uint8) if images else None,
      jax.random.uniform(key, (*lead, _ACTIONS), minval=-1, maxval=1),
      jax.random.normal(key, lead),
      jnp.zeros(lead, bool).at[..., 0].set(True),
    )

  n, cached = agent.num_domains, embeddings != 'none'
  target = draw(batch, length)
  if not n:
    return FinetuneBatch(target, None)
  sources = draw(n, batch, length, images=not cached)
  if not cached:
    return FinetuneBatch(target, sources)
  shape = (n, batch, length, agent.teacher.encoder.embed_dim)
  source = jax.random.normal(key, shape).astype(embeddings)
  return FinetuneBatch(target, sources, jnp.moveaxis(source, 0, 2), source)


def count(jaxpr) -> tuple[float, int]:
  """Operations of products and convolutions; steps that follow one another.

  Counted in the program as it is traced, before the compiler changes it: a
  scan's body as often as it runs. A step is one of a scan with a carry.
  """
  operations, steps = 0.0, 0
  for eqn in jaxpr.eqns:
    operations += _operations(eqn)
    inner = [count(sub) for sub in _subprograms(eqn)]
    more, within = (
      (sum(x) for x in zip(*inner, strict=True)) if inner else (0, 0)
    )
    if eqn.primitive.name == 'scan':
      length = eqn.params['length']
      trips = -(-length // eqn.params['unroll'])
      more *= length
      if _has_carry(eqn) and trips > 1:
        within = trips * max(1, within)
    operations, steps = operations + more, steps + within
  return operations, steps


def _has_carry(scan) -> bool:
  """What it carries comes out as it is, the rest stacked along the steps."""
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
  # What a dilation puts between the rows is zero, and costs nothing.
  dilation = math.prod(eqn.params['lhs_dilation'])
  return 2 * out * math.prod(right) / right[features] / dilation


def make_parts(agent, state, batch, key):
  """The parts of an update as (function, arguments), by name."""

  def view(teacher, batch):
    track = teachers.teacher_inputs(agent, teacher, batch, key)
    ((latent, _),) = world_model.run(track)
    return teachers.split_features(agent, batch, latent)

  def model(params, teacher, batch):
    grad_fn = jax.grad(finetune.model_loss, argnums=1, has_aux=True)
    return grad_fn(agent, params, teacher, batch, (key, key))

  inputs = state.params['model'], state.teacher, batch
  grads, (_, forward, extra) = jax.jit(model)(*inputs)
  del grads
  start = finetune.start_of(batch, forward, extra)

  def behavior(state, start):
    return finetune.behavior_step(agent, state, start, key)

  parts = {
    'model': (model, inputs),
    'behavior': (behavior, (state, start)),
  }
  if agent.teacher:
    parts['teachers'] = view, (state.teacher, batch)
  return parts


def measure_update(args) -> dict:
  """Builds, compiles, runs and counts."""
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
  # Neither a CPU's chunks nor steps that an accelerator has compiled in a row
  # change how many there are.
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

  def several():
    # As in training: no update is waited for before the next is asked for.
    for _ in range(_QUEUED):
      metrics = update()
    return metrics

  figures['update_s'] = measure.seconds(update, args.repeats)
  if jax.default_backend() != 'cpu':
    queued = measure.seconds(several, -(-args.repeats // _QUEUED))
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
  """The command line."""
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
    help='of the teacher, given with the batch',
  )
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--no-parts', action='store_true')
  return parser.parse_args(arguments)


def main():
  """Measures and tells."""
  args = parse()
  figures = measure_update(args)
  measure.tell({**vars(args), **figures, **measure.machine()})


if __name__ == '__main__':
  main()
