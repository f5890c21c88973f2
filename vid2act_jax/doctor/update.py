"""A small update of the whole method, and its convolutions, on this device."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax import learner
from vid2act_jax.config import get_config, set_tiny_networks
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage
from vid2act_jax.types import Batch, FinetuneBatch

_SOURCES = (1, 3)  # Their action sizes.
# Compiles on a CPU in a fifth of the time; the code runs slower.
_QUICK = {
  'xla_cpu_use_fusion_emitters': False,
  'xla_backend_optimization_level': 0,
  'xla_cpu_parallel_codegen_split_count': 2,
}


def measure(seconds: float) -> dict:
  """Compiles a finetuning update of tiny networks and repeats it.

  Args:
    seconds: to repeat it for.

  Returns:
    compile_s; rate, updates a second; form, of the convolutions; and bad, the
    names of metrics that were not finite.
  """
  config = get_config().learner
  set_tiny_networks(config)
  agent = learner.build_agent(config, 2, _SOURCES)
  key = jax.random.key(0)
  state = _state(agent, key)
  batch = FinetuneBatch(_batch(4, 10, 2), _batch(2, 4, 10, max(_SOURCES)))
  start = time.perf_counter()
  step = jax.jit(agent.finetune_step, donate_argnums=0)
  step = _compile(step.lower(state, batch, key))
  compiled = time.perf_counter() - start
  # The first is not counted: it loads the program.
  state, metrics = jax.block_until_ready(step(state, batch, key))
  rows, start = [metrics], time.perf_counter()
  while (passed := time.perf_counter() - start) < seconds:
    state, metrics = step(state, batch, jax.random.fold_in(key, len(rows)))
    rows.append(jax.block_until_ready(metrics))
  rows = jax.device_get(rows)
  bad = {k for row in rows for k in row if not np.isfinite(row[k]).all()}
  rate = (len(rows) - 1) / passed
  form = agent.student.compute.conv_impl
  return {'compile_s': compiled, 'rate': rate, 'form': form, 'bad': sorted(bad)}


def _compile(lowered):
  options = _QUICK if jax.default_backend() == 'cpu' else {}
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError:  # Another jax may not know an option.
    return lowered.compile()


def _state(agent, key):
  """A state with random parameters: compiling an `init` takes long."""
  shapes = jax.eval_shape(lambda k: agent.init(k, agent.teacher.init(k)), key)
  rng = np.random.default_rng(0)
  zero = lambda x: jnp.asarray(np.zeros(x.shape, x.dtype))
  draw = lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype)
  drawn = {
    name: jax.tree.map(draw, getattr(shapes, name))
    for name in ('params', 'slow_critic', 'teacher')
  }
  return jax.tree.map(zero, shapes).replace(**drawn)


def conv_error() -> float:
  """Returns the largest relative difference of a convolution's two forms.

  In values and in gradients, by norm. Computed as exactly as the device can:
  what it does by default, on GPU and TPU, is less than float32.
  """
  image, small = _normal(0, 8, 32, 32, 16), _normal(1, 8, 14, 14, 16)
  cases = [
    (conv.conv, image, _normal(2, 4, 4, 16, 24)),
    (conv.conv, image[..., :3], _normal(3, 4, 4, 3, 24)),
    (conv.conv_transpose, small, _normal(4, 6, 6, 16, 24)),
    (conv.conv_transpose, small, _normal(5, 6, 6, 16, 3)),
  ]
  errors = []
  with jax.default_matmul_precision('highest'):
    for function, x, kernel in cases:
      native, subpixel = (_vjp(function, x, kernel, f) for f in conv.IMPLS)
      for a, b in zip(native, subpixel, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        errors.append(np.linalg.norm(a - b) / np.linalg.norm(a))
  return float(np.max(errors))  # Unlike max(): NaN when one is.


def _vjp(function, x, kernel, form):
  """A convolution's value and its gradients."""

  @jax.jit
  def run(x, kernel):
    pixels = lambda x, k: function(BlockedImage.of(x), k, form).pixels()
    y, vjp = jax.vjp(pixels, x, kernel)
    return y, *vjp(jnp.cos(y))

  return jax.device_get(run(x, kernel))


def _normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _batch(*shape):
  """Random frames of one episode a row: shape [..., B, L, A]."""
  *lead, actions = shape
  rng = np.random.default_rng(0)
  first = np.zeros(lead, bool)
  first[..., 0] = True
  return Batch(
    image=jnp.asarray(rng.integers(0, 256, (*lead, 64, 64, 3), np.uint8)),
    action=jnp.asarray(rng.uniform(-1, 1, (*lead, actions)), jnp.float32),
    reward=jnp.asarray(rng.normal(size=lead), jnp.float32),
    is_first=jnp.asarray(first),
  )
