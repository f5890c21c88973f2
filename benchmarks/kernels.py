"""Compiles the full-size update for a GPU, without a GPU.

  pip install 'jax[cuda13]'
  python -m benchmarks.kernels
  python -m benchmarks.kernels --dtype float32 --unroll 1
  python -m benchmarks.kernels --seeds 4

Reports whether XLA's GPU compiler accepts the update, the number of kernels
that it launches, in loops and in total, and their memory. There is no
autotuning without a device, so the numbers differ slightly from those of a run.
Takes some minutes.
"""

import argparse
import os
import re
import sys
import time

import jax
from jax.experimental import topologies

from benchmarks import measure, update
from experiments import base
from vid2act_jax import learner
from vid2act_jax.learner import build
from vid2act_jax.loops import seeds

# The target device for the compiler (XLA's GpuTargetConfigProto): an H200.
TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  device_memory_size: 150754820096
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
_NO_KERNEL = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
  'after-all', 'fusion-done', 'copy-done', 'async-done',
}  # fmt: skip
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\('
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def count(hlo: str) -> dict[str, int]:
  """Counts the kernels that a compiled GPU program launches.

  Args:
    hlo: its text, `compiled.as_text()`.

  Returns:
    kernels, in total; in_loops, those inside loops.
  """
  computations, entry, lines = {}, None, []
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      lines = computations[found[2]] = []
      entry = found[2] if found[1] else entry
    else:
      lines.append(line)

  def total(name):
    kernels, in_loops = 0, 0
    for line in computations[name]:
      found = _INSTRUCTION.match(line)
      if not found or found[1] in _NO_KERNEL:
        continue
      if found[1] == 'while':
        trips = _TRIPS.search(line)
        times = int(trips[1]) if trips else 1
        inner = times * total(_called(line, 'body'))[0]
        kernels, in_loops = kernels + inner, in_loops + inner
      elif found[1] == 'call':
        inner = total(_called(line, 'to_apply'))
        kernels, in_loops = kernels + inner[0], in_loops + inner[1]
      else:
        kernels += 1
    return kernels, in_loops

  return dict(zip(('kernels', 'in_loops'), total(entry), strict=True))


def _called(line, key):
  return re.search(rf'{key}=%?([\w.\-]+)', line)[1]


def compile_update(args) -> dict:
  """Compiles the update and counts its kernels."""
  config = base.get_config().learner
  config.update(dtype=args.dtype, unroll=args.unroll)
  agent = learner.build_agent(config, 6, (6,) * args.domains, platform='gpu')
  key = jax.random.key(0)
  make = lambda: update.make_batch(agent, 50, 50, 'float16')
  init = lambda key: agent.init(key, agent.teacher.init(key))
  shapes = jax.eval_shape(lambda: (init(key), make(), key))
  sharding = jax.sharding.SingleDeviceSharding(_device())
  struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  step, inputs = agent.finetune_step, jax.tree.map(struct, shapes)
  if args.seeds > 1:
    step = seeds.join(step, args.seeds)
    inputs = tuple((x,) * args.seeds for x in inputs)
  traced = jax.jit(step, donate_argnums=0).trace(*inputs)
  started = time.perf_counter()
  compiled = traced.lower(lowering_platforms=('cuda',)).compile()
  return {
    'compile_s': time.perf_counter() - started,
    **count(compiled.as_text()),
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
  }


def _device():
  try:
    topology = topologies.get_topology_desc(
      'gpu', 'cuda', target_config=TARGET, topology='1x1x1'
    )
  except NotImplementedError:  # JAX has no CUDA plugin.
    sys.exit(
      "error: XLA's GPU compiler is not installed; run pip install"
      " 'jax[cuda13]'"
    )
  return topology.devices[0]


def main():
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--dtype', choices=build.DTYPES, default='bfloat16')
  parser.add_argument('--domains', type=int, default=4)
  parser.add_argument('--unroll', type=int, default=10)
  parser.add_argument('--seeds', type=int, default=1)
  args = parser.parse_args()
  # Arrays are on the CPU, and JAX does not look for a GPU driver.
  jax.config.update('jax_platforms', 'cpu')
  os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'
  figures = compile_update(args)
  measure.report({**vars(args), **figures, 'jax': jax.__version__})


if __name__ == '__main__':
  main()
