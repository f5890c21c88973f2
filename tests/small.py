"""Small agents for the tests, which build and compile quickly."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import base
from vid2act_jax import learner
from vid2act_jax.learner import teachers
from vid2act_jax.loops import inference
from vid2act_jax.types import Batch, FinetuneBatch, LearnerState

KEY = jax.random.key(0)

# Constants instead of random noise.
CONSTANT = learner.NoiseFns(
  latent=lambda key, shape: jnp.full(shape, 0.3),
  action=lambda key, shape: jnp.full(shape, 0.2),
)
# An update compiles in a tenth of the time, but runs slower.
_FAST_COMPILE = {
  'xla_cpu_use_fusion_emitters': False,
  'xla_backend_optimization_level': 0,
  'xla_cpu_parallel_codegen_split_count': 2,
}


@functools.cache
def quick_options() -> dict:
  """Compiler options for fast compilation that this jax supports."""
  return inference.supported_options(_FAST_COMPILE)


def jit(fn, **kwargs):
  """`jax.jit` with little optimization."""
  return jax.jit(fn, compiler_options=quick_options(), **kwargs)


def config(**student):
  """The `learner` section of the config with the smallest sizes.

  Args:
    **student: sizes of the student that differ from the teacher's.
  """
  sizes = {
    'depth': 2, 'stoch': 3, 'deter': 8, 'hidden': 7, 'units': 6,
    'reward_layers': 1,
  }  # fmt: skip
  out = base.get_config().learner
  out.teacher.update(sizes)
  out.student.update({**sizes, **student})
  out.transfer.update(vae_hidden=9, guidance_size=5)
  out.behavior.update(horizon=3, actor_layers=1, critic_layers=1)
  return out


def fill(shapes, seed=0):
  """Random parameters of these shapes, without compiling an init function."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    fan_in = int(np.prod(leaf.shape[:-1])) or 1
    noise = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    noise = noise * 0.1 + 1 if path[-1].key == 'scale' else noise
    return jnp.asarray(noise.astype(leaf.dtype))

  return jax.tree_util.tree_map_with_path(draw, shapes)


def model_params(model, seed=0):
  """Parameters of a `WorldModel`."""
  return fill(jax.eval_shape(model.init, jax.random.key(0)), seed)


def state_of(built, seed=0):
  """A state of an `Agent` or a `Pretrainer` with random parameters."""

  def init():
    key = jax.random.key(0)
    if not isinstance(built, learner.Agent):
      return built.init(key)
    return built.init_random(key)

  shapes = jax.eval_shape(init)
  zeros = lambda x: jnp.asarray(np.zeros(x.shape, x.dtype))
  return shapes.replace(
    step=zeros(shapes.step),
    params=fill(shapes.params, seed),
    opt=jax.tree.map(zeros, shapes.opt),
    slow_critic=fill(shapes.slow_critic, seed + 1),
    teacher=fill(shapes.teacher, seed + 2),
  )


def batch_of(*shape, action_dim, seed=0) -> Batch:
  """A random batch [*shape, ...] with one episode in each row."""
  rng = np.random.default_rng(seed)
  first = np.zeros(shape, bool)
  first[..., 0] = True
  return Batch(
    image=jnp.asarray(rng.integers(0, 256, (*shape, 64, 64, 3), np.uint8)),
    action=jnp.asarray(rng.uniform(-1, 1, (*shape, action_dim)), jnp.float32),
    reward=jnp.asarray(rng.normal(size=shape), jnp.float32),
    is_first=jnp.asarray(first),
    discount=jnp.asarray(rng.uniform(size=shape) > 0.2, jnp.float32),
  )


def finetune_batch(agent, size=2, length=6, seed=0) -> FinetuneBatch:
  """Target and source batches; the padding of source actions is not zero."""
  target = batch_of(size, length, action_dim=agent.action_dim, seed=seed)
  if not agent.trains_generator:
    return FinetuneBatch(target, None)
  shape = agent.num_domains, size, length
  action_dim = agent.source_mask.shape[1]
  sources = batch_of(*shape, action_dim=action_dim, seed=seed + 1)
  return FinetuneBatch(target, sources)


@dataclasses.dataclass
class Setup:
  """An agent with 2 action dimensions and two sources with 1 and 3."""

  agent: learner.Agent
  state: LearnerState
  batch: FinetuneBatch
  step: Callable  # compiled


@functools.cache
def setup() -> Setup:
  """A cached setup without noise and free nats, and a slow period of 2."""
  settings = config()
  settings.behavior.slow_period = 2
  settings.kl.free = 0.0
  agent = learner.build_agent(settings, 2, (1, 3), CONSTANT)
  step = jit(agent.finetune_step)
  return Setup(agent, state_of(agent), finetune_batch(agent), step)


def assert_equal(left, right):
  """Asserts that the arrays of two trees are equal bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_close(left, right, tolerance=1e-5):
  """Bounds the relative error by norm of each array, with 1e-8 absolute."""

  def compare(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert x.shape == y.shape
    assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y) + 1e-8

  jax.tree.map(compare, left, right)


def assert_norm_close(ours, expected, tolerance=1e-5):
  """Two arrays, relative by norm."""
  ours, expected = np.asarray(ours), np.asarray(expected)
  assert ours.shape == expected.shape
  error = np.linalg.norm(ours - expected)
  assert error <= tolerance * np.linalg.norm(expected)


def normal(*shape):
  """A constant sample of standard normal noise, f32."""
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def differ(left, right) -> bool:
  """Whether any arrays of two trees differ."""
  leaves = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return any((np.asarray(x) != np.asarray(y)).any() for x, y in leaves)


def teacher_features(agent, params, batch: FinetuneBatch, rng):
  """Features of the frozen teacher, from a scan without the student."""
  specs = teachers.teacher_scans(agent, params, batch, rng)
  outputs = agent.teacher.run_scans(*specs)
  return teachers.compute_features(agent, params, batch, outputs, rng)
