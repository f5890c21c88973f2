"""Trains state policies with sbx-rl (SAC), an optional dependency.

The actor's checkpoints are evaluated while it learns. The best one becomes the
expert; the one nearest to half the expert's return, counted from the return of
random actions, becomes the medium.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable
from importlib import metadata

import numpy as np

from vid2act_jax import envs
from vid2act_jax.behaviours import evaluation, library, policy
from vid2act_jax.types import UserError

EXTRA = 'dmc,behaviours'
_PACKAGES = {'sbx': 'sbx-rl', 'gymnasium': 'gymnasium'}
_EPISODES = 3  # Per evaluation while training.
_FINAL_EPISODES = 10
_REFERENCES = 8  # States with the actions of the trained network.
# Collected steps between the calls that update as often: fewer, larger calls.
_STEPS_PER_CALL = 32


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of a training.

  task: name of the task, possibly shifted.
  env_steps: control steps of the training.
  action_repeat: control steps per action.
  evaluations: number of checkpoints that are evaluated.
  hidden: size of the two hidden layers of the actor and of the critics.
  repeats: action repeats at which the results are evaluated.
  seed: of everything random.

  Raises UserError for values out of range.
  """

  task: str
  env_steps: int
  action_repeat: int = 4
  evaluations: int = 24
  hidden: int = 128
  repeats: tuple[int, ...] = (2, 4)
  seed: int = 0

  def __post_init__(self):
    for key in ('env_steps', 'action_repeat', 'evaluations', 'hidden'):
      if getattr(self, key) < 1:
        flag = key.replace('_', '-')
        raise UserError(f'--{flag}={getattr(self, key)}: must be at least 1')


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """The actor during training: layers, env steps and returns so far."""

  layers: policy.Layers
  env_steps: int
  returns: list[float]


def train(
  options: Options,
  folder: pathlib.Path,
  on_evaluation: Callable[[Snapshot], None] = lambda snapshot: None,
) -> list[pathlib.Path]:
  """Trains on a task and writes the medium and the expert policy.

  Args:
    options: see `Options`.
    folder: of the two files, '<task>-<level>.npz'.
    on_evaluation: called with each evaluated snapshot.

  Returns:
    The paths of the files.

  Raises:
    UserError: a package is missing, or the task is unknown or has no states.
  """
  check(options.task)
  snapshots = []
  for snapshot in _train(options):
    snapshots.append(snapshot)
    on_evaluation(snapshot)
  return export(options, snapshots, folder)


def check(task: str) -> None:
  """Raises the UserErrors of `train` that need no training."""
  for module, package in _PACKAGES.items():
    if importlib.util.find_spec(module) is None:
      raise UserError(
        f'training needs the package {package}, which is not installed: '
        f'pip install "vid2act_jax[{EXTRA}]"'
      )
  envs.check(task)
  if not envs.has_states(task):
    raise UserError(
      f'task {task!r} has no states to learn from: only dmc_* tasks have'
    )


def export(
  options: Options, snapshots: list[Snapshot], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Chooses, evaluates and writes the two levels; returns their paths."""
  random = _evaluate(options, None)
  paths = []
  states, layout, action_dim = _sample_states(options)
  chosen = choose(snapshots, random[str(options.action_repeat)]['mean'])
  for level, snapshot in zip(library.LEVELS, chosen, strict=True):
    layers = [
      tuple(x.astype(np.float16) for x in layer) for layer in snapshot.layers
    ]
    about = {
      'task': options.task,
      'level': level,
      'states': layout,
      'action_dim': action_dim,
      'network': [len(bias) for _, bias in layers[:-1]],
      'algorithm': 'SAC',
      'action_repeat': options.action_repeat,
      'env_steps': snapshot.env_steps,
      'seed': options.seed,
      'random_returns': random,
      'versions': {
        name: metadata.version(name)
        for name in ('sbx-rl', 'dm_control', 'mujoco')
      },
    }
    reference = states, _network_actions(layers, states)
    state_policy = policy.StatePolicy(layers, about, reference)
    about['returns'] = _evaluate(options, state_policy)
    paths.append(folder / library.file_name(options.task, level))
    policy.write(paths[-1], state_policy)
  return paths


def choose(snapshots: list[Snapshot], random: float) -> list[Snapshot]:
  """Returns the medium and the expert of a training, in this order.

  Args:
    snapshots: in the order of the training.
    random: mean return of random actions.
  """
  score = lambda snapshot: float(np.mean(snapshot.returns))
  expert = max(snapshots, key=score)
  # At half of the expert's return, random actions may already be as good.
  goal = max(score(expert), score(expert) + random) / 2
  return [min(snapshots, key=lambda s: abs(score(s) - goal)), expert]


def _train(options):
  """Yields a snapshot at each evaluation."""
  import sbx

  env, evaluated = make_env(options), make_env(options)
  try:
    model = sbx.SAC(
      'MlpPolicy',
      env,
      learning_rate=1e-3,
      qf_learning_rate=1e-3,
      buffer_size=300_000,
      learning_starts=2000,
      batch_size=128,
      gamma=0.99,
      train_freq=_STEPS_PER_CALL,
      gradient_steps=_STEPS_PER_CALL,
      seed=options.seed,
      policy_kwargs={
        'net_arch': [options.hidden, options.hidden],
        'layer_norm': True,  # Of the critics; the actor stays an MLP.
      },
    )
    steps = -(-options.env_steps // options.action_repeat)
    for i in range(1, options.evaluations + 1):
      due = steps * i // options.evaluations - model.num_timesteps
      if due > 0:
        model.learn(due, reset_num_timesteps=False)
        yield _snapshot(model, evaluated.env, options)
  finally:
    env.close()
    evaluated.close()


def _snapshot(model, env, options):
  params = model.policy.actor_state.params['params']
  # The network's last layer is the log standard deviation.
  names = [f'Dense_{i}' for i in range(len(params) - 1)]
  arrays = [(params[name]['kernel'], params[name]['bias']) for name in names]
  layers = [tuple(np.array(x) for x in layer) for layer in arrays]
  player = policy.StatePolicy(layers, {'states': _layout(env)}, ())
  seeds = [evaluation.SEED // 2 + i for i in range(_EPISODES)]
  returns = [evaluation.play(env, player, seed) for seed in seeds]
  env_steps = model.num_timesteps * options.action_repeat
  return Snapshot(layers, env_steps, returns)


def _network_actions(layers, states):
  """The actions of sbx's own network with these layers, f32 [R, A]."""
  import jax.numpy as jnp
  from sbx.sac.policies import SquashedGaussianActor

  *hidden, last = layers
  params = {
    f'Dense_{i}': {
      'kernel': jnp.asarray(kernel, jnp.float32),
      'bias': jnp.asarray(bias, jnp.float32),
    }
    for i, (kernel, bias) in enumerate([*hidden, last, last])
  }
  sizes = [len(bias) for _, bias in hidden]
  actor = SquashedGaussianActor(sizes, len(last[1]))
  return np.array(actor.apply({'params': params}, states).mode())


def _sample_states(options):
  """States of random play f32 [R, S], their layout, and A."""
  env = make_env(options)
  try:
    rng = np.random.default_rng(options.seed)
    states = [env.reset(seed=options.seed)[0]]
    while len(states) < _REFERENCES:
      action = rng.uniform(-1, 1, env.env.action_dim)
      states.append(env.step(action)[0])
    return np.stack(states), _layout(env.env), env.env.action_dim
  finally:
    env.close()


def _layout(env):
  return [list(item) for item in policy.layout(env.named_state())]


def _evaluate(options, state_policy):
  """Returns the statistics of the return at each action repeat."""
  found = {}
  for repeat in sorted({*options.repeats, options.action_repeat}):
    returns = evaluation.evaluate(
      options.task, state_policy, repeat, _FINAL_EPISODES
    )
    found[str(repeat)] = {
      'mean': round(float(np.mean(returns)), 1),
      'std': round(float(np.std(returns)), 1),
      'episodes': len(returns),
    }
  return found


def make_env(options: Options):
  """Returns the task as a gymnasium environment of flat states f32 [S].

  Its attribute `env` is the `envs.Env`.
  """
  import gymnasium

  settings = envs.Settings(
    size=16, action_repeat=options.action_repeat, quality='fast'
  )

  class StateEnv(gymnasium.Env):
    """Observations are states; nothing is rendered but first frames."""

    def __init__(self):
      self.env = envs.make(options.task, settings, options.seed)
      size = len(policy.flatten(self.env.named_state()))
      box = gymnasium.spaces.Box
      self.observation_space = box(-np.inf, np.inf, (size,), np.float32)
      self.action_space = box(-1, 1, (self.env.action_dim,), np.float32)

    def reset(self, *, seed=None, options=None):
      self.env.reset(seed)
      return policy.flatten(self.env.named_state()), {}

    def step(self, action):
      result = self.env.advance(action)
      state = policy.flatten(self.env.named_state())
      return state, result.reward, result.terminal, result.truncated, {}

    def close(self):
      self.env.close()

  return StateEnv()
