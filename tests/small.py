"""Small agents for the tests, made and compiled in little time."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import base
from vid2act_jax import learner
from vid2act_jax.learner import teachers
from vid2act_jax.nets import world_model
from vid2act_jax.types import Batch, FinetuneBatch, LearnerState

KEY = jax.random.key(0)

# No chance: every draw is the same number.
CONSTANT = learner.Draws(
  latent=lambda key, shape: jnp.full(shape, 0.3),
  actor=lambda key, shape: jnp.full(shape, 0.2),
)
# Compiles an update in a tenth of the time; the code runs slower.
_QUICK = {
  'xla_cpu_use_fusion_emitters': False,
  'xla_backend_optimization_level': 0,
  'xla_cpu_parallel_codegen_split_count': 2,
}


@functools.cache
def quick_options() -> dict:
  """Those compiler options for a quick compilation that this jax knows."""

  def known(name, value):
    try:
      jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
      return False
    return True

  return {k: v for k, v in _QUICK.items() if known(k, v)}


def jit(fn, **kwargs):
  """Like `jax.jit`, with little optimization."""
  return jax.jit(fn, compiler_options=quick_options(), **kwargs)


def config(**student):
  """The `learner` part of the config at the smallest sizes.

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
  out.transfer.update(vae_hidden=9, guidance=5)
  out.behavior.update(horizon=3, actor_layers=1, critic_layers=1)
  return out


def fill(shapes, seed=0):
  """Random parameters of these shapes: without a compilation for each."""
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
  """A fresh state of an `Agent` or a `Pretrainer`."""

  def init():
    key = jax.random.key(0)
    if not isinstance(built, learner.Agent):
      return built.init(key)
    return built.init(key, built.pretrained and built.pretrained.init(key))

  shapes = jax.eval_shape(init)
  zeros = lambda x: jnp.asarray(np.zeros(x.shape, x.dtype))
  return shapes.replace(
    step=zeros(shapes.step),
    params=fill(shapes.params, seed),
    opt=jax.tree.map(zeros, shapes.opt),
    slow_critic=fill(shapes.slow_critic, seed + 1),
    teacher=fill(shapes.teacher, seed + 2),
  )


def batch_of(*lead, action_dim, seed=0) -> Batch:
  """Random frames [*lead, ...] of one episode a row."""
  rng = np.random.default_rng(seed)
  first = np.zeros(lead, bool)
  first[..., 0] = True
  return Batch(
    image=jnp.asarray(rng.integers(0, 256, (*lead, 64, 64, 3), np.uint8)),
    action=jnp.asarray(rng.uniform(-1, 1, (*lead, action_dim)), jnp.float32),
    reward=jnp.asarray(rng.normal(size=lead), jnp.float32),
    is_first=jnp.asarray(first),
    discount=jnp.asarray(rng.uniform(size=lead) > 0.2, jnp.float32),
  )


def finetune_batch(agent, size=2, length=6, seed=0) -> FinetuneBatch:
  """Target and source batches; the sources' paddings are not zero."""
  target = batch_of(size, length, action_dim=agent.action_dim, seed=seed)
  if not agent.replays:
    return FinetuneBatch(target, None)
  lead, width = (agent.num_domains, size, length), agent.teacher.action_dim
  return FinetuneBatch(target, batch_of(*lead, action_dim=width, seed=seed + 1))


@dataclasses.dataclass
class Setup:
  """An agent with two sources of 1 and 3 action dimensions; its own has 2."""

  agent: learner.Agent
  state: LearnerState
  batch: FinetuneBatch
  step: Callable  # compiled


@functools.cache
def setup() -> Setup:
  """One for all tests: no chance, no free nats, slow critic's period 2."""
  settings = config()
  settings.behavior.slow_period = 2
  settings.kl.free = 0.0
  agent = learner.build_agent(settings, 2, (1, 3), CONSTANT)
  step = jit(agent.finetune_step)
  return Setup(agent, state_of(agent), finetune_batch(agent), step)


def assert_equal(left, right):
  """Bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_close(left, right, tolerance=1e-5):
  """Relative by norm, array by array; below 1e-8 all is rounding."""

  def compare(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert x.shape == y.shape
    assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y) + 1e-8

  jax.tree.map(compare, left, right)


def differ(left, right) -> bool:
  """Whether there is any difference."""
  leaves = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return any((np.asarray(x) != np.asarray(y)).any() for x, y in leaves)


def watch(agent, params, batch: FinetuneBatch, key):
  """What a frozen teacher sees of a batch, with nobody beside it."""
  ((latent, _),) = world_model.run(
    teachers.teacher_inputs(agent, params, batch, key)
  )
  return teachers.split_features(agent, batch, latent)
