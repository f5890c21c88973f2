"""A small update of the whole method, and its convolutions, on this device."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax import learner
from vid2act_jax.config import get_config, set_tiny_networks
from vid2act_jax.doctor.results import ok, problem
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage
from vid2act_jax.types import Batch, FinetuneBatch

# Compiles on a CPU in a fifth of the time; the code runs slower.
_QUICK = {
  'xla_cpu_use_fusion_emitters': False,
  'xla_backend_optimization_level': 0,
  'xla_cpu_parallel_codegen_split_count': 2,
}
_MAX_ERROR = 1e-3  # Relative: float32 gives 1e-6, a wrong convolution 1.
_CONVOLUTIONS = (  # Their images and kernels, of few and of many channels.
  ('conv', (8, 32, 32, 16), (4, 4, 16, 24)),
  ('conv', (8, 32, 32, 3), (4, 4, 3, 24)),
  ('conv_transpose', (8, 14, 14, 16), (6, 6, 16, 24)),
  ('conv_transpose', (8, 14, 14, 16), (6, 6, 16, 3)),
)


def update():
  """Yields the results of an update and of the convolutions."""
  fix = 'try JAX_PLATFORMS=cpu, then a fresh environment: bash launch/setup.sh'
  config = get_config().learner
  set_tiny_networks(config)
  agent = learner.build_agent(config, 2, (1, 3))
  rate, compile_s, bad = measure(agent)
  text = f'{rate:.0f} updates/s of the sizes of experiments/debug.py, compiled'
  text += f' in {compile_s:.1f} s (on a CPU with little optimization); '
  if bad:
    yield problem('update', f'{text}not finite: {", ".join(bad)}', fix)
  else:
    yield ok('update', f'{text}all metrics are finite')
  error = conv_error()
  text = f'{agent.student.compute.conv_impl} is chosen; all forms differ by'
  text += f' {error:.0e}'
  if error <= _MAX_ERROR:  # False for NaN.
    yield ok('update/conv', text)
  else:
    yield problem('update/conv', text, fix)


def measure(agent) -> tuple[float, float, list[str]]:
  """Compiles a finetuning update and repeats it for a second.

  Returns:
    Updates per second; seconds to compile; metrics that were not finite.
  """
  key, bad, updates = jax.random.key(0), set(), 0
  state = _compile(lambda x: agent.init(x, agent.teacher.init(x)), key)(key)
  batch = FinetuneBatch(_batch(4, 10, 2), _batch(2, 4, 10, 3))
  start = time.perf_counter()
  step = _compile(agent.finetune_step, state, batch, key)
  compile_s = time.perf_counter() - start
  state, _ = jax.block_until_ready(step(state, batch, key))  # Loads it.
  start = time.perf_counter()
  while (passed := time.perf_counter() - start) < 1:
    updates += 1
    state, metrics = step(state, batch, jax.random.fold_in(key, updates))
    metrics = jax.device_get(metrics)
    bad |= {k for k, x in metrics.items() if not np.isfinite(x).all()}
  return updates / passed, compile_s, sorted(bad)


def _compile(function, *arguments):
  lowered = jax.jit(function).lower(*arguments)
  options = _QUICK if jax.default_backend() == 'cpu' else {}
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # Another jax may not know an option.
    return lowered.compile()


def _batch(*shape):
  """Random frames of one episode a row: shape [..., B, L, A]."""
  *lead, _ = shape
  image = np.random.default_rng(0).integers(0, 256, (*lead, 64, 64, 3))
  first = np.indices(lead)[-1] == 0
  batch = Batch(np.uint8(image), _normal(shape), _normal(lead), first)
  return jax.device_put(batch)


def _normal(shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def conv_error() -> float:
  """Returns the largest relative difference of a convolution's forms.

  In values and in gradients, by norm. Computed as exactly as the device can:
  what it does by default, on GPU and TPU, is less than float32.
  """

  def loss(arrays, impl):
    values = [
      getattr(conv, name)(BlockedImage.of(x), kernel, impl).pixels()
      for (name, *_), (x, kernel) in zip(_CONVOLUTIONS, arrays, strict=True)
    ]
    return sum(jnp.sin(y).sum() for y in values), values

  grad = jax.grad(loss, has_aux=True)
  forms = lambda x: [jax.tree.leaves(grad(x, impl)) for impl in conv.IMPLS]
  arrays = [(_normal(x), _normal(kernel)) for _, x, kernel in _CONVOLUTIONS]
  with jax.default_matmul_precision('highest'):
    first, *others = _compile(forms, arrays)(arrays)
  norm = np.linalg.norm
  errors = [
    norm(x - y) / norm(x)
    for other in others
    for x, y in zip(first, other, strict=True)
  ]
  return float(np.max(errors))  # Unlike max(), it is NaN when one is.
