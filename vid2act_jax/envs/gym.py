"""Gymnasium environments from pixels, by their registered ids.

gym_Pendulum-v1        an id that gymnasium registers
gym_ALE/Pong-v5        Atari games; needs ale-py
gym_my_lab:Reach-v0    imports the module my_lab first, which registers the id

Images: the observations, if they are pictures u8 [H, W, 3], or a Dict with one
such entry or one named 'image' or 'pixels'; otherwise the result of `render`
with render_mode 'rgb_array'. Grids of symbols have the shape of a picture: a
tiny one, or one whose numbers are all nearly equal, is not taken for a picture
if there is a `render`. The whole frame is resized to a square without cropping,
which changes the aspect ratio of other shapes; the original shape is the
description's 'frame'. The camera and quality settings have no effect.

Actions: [-1, 1] is scaled to the bounds of a Box, and unchanged without bounds.
A Discrete space with n actions takes n numbers; the argmax is the action. The
description's 'actions' is 'box' or 'discrete'.
"""

import atexit
import difflib
import importlib
import importlib.util
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from importlib import metadata
from types import ModuleType

import gymnasium
import numpy as np

from vid2act_jax.envs import core, foreign, frames, gl
from vid2act_jax.envs.spaces import action_spec, image_key
from vid2act_jax.types import UserError

# Modules that register the ids of a namespace.
_NAMESPACE_MODULES = {'ALE': 'ale_py'}
_SUCCESS = frozenset(foreign.SUCCESS_KEYS)


def check(name: str):
  """Imports the module of an id; raises UserError if the id is unknown."""
  _find_spec(name)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a task; raises UserError for unsupported images or actions."""
  task = f'gym_{name}'
  spec = _find_spec(name)
  _avoid_display()
  with foreign.user_errors(task, f'making {spec.id}', 'fix its constructor'):
    env = _make(spec)
  return Simulator(task, env, settings, seed)


def build_custom(
  task: str, function: Callable, settings: core.Settings, seed: int
) -> 'Simulator':
  """Calls a function that makes the environment of a task.

  Raises:
    UserError: it fails, or its result is not a supported environment.
  """
  _avoid_display()
  name = f'{getattr(function, "__name__", task)}()'
  rule = 'it must take no arguments and return a gymnasium.Env'
  with foreign.user_errors(task, name, rule):
    env = function()
  if not isinstance(env, gymnasium.Env):
    raise UserError(
      f'task {task!r} returns {type(env).__name__!r}: it must return a '
      'gymnasium.Env.'
    )
  return Simulator(task, env, settings, seed)


def _avoid_display():
  os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')  # Of pygame.


def import_module(name: str, task: str) -> ModuleType:
  """Imports a module that may import MuJoCo, also from the current folder.

  Raises:
    UserError: the module or one of its imports is missing, it fails, or it
      imports MuJoCo and no GL backend works.
  """
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  gl_error = None
  if 'mujoco' not in sys.modules and importlib.util.find_spec('mujoco'):
    try:
      gl.select_backend()  # MuJoCo reads MUJOCO_GL only when imported.
    except UserError as error:
      gl_error = error  # Raised only if the module imports MuJoCo.
  _avoid_display()
  with foreign.user_errors(task, f'importing {name}'):
    imported = importlib.import_module(name)
  if gl_error and 'mujoco' in sys.modules:
    raise gl_error
  return imported


class Simulator:
  """A gymnasium environment, one step at a time.

  Success is read from info['success'] or info['is_success']; the info of the
  first step determines whether the task defines it.

  Attributes:
    actions: the environment's own actions.
    image_key: where the picture is; see `foreign.CheckedEnv.frame`.
  """

  state = None
  resizes = True

  def __init__(
    self,
    task: str,
    env: gymnasium.Env,
    settings: core.Settings,
    seed: int,
  ):
    """Wraps an environment and takes one step in it to inspect what it returns.

    Raises:
      UserError: a camera was set, there is no image, the action space is
        neither a Box nor a Discrete, or a returned value is not valid.
    """
    if settings.camera:
      raise UserError(
        f'task {task!r} has no camera {settings.camera!r}: leave '
        'the camera empty.'
      )
    self._task, self._size, self._seed = task, settings.size, seed
    self._env = env
    self._checked = foreign.CheckedEnv(task, env)
    self.close = weakref.finalize(self, _close, self._checked)
    self.actions = action_spec(task, getattr(env, 'action_space', None))
    self.action_dim = self.actions.dim
    info = self._find_image()
    keys = foreign.SUCCESS_KEYS
    self._success_key = next((key for key in keys if key in info), '')
    self.has_success = bool(self._success_key)
    self._warned = False  # Of a success that is not in every info.
    self.description = {
      'camera': '',
      'flips': [],
      'versions': {'gymnasium': metadata.version('gymnasium')},
      'actions': self.actions.kind,
      'frame': list(self._frame().shape),
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
    self._obs = self._checked.reset(seed)

  def step(self, action: np.ndarray) -> core.StepResult:
    step = self._step(action)
    success = False
    if self.has_success:
      success = self._checked.success(step.info, self._success_key)
    elif not self._warned and not _SUCCESS.isdisjoint(step.info):
      self._warned = True
      warnings.warn(
        f'task {self._task!r}: its info has a success now, but had none at the '
        'first step, so it is not recorded; put it into the info of each step.',
        core.EnvWarning,
        stacklevel=2,
      )
    return core.StepResult(
      step.reward,
      step.terminated,
      step.truncated and not step.terminated,
      success,
    )

  def image(self) -> np.ndarray:
    return frames.resize(self._frame(), self._size)

  def _step(self, action):
    _make_context_current(self._env)
    step = self._checked.step(self.actions.to_native(action))
    self._obs = step.obs
    return step

  def _frame(self):
    if self.image_key is None:
      _make_context_current(self._env)
    return self._checked.frame(self._obs, self.image_key)

  def _find_image(self):
    """Sets `image_key` from the first two frames; returns the step's info."""
    space = getattr(self._env, 'observation_space', None)
    mode = getattr(self._env, 'render_mode', None)
    self.image_key = image_key(space)
    if self.image_key is None and mode != 'rgb_array':
      raise UserError(
        f'task {self._task!r} has no image: its observations are not one frame '
        f'u8 [H, W, 3] and its render_mode is {mode!r}; make it '
        "with render_mode='rgb_array'."
      )
    self.reset()
    first = self._frame().copy()
    info = self._step(np.zeros(self.action_dim, np.float32)).info
    shown = frames.has_contrast(first) or frames.has_contrast(self._frame())
    is_symbols = min(first.shape[:2]) < frames.MIN_SIDE or not shown
    if self.image_key is not None and is_symbols and mode == 'rgb_array':
      self.image_key = None
      shown = frames.has_contrast(self._frame())
    if not shown:
      self._warn_constant(mode)
    return info

  def _warn_constant(self, mode):
    hint = 'check its camera and render()'
    if self.image_key is not None:
      hint = 'if its observations are symbols, '
      hint += "make it with render_mode='rgb_array'"
    warnings.warn(
      f'task {self._task!r}: its first frames are nearly one colour, so an '
      f'agent cannot see anything in them; {hint}.',
      core.EnvWarning,
      stacklevel=2,
    )


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


def _close(checked):
  _make_context_current(checked.env)
  checked.close()
