"""DeepMind Control suite tasks from pixels."""

from importlib import metadata

import mujoco
import numpy as np
from dm_control import suite

from vid2act_jax.envs import core, render
from vid2act_jax.envs.actions import ActionSpec

# Published results use camera 0. The quadruped's camera 0 is too far away: at
# 64 x 64 its legs are single pixels.
_CAMERAS = {'quadruped': '2'}
_TASKS = {
  f'{domain}_{task}': (domain, task) for domain, task in sorted(suite.ALL_TASKS)
}


def tasks() -> list[str]:
  """Returns the names of all tasks, '<domain>_<task>'."""
  return list(_TASKS)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Loads a task; raises UserError if the camera does not exist."""
  return Simulator(name, settings, seed)


class Simulator:
  """A task of the suite, one control step at a time."""

  has_success = False
  state = None

  def __init__(self, name: str, settings: core.Settings, seed: int):
    domain, task = _TASKS[name]
    self._env = suite.load(domain, task, task_kwargs={'random': seed})
    # The suite's own observations are for state policies only, and computing
    # them takes a fifth to a third of a control step.
    self._get_state = self._env.task.get_observation
    self._env.task.get_observation = lambda physics: {}
    camera = settings.camera or _CAMERAS.get(domain, '0')
    self._camera = render.Camera(self.model, settings, camera, f'dmc_{name}')
    self._terrain = self.model.hfield_data.copy()
    spec = self._env.action_spec()
    # MuJoCo's largest number means "unlimited": such actions are not scaled.
    unlimited = spec.maximum >= mujoco.mjMAXVAL
    self._low = np.where(unlimited, -1, spec.minimum)
    self._high = np.where(unlimited, 1, spec.maximum)
    self.actions = ActionSpec.box(self._low, self._high)
    self.action_dim = self.actions.dim
    self.description = {
      'camera': camera,
      'flips': [],
      'versions': {p: metadata.version(p) for p in ('dm_control', 'mujoco')},
    }

  @property
  def model(self) -> mujoco.MjModel:
    return self._physics.model.ptr

  @property
  def _physics(self):
    return self._env.physics

  def reset(self, seed: int | None = None):
    if seed is not None:
      self._env.task.random.seed(seed)
    self._env.reset()
    if not np.array_equal(self.model.hfield_data, self._terrain):
      # A renderer reads the terrain only when it is created.
      self._terrain = self.model.hfield_data.copy()
      self._camera.reload()

  def step(self, action: np.ndarray) -> core.StepResult:
    scaled = self._low + (action + 1) / 2 * (self._high - self._low)
    step = self._env.step(scaled)
    terminal = step.last() and step.discount == 0
    return core.StepResult(
      step.reward, terminal, truncated=step.last() and not terminal
    )

  def image(self) -> np.ndarray:
    return self._camera.render(self._physics.data.ptr)

  def named_state(self) -> dict[str, np.ndarray]:
    """The suite's own observation of the current state."""
    return dict(self._get_state(self._physics))

  def close(self):
    self._camera.close()
    self._physics.free()
