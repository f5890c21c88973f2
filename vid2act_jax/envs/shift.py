"""Shifted tasks: variations of a task, given by modifiers in its name.

<task>@key=value,key=value, as in dmc_walker_walk@gravity=0.5,mass=1.5:

gravity  factor, 0 or more
gain     factor on the actuator gains, 0 or more
mass     factor on mass and inertia of every body, above 0
camera   name or number of the task's camera; overrides the settings
actions  number of action dimensions of the agent, at least 1
copy     a label without effect: the same task under another name

The first three change the MuJoCo model for all episodes (see
`vid2act_jax.envs.dynamics`). Episode seeds are derived from the name before the
'@', so a shifted task has the same initial states and exploration noise as the
original task.
"""

import dataclasses
import math
import re
import sys

import numpy as np

from vid2act_jax.envs import core
from vid2act_jax.envs.actions import ActionSpec
from vid2act_jax.types import UserError

SEPARATOR = '@'
_NUMBER = re.compile(r'(\d+\.?\d*|\.\d+)([eE]-?\d+)?', re.ASCII)
# Labels become part of folder names.
_LABEL = re.compile(r'[\w.-]{1,32}', re.ASCII)


@dataclasses.dataclass(frozen=True)
class Shift:
  """The modifiers of a task; None and '' mean no change."""

  gravity: float | None = None
  gain: float | None = None
  mass: float | None = None
  camera: str = ''
  actions: int | None = None
  copy: str = ''

  @property
  def has_dynamics(self) -> bool:
    """Whether it changes the MuJoCo model."""
    return (self.gravity, self.gain, self.mass) != (None, None, None)


def _factor(text):
  value = float(text) if _NUMBER.fullmatch(text) else -1.0
  return value if value >= 0 and math.isfinite(value) else None


def _label(text):
  return text if _LABEL.fullmatch(text) else None


# Key: (parser, which returns None for an invalid value; description).
_MODIFIERS = {
  'gravity': (_factor, 'a factor such as 0.5, 0 or more'),
  'gain': (_factor, 'a factor such as 0.5, 0 or more'),
  'mass': (lambda text: _factor(text) or None, 'a factor such as 1.5, above 0'),
  'camera': (_label, "a camera's name or number"),
  'actions': (
    lambda text: (
      int(text) or None if re.fullmatch('[0-9]{1,4}', text) else None
    ),
    'a whole number from 1 to 9999',
  ),
  'copy': (_label, 'up to 32 letters, digits, dots, dashes or underscores'),
}


def parse(task: str) -> tuple[str, Shift]:
  """Splits a task's name into the original task and the modifiers.

  Raises:
    UserError: an unknown, repeated or empty key, or a value out of range.
  """
  base, separator, text = task.partition(SEPARATOR)
  values = {}
  for item in text.split(',') if separator else ():
    key, _, value = item.partition('=')
    if key not in _MODIFIERS:
      raise UserError(
        f'task {task!r} has an unknown modifier {key!r}: write '
        f'{SEPARATOR}key=value,key=value with keys of {", ".join(_MODIFIERS)}.'
      )
    if key in values:
      raise UserError(f'task {task!r}: {key} is given twice; give it once.')
    parse_value, expected = _MODIFIERS[key]
    values[key] = parse_value(value)
    if values[key] is None:
      raise UserError(f'task {task!r}: {key}={value} should be {expected}.')
  return base, Shift(**values)


def base_name(task: str) -> str:
  """Returns the task's name without modifiers."""
  return task.partition(SEPARATOR)[0]


def apply(
  change: Shift, simulator: core.Simulator, task: str
) -> core.Simulator:
  """Applies all modifiers but the camera to a new simulator.

  Args:
    change: the modifiers.
    simulator: changed in place; its camera is already set.
    task: name of the task, for error messages.

  Returns:
    The simulator, wrapped if its action dimension changes.

  Raises:
    UserError: the task has no MuJoCo model, or a modifier does not apply to it.
  """
  if change.has_dynamics:
    _apply_dynamics(change, simulator, task)
  if change.actions is not None:
    return ActionDimWrapper(simulator, change.actions)
  return simulator


def no_model_error(task: str) -> UserError:
  """The error for a task whose dynamics cannot be changed."""
  return UserError(
    f'task {task!r} has no MuJoCo model to change: remove gravity, gain and'
    ' mass.'
  )


def _apply_dynamics(change, simulator, task):
  # A simulator with a model has imported MuJoCo after selecting a GL backend.
  mujoco = sys.modules.get('mujoco')
  model = simulator.model
  if mujoco is None or not isinstance(model, mujoco.MjModel):
    raise no_model_error(task)
  from vid2act_jax.envs import dynamics

  if change.gravity is not None:
    dynamics.scale_gravity(model, change.gravity, task)
  if change.gain is not None:
    dynamics.scale_gain(model, change.gain, task)
    if hasattr(simulator, 'scale_gain'):
      simulator.scale_gain(change.gain)
  if change.mass is not None:
    dynamics.scale_mass(model, change.mass)


def pad_or_truncate(
  action: np.ndarray, dim: int, fill: float = 0.0
) -> np.ndarray:
  """Truncates an action [A] to [dim], or pads it with `fill`; f32."""
  result = np.full(dim, fill, np.float32)
  shared = min(dim, len(action))
  result[:shared] = action[:shared]
  return result


class ActionDimWrapper:
  """Changes the number of action dimensions of a simulator.

  Fewer: the last actuators get 0, the middle of their range, and the last
  discrete actions are never taken. More: the additional ones have no effect.
  """

  def __init__(self, simulator: core.Simulator, action_dim: int):
    self._simulator = simulator
    self.action_dim = action_dim
    # Discrete actions are an argmax, so missing ones need the lowest value.
    discrete = simulator.description.get('actions') == 'discrete'
    self._fill = -1.0 if discrete else 0.0
    if discrete:
      self.actions = ActionSpec.discrete(action_dim)
    else:
      self.actions = ActionSpec.normalized(action_dim)

  def step(self, action: np.ndarray) -> core.StepResult:
    action = pad_or_truncate(action, self._simulator.action_dim, self._fill)
    return self._simulator.step(action)

  def __getattr__(self, name):
    return getattr(self._simulator, name)
