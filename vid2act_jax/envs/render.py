"""Small square pictures of a MuJoCo model, shared by the suites."""

import weakref

import mujoco
import numpy as np

from vid2act_jax.envs.core import Settings
from vid2act_jax.types import UserError

COSTLY = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)


class Camera:
  """Draws a model as one of its cameras sees it.

  One renderer for all suites: dm_control's own and gymnasium's each remember
  which context is current, and so draw into one another's when two
  environments share a process.
  """

  def __init__(
    self, model: mujoco.MjModel, settings: Settings, camera: str, task: str
  ):
    """Prepares to draw.

    Args:
      model: MuJoCo's own model, whose offscreen buffer is changed in place.
      settings: size and quality.
      camera: a name or a number.
      task: for the error message.

    Raises:
      UserError: the model has no such camera.
    """
    self._model = model
    self._size = settings.size
    self._fast = settings.quality == 'fast'
    self.index = _camera_index(model, camera, task)
    # As large as the picture and no larger: clearing what nobody sees costs.
    model.vis.global_.offwidth = model.vis.global_.offheight = settings.size
    if self._fast:
      model.vis.quality.offsamples = 0
    self._open()

  def draw(self, data: mujoco.MjData) -> np.ndarray:
    """Returns the picture of a state, u8 [H, W, 3]."""
    self._renderer.update_scene(data, self.index)
    if self._fast:
      for flag in COSTLY:
        self._renderer.scene.flags[flag] = False
    return self._renderer.render()

  def reload(self):
    """Takes over meshes and height fields that changed in the model."""
    self._free()
    self._open()

  def close(self):
    """Gives the graphics context back; closing twice is fine."""
    self._free()

  def _open(self):
    self._renderer = mujoco.Renderer(self._model, self._size, self._size)
    # Also at exit, where MuJoCo by itself comes too late and complains.
    self._free = weakref.finalize(self, self._renderer.close)


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
