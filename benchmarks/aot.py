"""Compiles an update for an accelerator that is not present.

  pip install 'jax[tpu]'
  python -m benchmarks.aot --platform tpu --topology v5e:2x2
  python -m benchmarks.aot --platform tpu --topology v5e:4x4 --chips 16 \
    --stage pretrain --batch 64
  pip install 'jax[cuda13]'
  python -m benchmarks.aot --platform cuda --seeds 4

Prints one line of JSON and a table: memory, operations, loops, collectives with
bytes, layout operations, and for a TPU the compiler's estimates of cycles by
part of the update. Nothing is executed, and there is no autotuning without a
device, so figures differ from those of a run. Takes some minutes.
"""

import argparse
import os
import pathlib
import sys
import time

import jax
from jax.experimental import topologies

from benchmarks import hlo, measure, seeds, update
from vid2act_jax import learner, sharding
from vid2act_jax.learner import build
from vid2act_jax.loops import seed_calls
from vid2act_jax.types import Batch, FinetuneBatch

# The target device for the compiler (XLA's GpuTargetConfigProto): an H200.
CUDA_TARGET = """
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
# Without a TPU its library would look for the metadata server of a cloud.
_TPU_ENV = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
TOPOLOGIES = (
  'v4:2x2x1', 'v5e:2x2', 'v5e:4x4', 'v5e:8x8', 'v5e:16x16', 'v5p:2x2x1',
  'v6e:2x2', 'v6e:4x4', 'tpu7x:2x2x1',
)  # fmt: skip
_PLATFORMS = {'tpu': 'tpu', 'cuda': 'gpu'}  # Their names in `build`.
_ACTIONS = 6
# The first that is in the path of an operation: Flax modules, then loops.
_PARTS = {
  'Encoder': 'encoder',
  'Decoder': 'decoder',
  'RSSM': 'recurrence',
  'ActionVAE': 'action VAE',
  'Similarity': 'similarity',
  'Actor': 'actor',
  'ScalarHead': 'reward and value',
  'MLP': 'distillation',
  '/while': 'recurrence',
  'step)/jvp': 'losses',
}


def topology_devices(platform: str, topology: str) -> list:
  """Devices of a platform that is not present.

  Args:
    platform: 'tpu' or 'cuda'.
    topology: of a TPU, such as 'v5e:2x2'.

  Raises:
    SystemExit: the compiler is not installed, or the topology is unknown.
  """
  try:
    if platform == 'tpu':
      found = topologies.get_topology_desc(topology, 'tpu')
    else:
      os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'
      found = topologies.get_topology_desc(
        'gpu', 'cuda', target_config=CUDA_TARGET, topology='1x1x1'
      )
  except jax.errors.JaxRuntimeError as error:
    if platform != 'tpu':
      sys.exit(
        'error: the compiler does not know the device of CUDA_TARGET'
        f' ({str(error).splitlines()[0]}); install the tested jax'
      )
    known = ', '.join(TOPOLOGIES)
    sys.exit(
      f'error: --topology={topology}: the compiler does not know it'
      f' ({str(error).splitlines()[0]}); these are known: {known}'
    )
  except RuntimeError:  # Of several kinds: without a library, or its plugin.
    sys.exit(
      f'error: the compiler for {platform} is not installed; run pip install'
      f" 'jax[{'tpu' if platform == 'tpu' else 'cuda13'}]'"
    )
  return found.devices


def build_step(args):
  """The step of a stage, and functions that make its arguments.

  Args:
    args: of the command line.

  Returns:
    The step, its state's init function, its batch's function and type.
  """
  config = seeds.PRESETS[args.preset].get_config()
  config.learner.update(dtype=args.dtype, unroll=args.unroll)
  size, length = config.finetune.batch, config.finetune.length
  if args.stage == 'pretrain':
    size = -(-config.pretrain.batch // args.domains)
    length = config.pretrain.length
  size = args.batch or size
  sources = (_ACTIONS,) * args.domains
  platform = _PLATFORMS[args.platform]
  key = jax.random.key(0)
  agent = learner.build_agent(
    config.learner, _ACTIONS, sources, platform=platform
  )
  if args.stage == 'finetune':
    init = lambda: agent.init(key, agent.teacher.init(key))
    make = lambda: update.make_batch(agent, size, length, 'float16')
    return agent.finetune_step, init, make, FinetuneBatch
  pretrainer = learner.build_pretrainer(
    config.learner, sources, platform=platform, generator=False
  )
  make = lambda: update.make_batch(agent, size, length, 'none').sources
  init = lambda: pretrainer.init(key)
  return pretrainer.pretrain_step, init, make, Batch


def compile_step(args, devices: list):
  """Lowers and compiles a step for some devices.

  Args:
    args: of the command line.
    devices: from `topology_devices`.

  Returns:
    The compiled step, and the seconds it took.
  """
  step, init, make, batch_type = build_step(args)
  where = sharding.Devices(args.chips, devices=devices)
  spec = sharding.specs(batch_type)
  key = jax.random.key(0)
  replicate = where.replicated_structs
  state = replicate(jax.eval_shape(init))
  batch = where.structs(jax.eval_shape(make), spec)
  rest, num = replicate(jax.eval_shape(lambda: key)), args.seeds
  if num > 1:
    step = seed_calls.join_update(step, num)
    stack = lambda x: jax.ShapeDtypeStruct((num, *x.shape), x.dtype)
    state = replicate(jax.tree.map(stack, state))
    batch, spec = (batch,) * num, (spec,) * num
    chosen = replicate(jax.ShapeDtypeStruct((num,), bool))
    rest = (rest,) * num, chosen
  traced = where.jit(step, spec).trace(state, batch, rest)
  started = time.perf_counter()
  lowered = traced.lower(lowering_platforms=(args.platform,))
  return lowered.compile(), time.perf_counter() - started


def part_of(path: str) -> str:
  """The part of the update that an operation belongs to.

  Args:
    path: of the operation in the program's metadata.
  """
  return next((v for k, v in _PARTS.items() if k in path), 'other')


def analyse(compiled) -> dict:
  """Figures of a compiled step."""
  text = compiled.as_text()
  program, memory = hlo.Program(text), compiled.memory_analysis()
  cost = compiled.cost_analysis() or {}
  cycles = program.cycles(part_of)
  figures = {
    'peak_bytes': memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
    'code_bytes': memory.generated_code_size_in_bytes,
    'flops': cost.get('flops'),
    'bytes_accessed': cost.get('bytes accessed'),
    **program.kernels(),
    'loops': ' '.join(map(str, program.loops)),
    **program.layout(),
    **program.collectives(),
  }
  if total := sum(cycles.values()):
    figures['cycles'] = total
    figures |= {f'cycles/{part}': value for part, value in cycles.items()}
  return figures


def parse(arguments=None):
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add('--platform', choices=_PLATFORMS, default='tpu')
  add('--topology', default='v5e:2x2', help='of a TPU')
  add('--chips', type=int, default=1, help='for data parallelism')
  add('--stage', choices=('pretrain', 'finetune'), default='finetune')
  add('--preset', choices=seeds.PRESETS, default='full')
  add('--batch', type=int, help="B, of each domain; default: the preset's")
  add('--dtype', choices=build.DTYPES, default='bfloat16')
  add('--domains', type=int, default=4)
  add('--unroll', type=int, default=-1)
  add('--seeds', type=int, default=1)
  add('--save', type=pathlib.Path, help='file for the compiled program')
  return parser.parse_args(arguments)


def main():
  """Command line."""
  args = parse()
  # Arrays are on the CPU, and JAX does not look for drivers.
  jax.config.update('jax_platforms', 'cpu')
  os.environ.update({**_TPU_ENV, **os.environ})
  devices = topology_devices(args.platform, args.topology)
  if not 1 <= args.chips <= len(devices):
    sys.exit(
      f'error: --chips={args.chips}: {args.topology} has {len(devices)} devices'
    )
  compiled, seconds = compile_step(args, devices)
  if args.save:
    args.save.write_text(compiled.as_text())
  figures = {'compile_s': seconds, **analyse(compiled)}
  settings = {k: v for k, v in vars(args).items() if k != 'save'}
  measure.report({**settings, **figures, 'jax': jax.__version__})


if __name__ == '__main__':
  main()
