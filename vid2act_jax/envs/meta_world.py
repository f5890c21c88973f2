"""Meta-World (v3) tasks from pixels, and their scripted policies."""

import warnings
from collections.abc import Callable
from importlib import metadata

import mujoco
import numpy as np
from metaworld import env_dict, policies

from vid2act_jax.envs import core, render, shift
from vid2act_jax.types import UserError

_CAMERA = 'corner'
_HAND_DIM = 3  # Dimensions that move the hand; the last is the gripper.


def _suite_name(name):
  return name.replace('_', '-') + '-v3'


def tasks() -> list[str]:
  """Returns the names of all tasks, such as 'door_close'."""
  names = sorted(env_dict.ALL_V3_ENVIRONMENTS)
  return [name.removesuffix('-v3').replace('-', '_') for name in names]


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a task; raises UserError if the camera does not exist."""
  return Simulator(name, settings, seed)


def policy(
  name: str, action_dim: int | None = None
) -> Callable[[core.Env], np.ndarray]:
  """Returns the scripted policy: environment -> action f32 [A] in [-1, 1].

  Args:
    name: name of the task.
    action_dim: A, if it is not 4. With 3 the gripper's action is 0; dimensions
      beyond 4 are zeros.

  Raises:
    UserError: A is too small to move the hand.
  """
  if action_dim is not None and action_dim < _HAND_DIM:
    raise UserError(
      f"task 'metaworld_{name}' with actions={action_dim}: its scripted policy "
      f'needs {_HAND_DIM} to move the hand; collect with policy random.'
    )
  # The policies use gains far above 1 and rely on the suite's clipping.
  warnings.filterwarnings('ignore', r'Constant\(s\) may be too high')
  scripted = policies.ENV_POLICY_MAP[_suite_name(name)]()

  def policy_fn(env):
    action = scripted.get_action(env.state).clip(-1, 1).astype(np.float32)
    return (
      action
      if action_dim is None
      else shift.pad_or_truncate(action, action_dim)
    )

  return policy_fn


class Simulator:
  """A task whose goal and objects are resampled at every reset.

  They are sampled from the task's full range; MT1's 50 training goals are a
  sample of it. The gymnasium wrappers are not used: they reset automatically,
  count steps and render 480 x 480. An episode never terminates; the suite
  truncates it after 500 steps.
  """

  has_success = True

  def __init__(self, name: str, settings: core.Settings, seed: int):
    # "Goal observable": the state has the goal, as scripted policies need.
    env_class = env_dict.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[
      f'{_suite_name(name)}-goal-observable'
    ]
    self._env = env_class(seed=seed)
    # By default every reset repeats the first sample, and unfrozen samples
    # come from NumPy's global generator.
    self._env._freeze_rand_vec = False
    self._env.seeded_rand_vec = True
    self._env.seed(seed)
    camera = settings.camera or _CAMERA
    self._camera = render.Camera(
      self.model, settings, camera, f'metaworld_{name}'
    )
    self._rotated = self._is_upside_down(self._camera.index)
    self.state = None
    self.action_dim = self._env.action_space.shape[0]
    self.description = {
      'camera': camera,
      'flips': ['vertical', 'horizontal'] if self._rotated else [],
      'versions': {p: metadata.version(p) for p in ('metaworld', 'mujoco')},
    }

  @property
  def model(self) -> mujoco.MjModel:
    return self._env.model

  def scale_gain(self, factor: float):
    """Scales how far an action moves the hand; no actuator moves it."""
    self._env.action_scale *= factor

  def reset(self, seed: int | None = None):
    if seed is not None:
      self._env.seed(seed)
    state, _ = self._env.reset()
    self.state = state.astype(np.float32)

  def step(self, action: np.ndarray) -> core.StepResult:
    state, reward, _, truncated, info = self._env.step(action)
    self.state = state.astype(np.float32)
    return core.StepResult(
      float(reward), truncated=truncated, success=bool(info['success'])
    )

  def image(self) -> np.ndarray:
    image = self._camera.render(self._env.data)
    # A rotation by 180 degrees, not a mirror image.
    return image[::-1, ::-1].copy() if self._rotated else image

  def close(self):
    self._camera.close()
    self._env.close()

  def _is_upside_down(self, camera):
    # The camera's "up" points down. Cameras on the robot are not rotated.
    model, data = self._env.model, self._env.data
    mujoco.mj_forward(model, data)
    up = data.cam_xmat[camera].reshape(3, 3)[:, 1]
    return model.cam_bodyid[camera] == 0 and up[2] < -0.1
