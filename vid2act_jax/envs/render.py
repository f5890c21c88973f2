"""Renders small square images of MuJoCo models, for all suites."""

import weakref

import mujoco
import numpy as np

from vid2act_jax.envs.core import Settings
from vid2act_jax.types import UserError

EXPENSIVE_FLAGS = (
  mujoco.mjtRndFlag.mjRND_SHADOW,
  mujoco.mjtRndFlag.mjRND_REFLECTION,
)


class Camera:
  """Renders a model from one of its cameras.

  All suites use this renderer. Those of dm_control and gymnasium each track the
  current GL context separately, so in one process they would render into each
  other's context.
  """

  def __init__(
    self, model: mujoco.MjModel, settings: Settings, camera: str, task: str
  ):
    """Creates the renderer.

    Args:
      model: MuJoCo's model; its offscreen buffer size is changed in place.
      settings: size and quality.
      camera: a name or a number.
      task: name of the task, for the error message.

    Raises:
      UserError: the model has no such camera.
    """
    self._model = model
    self._size = settings.size
    self._fast = settings.quality == 'fast'
    self.index = _camera_index(model, camera, task)
    # Exactly the size of the image: clearing a larger buffer takes time.
    model.vis.global_.offwidth = model.vis.global_.offheight = settings.size
    if self._fast:
      model.vis.quality.offsamples = 0
    self._create()

  def render(self, data: mujoco.MjData) -> np.ndarray:
    """Renders a state, u8 [H, W, 3]."""
    self._renderer.update_scene(data, self.index)
    if self._fast:
      for flag in EXPENSIVE_FLAGS:
        self._renderer.scene.flags[flag] = False
    return self._renderer.render()

  def reload(self):
    """Reloads meshes and height fields that changed in the model."""
    self._release()
    self._create()

  def close(self):
    """Releases the graphics context; may be called twice."""
    self._release()

  def _create(self):
    self._renderer = mujoco.Renderer(self._model, self._size, self._size)
    # Also at exit, where MuJoCo's own cleanup runs too late and fails.
    self._release = weakref.finalize(self, self._renderer.close)


def _camera_index(model, camera, task):
  names = [model.camera(i).name for i in range(model.ncam)]
  if camera in names:
    return names.index(camera)
  if camera.isdecimal() and int(camera) < model.ncam:
    return int(camera)
  known = ', '.join(f'{i} {name}'.strip() for i, name in enumerate(names))
  raise UserError(
    f'task {task!r} has no camera {camera!r}: choose one of {known}.'
  )
