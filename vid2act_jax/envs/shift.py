"""Tasks that differ from another one in a known way.

<task>@key=value,key=value, as in dmc_walker_walk@gravity=0.5,mass=1.5:

gravity  factor, 0 or more
gain     factor on the strength of the actuators, 0 or more
mass     factor on mass and inertia of every body, above 0
camera   name or number of the task's camera, instead of the settings' own
actions  how many action dimensions the agent sees, at least 1
copy     a label that changes nothing: the same task under another name

The first three change a MuJoCo model, and stay for all episodes. What they
mean in detail is told in `vid2act_jax.envs.dynamics`. Seeds of episodes are
derived from the name before the '@', so that a shifted task's episodes begin,
and are explored, like those of the task itself.
"""

import dataclasses
import math
import re
import sys

import numpy as np

from vid2act_jax.envs import core
from vid2act_jax.types import UserError

MARK = '@'
_NUMBER = re.compile(r'(\d+\.?\d*|\.\d+)([eE]-?\d+)?', re.ASCII)
# They become folders' names.
_LABEL = re.compile(r'[\w.-]{1,32}', re.ASCII)


@dataclasses.dataclass(frozen=True)
class Shift:
  """What is changed; None and '' leave a thing as it is."""

  gravity: float | None = None
  gain: float | None = None
  mass: float | None = None
  camera: str = ''
  actions: int | None = None
  copy: str = ''

  @property
  def dynamics(self) -> bool:
    """Whether it takes a MuJoCo model."""
    return (self.gravity, self.gain, self.mass) != (None, None, None)


def _factor(text):
  value = float(text) if _NUMBER.fullmatch(text) else -1.0
  return value if value >= 0 and math.isfinite(value) else None


def _label(text):
  return text if _LABEL.fullmatch(text) else None


# Key: what reads its value, None for a bad one; what it may be.
_KEYS = {
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
  """Splits a task's name into the task that is shifted, and how.

  Raises:
    UserError: an unknown, repeated or empty key, or a value out of range.
  """
  base, mark, text = task.partition(MARK)
  values = {}
  for item in text.split(',') if mark else ():
    key, _, value = item.partition('=')
    if key not in _KEYS:
      raise UserError(
        f'task {task!r} has no modifier {key!r}: what follows the {MARK!r} is '
        f'key=value,key=value, with keys of {", ".join(_KEYS)}.'
      )
    if key in values:
      raise UserError(f'task {task!r}: {key} is given twice; give it once.')
    read, kind = _KEYS[key]
    values[key] = read(value)
    if values[key] is None:
      raise UserError(f'task {task!r}: {key}={value} should be {kind}.')
  return base, Shift(**values)


def base_name(task: str) -> str:
  """The name of the task that is shifted; a plain name as it is."""
  return task.partition(MARK)[0]


def apply(
  change: Shift, simulator: core.Simulator, task: str
) -> core.Simulator:
  """Changes a simulator that has just been made, all but its camera.

  Args:
    change: what is changed.
    simulator: in place; its camera is chosen already.
    task: for error messages.

  Returns:
    The simulator, or what stands for it where it has other actions.

  Raises:
    UserError: it has no MuJoCo model, or one where a change means nothing.
  """
  if change.dynamics:
    _change_model(change, simulator, task)
  if change.actions is not None:
    return Resized(simulator, change.actions)
  return simulator


def no_model(task: str) -> UserError:
  """What is told of a task whose dynamics cannot be changed."""
  return UserError(
    f'task {task!r} has no MuJoCo model to change: leave gravity, gain and mass'
    ' out.'
  )


def _change_model(change, simulator, task):
  # Whoever has a model has imported MuJoCo, when GL had been chosen.
  mujoco = sys.modules.get('mujoco')
  model = simulator.model
  if mujoco is None or not isinstance(model, mujoco.MjModel):
    raise no_model(task)
  from vid2act_jax.envs import dynamics

  if change.gravity is not None:
    dynamics.scale_gravity(model, change.gravity, task)
  if change.gain is not None:
    dynamics.scale_gain(model, change.gain, task)
    if hasattr(simulator, 'strengthen'):
      simulator.strengthen(change.gain)
  if change.mass is not None:
    dynamics.scale_mass(model, change.mass)


def fit(action: np.ndarray, dim: int, rest: float = 0.0) -> np.ndarray:
  """Cuts an action [A] to [dim], or fills it up with `rest`; f32."""
  fitted = np.full(dim, rest, np.float32)
  shared = min(dim, len(action))
  fitted[:shared] = action[:shared]
  return fitted


class Resized:
  """A simulator of which the agent sees another number of actions.

  Fewer: the last actuators get 0, the middle of their range, and the last of
  discrete choices are never taken. More: the additional ones do nothing.
  """

  def __init__(self, simulator: core.Simulator, action_dim: int):
    self._simulator = simulator
    self.action_dim = action_dim
    # Of discrete actions the first of the largest is taken.
    discrete = simulator.description.get('actions') == 'discrete'
    self._rest = -1.0 if discrete else 0.0

  def step(self, action: np.ndarray) -> core.Outcome:
    own = fit(action, self._simulator.action_dim, self._rest)
    return self._simulator.step(own)

  def __getattr__(self, name):
    return getattr(self._simulator, name)  # All else is as it is.
