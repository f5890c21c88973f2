"""The policy of a run, for other people's loops."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vid2act_jax import envs as environments
from vid2act_jax.envs import frames
from vid2act_jax.loops import run_copies, runs, setup
from vid2act_jax.types import UserError

# On CPU: a policy compiles in half the time, and is as fast.
_QUICK_COMPILE = {
  'xla_backend_optimization_level': 1,
  'xla_cpu_use_fusion_emitters': False,
}
_NEXT_STEP = 'NextStep'  # The value of gymnasium's AutoresetMode.


def load_policy(
  run: str | pathlib.Path,
  env: Any = None,
  explore: bool = False,
  seed: int = 0,
) -> 'Policy':
  """Loads the policy of a run, to act in one or many environments.

  Args:
    run: the run's folder, with a checkpoint of the finetuning; it may be in a
      bucket, gs://BUCKET/FOLDER.
    env: the gymnasium environment or vector environment to act in; it gives
      the actions' range and kind, and how it resets automatically. None: the
      actions are those of the training environment.
    explore: sample states and actions, as in training; otherwise take their
      means, as in evaluation.
    seed: of the samples.

  Raises:
    UserError: there is no such run, it has no checkpoint or a damaged one, or
      the environment has other actions. A run of an older version did not
      record its actions: the training environment is made, as in `envs.make`.
  """
  with run_copies.open_run(run) as folder:
    return _load(folder, env, explore, seed)


def _load(run, env, explore, seed):
  config = ConfigDict(runs.read_config_dict(run))
  agent, state = runs.load_agent(run, act_only=True)
  settings = setup.env_settings(config)
  interface = runs.read_interface(run)
  if interface is None:
    training_env = environments.make(config.task, settings, 0)
    interface = training_env.interface
    training_env.close()
  if env is not None:
    actions = _actions_of(env)
    if actions.dim != agent.action_dim:
      raise UserError(
        f'env has {actions.dim} actions, but the policy of {run} has'
        f' {agent.action_dim}: use an environment of its task, {config.task}'
      )
    interface = dataclasses.replace(interface, actions=actions)
  act = _compile(agent, state, jax.random.key(seed), explore)
  view = _View(interface, settings.size, config.task)
  return Policy(agent, act, view, settings, _resets_late(env))


class Policy:
  """Acts in one or many environments, each with its own recurrent state.

  Attributes:
    task: that it has learned.
    settings: of its training environments, for `envs.as_gymnasium`.
    actions: an `ActionSpec`: the actions that `act` returns.
  """

  def __init__(self, agent, act, view, settings, resets_late: bool):
    """Use `load_policy`."""
    self.task, self.settings = view.task, settings
    self.actions = view.interface.actions
    self._agent, self._act, self._view = agent, act, view
    self._resets_late = resets_late
    self._step = 0  # Since loading, for the noise.
    self.reset()

  def reset(self, ended: Any = None) -> None:
    """Forgets the episodes that have ended.

    Args:
      ended: the environments whose episode has ended: a mask bool [E], such as
        `terminated | truncated`, or an index or several. None: all begin anew,
        and their number may change. Given an `env` that resets in the step
        after the last (`AutoresetMode.NEXT_STEP`), the policy still reads the
        last frame, and forgets before the next.

    Raises:
      UserError: there are no such environments.
    """
    if ended is None:
      self._num = self._carry = None
      return
    if self._num is None:  # All begin anew.
      return
    mask = self._mask(ended)
    if self._resets_late:
      self._next_first |= mask
    else:
      self._first |= mask

  def act(self, obs: Any) -> np.ndarray:
    """Chooses actions for the current frames.

    Args:
      obs: u8 [H, W, 3] of one environment, or [E, H, W, 3] of several; or the
        observations that the training environment has, if its picture is in
        them. Frames have the training's size; in gymnasium's tasks any size, as
        they are resized there.

    Returns:
      The environment's own action, or [E, ...] of them.

    Raises:
      UserError: this is no frame, or the number of environments has changed
        without a `reset()`.
    """
    image, is_single = self._view.read(obs)
    if self._num is None:
      self._begin(len(image))
    if len(image) != self._num:
      raise UserError(
        f'act: {len(image)} frames, but {self._num} before: call reset() when '
        'the number of environments changes'
      )
    inputs = {'image': image, 'is_first': self._first}
    self._carry, action = self._act(self._carry, inputs, self._step)
    self._step += 1
    self._first, self._next_first = self._next_first, np.zeros(self._num, bool)
    own = self.actions.to_native(np.asarray(action))
    return own[0] if is_single else own

  def _begin(self, num):
    self._num, self._carry = num, self._agent.initial_carry(num)
    # Whether this frame, and the next one, begin an episode.
    self._first, self._next_first = np.ones(num, bool), np.zeros(num, bool)

  def _mask(self, ended):
    rows = np.atleast_1d(np.asarray(ended))
    if rows.dtype == bool and rows.shape == (self._num,):
      return rows
    mask = np.zeros(self._num, bool)
    is_index = rows.dtype.kind in 'iu' and rows.ndim == 1
    if not rows.size:
      return mask
    if not (is_index and rows.min() >= 0 and rows.max() < self._num):
      raise UserError(
        f'reset({ended!r}): give a mask of {self._num} flags, or indices from 0'
        f' to {self._num - 1}'
      )
    mask[rows] = True
    return mask


@dataclasses.dataclass(frozen=True)
class _View:
  """Reads frames from observations."""

  interface: environments.Interface
  size: int
  task: str

  def read(self, obs: Any) -> tuple[np.ndarray, bool]:
    """Returns u8 [E, size, size, 3], and whether it is one without [E]."""
    obs = self._select(obs)
    if isinstance(obs, list | tuple):  # Of the frames that `render` returns.
      obs = np.stack(obs) if len({np.shape(x) for x in obs}) == 1 else obs
    if not isinstance(obs, np.ndarray) and hasattr(obs, '__array__'):
      obs = np.asarray(obs)
    is_single = getattr(obs, 'ndim', 0) == 3
    batch = obs[None] if is_single else obs
    valid = getattr(batch, 'ndim', 0) == 4 and len(batch) > 0
    if not valid or not frames.is_frame(batch[0]):
      raise self._error(obs)
    return self._fit(batch), is_single

  def _select(self, obs):
    if not isinstance(obs, Mapping):
      return obs
    key = self.interface.image_key
    if 'is_first' in obs:  # Those of this package's environments.
      key = 'image'
    if not key or key not in obs:
      names = ', '.join(map(repr, obs))
      where = 'render()' if key is None else repr(key or 'the observation')
      raise UserError(
        f'act: the policy of {self.task} sees the picture of {where}, not the '
        f'observations with {names}: give it that picture'
      )
    return obs[key]

  def _fit(self, batch):
    height, width = batch.shape[1:3]
    if (height, width) == (self.size, self.size):
      return batch
    rendered = self.interface.image_key is None
    if rendered and min(height, width) < frames.MIN_SIDE:
      raise self._error(batch[0])
    if not self.interface.resizes:
      raise UserError(
        f'act: a frame has {height}x{width} pixels, but the policy of '
        f'{self.task} learned from {self.size}x{self.size}: render that size, '
        'or resize it'
      )
    return np.stack([frames.resize(frame, self.size) for frame in batch])

  def _error(self, obs):
    shape = getattr(obs, 'shape', ())[-3:]
    hint = 'if the observations are no pictures, give it env.render()'
    if len(shape) == 3 and shape[0] == 3 != shape[2]:
      hint = 'move the channels to the end'
    return UserError(
      f'act: the observation is {frames.describe(obs)}, but the policy sees '
      f'frames uint8 [H, W, 3], or [E, H, W, 3] of several environments; {hint}'
    )


def _compile(agent, state, key, explore):
  """Compiles the policy: (carry, obs, step) -> carry, actions f32 [E, A]."""

  def act(state, carry, obs, key, step):
    key = jax.random.fold_in(key, step)
    return agent.policy(state, carry, obs, key, explore)[:2]

  compiled = jax.jit(act, compiler_options=_compiler_options())
  return lambda carry, obs, step: compiled(state, carry, obs, key, step)


def _compiler_options():
  """Options for `_compile`."""
  if jax.default_backend() != 'cpu':
    return None
  return supported_options(_QUICK_COMPILE)


def supported_options(options: dict) -> dict:
  """Those compiler options that this XLA has: they change with versions.

  Args:
    options: of `jax.jit`, by name.
  """

  def is_supported(name, value):
    try:
      jax.jit(lambda: 0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
      return False
    return True

  return {k: v for k, v in options.items() if is_supported(k, v)}


def _actions_of(env):
  """The `ActionSpec` of a gymnasium environment or vector environment."""
  from vid2act_jax.envs import spaces  # Needs gymnasium.

  space = getattr(env, 'single_action_space', None)
  if space is None:
    space = getattr(env, 'action_space', None)
  return spaces.action_spec(str(env), space)


def _resets_late(env) -> bool:
  """Whether ended environments are reset by the next step."""
  metadata = getattr(env, 'metadata', None) or {}
  mode = metadata.get('autoreset_mode')
  return getattr(mode, 'value', mode) == _NEXT_STEP
