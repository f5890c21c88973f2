"""What devices tell each other in an update: collectives and their bytes.

  python -m benchmarks.collectives
  python -m benchmarks.collectives --preset quickstart --devices 2

Compiles both stages' updates for simulated CPU devices and reads the compiled
program. Prints one line of JSON and a table.
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
  """Collectives of a compiled program: kind -> bytes of each one's result.

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


def parse(said: str) -> dict[str, float]:
  """The figures of both stages, of what the command printed."""
  figures = json.loads(said.splitlines()[0])
  return {k: v for k, v in figures.items() if '/' in k}


def compile_steps(config, devices: int, batch: int, length: int, domains: int):
  """Compiled updates of both stages, and their gradients' bytes.

  Args:
    config: the `learner` part of an experiment's config.
    devices: how many to split over.
    batch: B, of the target and of each source.
    length: L.
    domains: N.

  Returns:
    {stage: (HLO text, bytes of all gradients)}.
  """
  # Behind the flag that makes the devices.
  import jax
  import jax.numpy as jnp

  from vid2act_jax import learner, sharding
  from vid2act_jax.types import Batch, FinetuneBatch

  actions = 6
  split = sharding.Devices(devices)
  pretrainer = learner.build_pretrainer(config, (actions,) * domains)
  agent = learner.build_agent(config, actions, (actions,) * domains)
  key = jax.random.key(0)

  def draw(*lead, images=True):
    image = jnp.zeros((*lead, 64, 64, 3), jnp.uint8) if images else None
    zeros = jnp.zeros(lead)
    return Batch(image, jnp.zeros((*lead, actions)), zeros, zeros > 0)

  def finetune_batch():
    embed = agent.teacher.encoder.embed_dim
    rows = batch, length, domains, embed
    return FinetuneBatch(
      draw(batch, length),
      draw(domains, batch, length, images=False),
      jnp.zeros(rows, jnp.float16),
      jnp.zeros((domains, batch, length, embed), jnp.float16),
    )

  stages = {
    'pretrain': (
      pretrainer.pretrain_step,
      lambda: pretrainer.init(key),
      lambda: draw(domains, batch, length),
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
  for stage, (step, init, data, kind) in stages.items():
    state = jax.eval_shape(init)
    call = split.jit(step, sharding.specs(kind))
    program = call.lower(state, jax.eval_shape(data), key).compile().as_text()
    leaves = jax.tree.leaves(state.params)
    out[stage] = program, sum(x.size * x.dtype.itemsize for x in leaves)
  return out


def main():
  """Compiles, reads and tells."""
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
  # First, for what the user sets counts.
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
  measure.tell({**figures, **measure.machine()})


if __name__ == '__main__':
  main()
