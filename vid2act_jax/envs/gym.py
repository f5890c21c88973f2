"""Gymnasium environments from pixels, by their registered ids.

gym_Pendulum-v1        an id that gymnasium registers
gym_ALE/Pong-v5        Atari games; needs ale-py
gym_my_lab:Reach-v0    imports the module my_lab first, which registers the id

Images: the observations, if they are frames u8 [H, W, 3], or a Dict with one
such entry or one named 'image' or 'pixels'; otherwise the result of `render`
with render_mode 'rgb_array'. The whole frame is resized to a square without
cropping, which changes the aspect ratio of other shapes; the original shape is
the description's 'frame'. The camera and quality settings have no effect.

Actions: [-1, 1] is scaled to the bounds of a Box, and unchanged without bounds.
A Discrete space with n actions takes n numbers; the argmax is the action. The
description's 'actions' is 'box' or 'discrete'.
"""

import atexit
import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import weakref
from collections.abc import Callable
from importlib import metadata
from types import ModuleType

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from vid2act_jax.data.formats.actions import box_bounds
from vid2act_jax.envs import core, gl
from vid2act_jax.types import UserError

# Modules that register the ids of a namespace.
_NAMESPACE_MODULES = {'ALE': 'ale_py'}
_IMAGE_KEYS = ('image', 'pixels')
_SUCCESS_KEYS = ('success', 'is_success')


def check(name: str):
  """Imports the module of an id; raises UserError if the id is unknown."""
  _find_spec(name)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a task; raises UserError for unsupported images or actions."""
  task = f'gym_{name}'
  spec = _find_spec(name)
  with user_import_errors(task):
    return Simulator(task, _make(spec), settings, seed)


@contextlib.contextmanager
def user_import_errors(task: str):
  """Raises a UserError in place of an import error of the task's code."""
  # Pygame would otherwise need a display.
  os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
  try:
    yield
  except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
    raise UserError(
      f'task {task!r} needs something that cannot be imported ({error}): '
      'install it, or start in a folder where Python finds it.'
    ) from error


def import_module(name: str, task: str) -> ModuleType:
  """Imports a module that may import MuJoCo, also from the current folder.

  Raises:
    UserError: the module or one of its imports is missing, or it imports
      MuJoCo and no GL backend works.
  """
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  gl_error = None
  if 'mujoco' not in sys.modules and importlib.util.find_spec('mujoco'):
    try:
      gl.select_backend()  # MuJoCo reads MUJOCO_GL only when imported.
    except UserError as error:
      gl_error = error  # Raised only if the module imports MuJoCo.
  with user_import_errors(task):
    imported = importlib.import_module(name)
  if gl_error and 'mujoco' in sys.modules:
    raise gl_error
  return imported


class Simulator:
  """A gymnasium environment, one step at a time.

  Success is read from info['success'] or info['is_success']; the info of the
  first step determines whether the task defines it.
  """

  state = None

  def __init__(
    self,
    task: str,
    env: gymnasium.Env,
    settings: core.Settings,
    seed: int,
  ):
    """Wraps an environment and takes one step in it to inspect its info.

    Raises:
      UserError: a camera was set, there is no image, or the action space is
        neither a Box nor a Discrete.
    """
    if settings.camera:
      raise UserError(
        f'task {task!r} has no camera {settings.camera!r}: leave '
        'the camera empty.'
      )
    self._env = env
    self.close = weakref.finalize(self, _close, env)
    self._size = settings.size
    kind, self.action_dim, self._to_action = _action_adapter(
      task, env.action_space
    )
    self._obs_key = _image_key(env.observation_space)
    if self._obs_key is None and env.render_mode != 'rgb_array':
      raise UserError(
        f'task {task!r} has no image: its observations are not one frame '
        f'u8 [H, W, 3] and its render_mode is {env.render_mode!r}; make it '
        "with render_mode='rgb_array'."
      )
    self._seed = seed
    self.reset()
    info = self._step(np.zeros(self.action_dim, np.float32))[-1]
    self._success_key = next((key for key in _SUCCESS_KEYS if key in info), '')
    self.has_success = bool(self._success_key)
    self.description = {
      'camera': '',
      'flips': [],
      'versions': {'gymnasium': metadata.version('gymnasium')},
      'actions': kind,
      'frame': list(_check_frame(task, self._frame()).shape),
    }
    self._seed = seed  # The step above must not change the episodes.
    # At exit `finalize` alone may run too late, after MuJoCo has closed EGL.
    atexit.register(self.close)

  @property
  def model(self) -> object | None:
    """The environment's `model`: MuJoCo's model, if it uses MuJoCo."""
    return getattr(self._env.unwrapped, 'model', None)

  def reset(self, seed: int | None = None):
    seed, self._seed = self._seed if seed is None else seed, None
    _make_context_current(self._env)
    self._obs, _ = self._env.reset(seed=seed)

  def step(self, action: np.ndarray) -> core.StepResult:
    reward, terminal, truncated, info = self._step(action)
    return core.StepResult(
      float(reward),
      bool(terminal),
      bool(truncated and not terminal),
      bool(info.get(self._success_key, False)),
    )

  def image(self) -> np.ndarray:
    frame = self._frame()
    size = (self._size, self._size)
    if frame.shape[:2] == size:
      return frame.copy()
    resized = Image.fromarray(frame).resize(size, Image.Resampling.BOX)
    return np.array(resized)

  def _step(self, action):
    _make_context_current(self._env)
    self._obs, *rest = self._env.step(self._to_action(action))
    return rest

  def _frame(self):
    if self._obs_key is None:
      _make_context_current(self._env)
      return self._env.render()
    return self._obs[self._obs_key] if self._obs_key else self._obs


def _find_spec(name):
  """Returns the spec of an id after importing the modules it needs."""
  task = f'gym_{name}'
  module, _, env_id = name.rpartition(':')
  module = module or _NAMESPACE_MODULES.get(env_id.partition('/')[0])
  if module:
    import_module(module, task)
  try:
    spec = gymnasium.spec(env_id)
  except gymnasium.error.Error as error:
    matches = difflib.get_close_matches(env_id, gymnasium.registry, 5, 0.5)
    names = ', '.join(task.removesuffix(env_id) + n for n in matches)
    hint = f'did you mean {names}' if matches else 'gymnasium has no such id'
    raise UserError(
      f'unknown task {task!r}: {hint}; use gym_<module>:{env_id} to import a '
      'module that registers it.'
    ) from error
  entry = spec.entry_point
  if isinstance(entry, str) and not _needs_no_gl(entry):
    import_module(entry.partition(':')[0], task)
  return spec


def _needs_no_gl(entry):
  """Whether this is one of gymnasium's environments that need no GL."""
  return entry.startswith('gymnasium.') and 'mujoco' not in entry


def _make(spec):
  try:
    return gymnasium.make(
      spec, render_mode='rgb_array', disable_env_checker=True
    )
  except TypeError as error:
    if "unexpected keyword argument 'render_mode'" not in str(error):
      raise
    return gymnasium.make(spec, disable_env_checker=True)


def _make_context_current(env):
  # Gymnasium renders MuJoCo into the current context, so environments in one
  # process would otherwise render into each other's context.
  renderer = getattr(env.unwrapped, 'mujoco_renderer', None)
  viewer = getattr(renderer, 'viewer', None)
  if viewer is not None:
    viewer.make_context_current()


def _close(env):
  _make_context_current(env)
  env.close()


def _action_adapter(
  task: str, space: spaces.Space
) -> tuple[str, int, Callable[[np.ndarray], np.ndarray]]:
  """Returns the kind, A and a map from f32 [A] in [-1, 1] to the space."""
  if isinstance(space, spaces.Discrete):
    return 'discrete', int(space.n), lambda a: space.start + a.argmax()
  if not isinstance(space, spaces.Box):
    raise UserError(
      f'task {task!r} has the action space {space}: wrap it so that it is a '
      'Box or a Discrete.'
    )
  low, high = box_bounds(space.low, space.high)

  def scale(action):
    scaled = low + (action.reshape(space.shape) + 1) / 2 * (high - low)
    if np.issubdtype(space.dtype, np.integer):
      scaled = np.rint(scaled)
    return scaled.astype(space.dtype)

  return 'box', int(np.prod(space.shape)), scale


def _image_key(space):
  """Returns '' for the observation itself, the key of an entry, or None."""
  if _is_image(space):
    return ''
  if not isinstance(space, spaces.Dict):
    return None
  keys = [key for key, entry in space.items() if _is_image(entry)]
  preferred = [key for key in _IMAGE_KEYS if key in keys]
  if preferred or len(keys) == 1:
    return (preferred or keys)[0]
  return None


def _is_image(space):
  return (
    isinstance(space, spaces.Box)
    and space.dtype == np.uint8
    and len(space.shape) == 3
    and space.shape[-1] == 3
  )


def _check_frame(task, frame):
  array = np.asarray(frame)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise UserError(
      f'task {task!r} renders no frame: with render_mode '
      "'rgb_array' render() must return u8 [H, W, 3]."
    )
  return array
