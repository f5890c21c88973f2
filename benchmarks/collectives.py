"""Collectives of an update, and their bytes.

  python -m benchmarks.collectives
  python -m benchmarks.collectives --preset quickstart --devices 2

Compiles the updates of both stages for simulated CPU devices and reads the
compiled programs. Prints one line of JSON and a table.
"""

import argparse
import collections
import json
import math
import os
import re

_KINDS = 'all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all'
_INSTRUCTION = re.compile(rf'= (.+?) (?:{_KINDS})(?:-start)?\(')
_KIND = re.compile(rf' ({_KINDS})(?:-start)?\(')
_ARRAY = re.compile(r'(pred|[a-z]+\d+)\[([\d,]*)\]')


def read(program: str) -> dict[str, list[int]]:
  """Collectives of a compiled program: kind -> bytes of each result.

  Args:
    program: its HLO text.
  """
  found = collections.defaultdict(list)
  for line in program.splitlines():
    if match := _INSTRUCTION.search(line):
      found[_KIND.search(line)[1]].append(_bytes(match[1]))
  return dict(found)


def _bytes(result: str) -> int:
  total = 0
  for kind, shape in _ARRAY.findall(result):
    size = 1 if kind == 'pred' else int(re.search(r'\d+', kind)[0]) // 8
    total += size * math.prod(int(n) for n in shape.split(',') if n)
  return total


def parse(output: str) -> dict[str, float]:
  """The figures of both stages, from the output of the command."""
  figures = json.loads(output.splitlines()[0])
  return {k: v for k, v in figures.items() if '/' in k}


def compile_steps(config, devices: int, batch: int, length: int, domains: int):
  """Compiled updates of both stages, and their gradients' bytes.

  Args:
    config: the `learner` section of an experiment's config.
    devices: the number of devices.
    batch: B, of the target and of each source.
    length: L.
    domains: N.

  Returns:
    {stage: (HLO text, bytes of all gradients)}.
  """
  # Imported after the flag for the simulated devices is set.
  import jax
  import jax.numpy as jnp

  from vid2act_jax import learner, sharding
  from vid2act_jax.types import Batch, FinetuneBatch

  actions = 6
  mesh_devices = sharding.Devices(devices)
  pretrainer = learner.build_pretrainer(config, (actions,) * domains)
  agent = learner.build_agent(config, actions, (actions,) * domains)
  key = jax.random.key(0)

  def make_batch(*shape, images=True):
    image = jnp.zeros((*shape, 64, 64, 3), jnp.uint8) if images else None
    zeros = jnp.zeros(shape)
    return Batch(image, jnp.zeros((*shape, actions)), zeros, zeros > 0)

  def finetune_batch():
    embed = agent.teacher.encoder.embed_dim
    shape = batch, length, domains, embed
    return FinetuneBatch(
      make_batch(batch, length),
      make_batch(domains, batch, length, images=False),
      jnp.zeros(shape, jnp.float16),
      jnp.zeros((domains, batch, length, embed), jnp.float16),
    )

  stages = {
    'pretrain': (
      pretrainer.pretrain_step,
      lambda: pretrainer.init(key),
      lambda: make_batch(domains, batch, length),
      Batch,
    ),
    'finetune': (
      agent.finetune_step,
      lambda: agent.init(key, agent.teacher.init(key)),
      finetune_batch,
      FinetuneBatch,
    ),
  }
  out = {}
  for stage, (step, init, batch_fn, batch_type) in stages.items():
    state = jax.eval_shape(init)
    call = mesh_devices.jit(step, sharding.specs(batch_type))
    shapes = jax.eval_shape(batch_fn)
    program = call.lower(state, shapes, key).compile().as_text()
    # A generator that is trained after the teacher has no optimizer here.
    leaves = jax.tree.leaves({name: state.params[name] for name in state.opt})
    out[stage] = program, sum(x.size * x.dtype.itemsize for x in leaves)
  return out


def main():
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  presets = 'full', 'quickstart'
  parser.add_argument('--preset', choices=presets, default='full')
  parser.add_argument('--devices', type=int, default=2)
  parser.add_argument('--domains', type=int, default=4)
  parser.add_argument(
    '--smallest', action='store_true', help='smallest networks and batches'
  )
  args = parser.parse_args()
  flag = f'--xla_force_host_platform_device_count={args.devices}'
  # First, so that flags of the user take precedence.
  os.environ['XLA_FLAGS'] = f'{flag} {os.environ.get("XLA_FLAGS", "")}'
  os.environ['JAX_PLATFORMS'] = 'cpu'

  from benchmarks import measure
  from benchmarks.update import PRESETS
  from experiments import debug

  config = PRESETS[args.preset].get_config()
  f = config.finetune
  if args.smallest:
    f.update(batch=args.devices, length=6)
    config.learner = debug.get_config().learner
  batch = -(-f.batch // args.devices) * args.devices
  programs = compile_steps(
    config.learner, args.devices, batch, f.length, args.domains
  )
  figures = dict(vars(args))
  for stage, (program, gradients) in programs.items():
    figures[f'{stage}/gradient_bytes'] = gradients
    for kind, sizes in read(program).items():
      figures[f'{stage}/{kind}/count'] = len(sizes)
      figures[f'{stage}/{kind}/bytes'] = sum(sizes)
  measure.report({**figures, **measure.machine()})


if __name__ == '__main__':
  main()
