"""Gymnasium environments from pixels, by the ids they are registered with.

gym_Pendulum-v1        an id that gymnasium knows by itself
gym_ALE/Pong-v5        Atari games, once ale-py is installed
gym_my_lab:Reach-v0    the module my_lab, which registers the id, comes first

Pictures: the observations, where these are frames u8 [H, W, 3], or a Dict with
one such entry or one called 'image' or 'pixels'; else what `render` gives in
the mode 'rgb_array'. The whole frame is squeezed into the square: nothing is
cut off, and what is not square changes its proportions; its own shape is the
description's 'frame'. There is no camera to choose, and quality is as it is.

Actions: [-1, 1] is scaled to the bounds of a Box; without bounds it stays as it
is. A Discrete of n choices takes n numbers, and the largest one's is taken.
The description's 'actions' says 'box' or 'discrete'.
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

from vid2act_jax.envs import core, gl
from vid2act_jax.types import UserError

# Who registers the ids of a namespace, where its name does not tell.
_REGISTRARS = {'ALE': 'ale_py'}
_PICTURES = ('image', 'pixels')
_SUCCESSES = ('success', 'is_success')


def check(name: str):
  """Imports what registers an id; UserError when there is no such id."""
  _find(name)


def build(name: str, settings: core.Settings, seed: int) -> 'Simulator':
  """Makes a task; UserError when its pictures or actions will not do."""
  task = f'gym_{name}'
  spec = _find(name)
  with importing(task):
    return Simulator(task, _make(spec), settings, seed)


@contextlib.contextmanager
def importing(task: str):
  """For code that imports what draws: a library it lacks is a UserError."""
  # Pygame would look for a screen, and nobody looks at it.
  os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
  try:
    yield
  except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
    raise UserError(
      f'task {task!r} needs something that cannot be imported ({error}): '
      'install it, or start where Python finds it.'
    ) from error


def load(module: str, task: str) -> ModuleType:
  """Imports a module that may import MuJoCo, also from the current folder.

  Raises:
    UserError: it, or something it imports, is missing; or it needs MuJoCo and
      there is no GL library to render with.
  """
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  problem = None
  if 'mujoco' not in sys.modules and importlib.util.find_spec('mujoco'):
    try:
      gl.choose()  # Before the import: MuJoCo reads its choice only then.
    except UserError as error:
      problem = error  # Perhaps nobody asks for MuJoCo.
  with importing(task):
    loaded = importlib.import_module(module)
  if problem and 'mujoco' in sys.modules:
    raise problem
  return loaded


class Simulator:
  """An environment of gymnasium, stepped one step at a time.

  It succeeds where an info says so, under 'success' or 'is_success'; whether
  it ever does is what its first step tells.
  """

  state = None

  def __init__(
    self,
    task: str,
    env: gymnasium.Env,
    settings: core.Settings,
    seed: int,
  ):
    """Takes an environment over, and one step in it to know its info.

    Raises:
      UserError: a camera is asked for, there is no picture, or the actions
        are neither a Box nor a Discrete.
    """
    if settings.camera:
      raise UserError(
        f'task {task!r} has no camera {settings.camera!r}: leave '
        'the camera empty.'
      )
    self._env = env
    self.close = weakref.finalize(self, _close, env)
    self._size = settings.size
    kind, self.action_dim, self._convert = _actions(task, env.action_space)
    self._key = _picture_key(env.observation_space)
    if self._key is None and env.render_mode != 'rgb_array':
      raise UserError(
        f'task {task!r} shows no picture: its observations are not one frame '
        f'u8 [H, W, 3] and its render_mode is {env.render_mode!r}; make it '
        "with render_mode='rgb_array'."
      )
    self._seed = seed
    self.reset()
    info = self._step(np.zeros(self.action_dim, np.float32))[-1]
    self._success = next((key for key in _SUCCESSES if key in info), '')
    self.has_success = bool(self._success)
    self.description = {
      'camera': '',
      'flips': [],
      'versions': {'gymnasium': metadata.version('gymnasium')},
      'actions': kind,
      'frame': list(_checked(task, self._frame()).shape),
    }
    self._seed = seed  # Episodes begin as if that step had not been.
    # By itself `finalize` may come too late at exit, after MuJoCo ended EGL.
    atexit.register(self.close)

  @property
  def model(self) -> object | None:
    """What the environment calls so: MuJoCo's model, if it uses MuJoCo."""
    return getattr(self._env.unwrapped, 'model', None)

  def reset(self, seed: int | None = None):
    seed, self._seed = self._seed if seed is None else seed, None
    _take_context(self._env)
    self._obs, _ = self._env.reset(seed=seed)

  def step(self, action: np.ndarray) -> core.Outcome:
    reward, terminal, truncated, info = self._step(action)
    return core.Outcome(
      float(reward),
      bool(terminal),
      bool(truncated and not terminal),
      bool(info.get(self._success, False)),
    )

  def image(self) -> np.ndarray:
    frame = self._frame()
    size = (self._size, self._size)
    if frame.shape[:2] == size:
      return frame.copy()
    picture = Image.fromarray(frame).resize(size, Image.Resampling.BOX)
    return np.array(picture)

  def _step(self, action):
    _take_context(self._env)
    self._obs, *rest = self._env.step(self._convert(action))
    return rest

  def _frame(self):
    if self._key is None:
      _take_context(self._env)
      return self._env.render()
    return self._obs[self._key] if self._key else self._obs


def _find(name):
  """The spec of an id, of which all that has to be imported is."""
  task = f'gym_{name}'
  module, _, env_id = name.rpartition(':')
  module = module or _REGISTRARS.get(env_id.partition('/')[0])
  if module:
    load(module, task)
  try:
    spec = gymnasium.spec(env_id)
  except gymnasium.error.Error as error:
    near = difflib.get_close_matches(env_id, gymnasium.registry, 5, 0.5)
    names = ', '.join(task.removesuffix(env_id) + n for n in near)
    hint = f'did you mean {names}' if near else 'gymnasium has no such id'
    raise UserError(
      f'unknown task {task!r}: {hint}; gym_<module>:{env_id} would import a '
      'module that registers it.'
    ) from error
  entry = spec.entry_point
  if isinstance(entry, str) and not _is_plain(entry):
    load(entry.partition(':')[0], task)
  return spec


def _is_plain(entry):
  """Whether this is one of gymnasium's own that certainly needs no GL."""
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


def _take_context(env):
  # As gymnasium draws MuJoCo into whichever context is current, environments
  # that share a process would draw into one another's.
  renderer = getattr(env.unwrapped, 'mujoco_renderer', None)
  viewer = getattr(renderer, 'viewer', None)
  if viewer is not None:
    viewer.make_context_current()


def _close(env):
  _take_context(env)
  env.close()


def _actions(
  task: str, space: spaces.Space
) -> tuple[str, int, Callable[[np.ndarray], np.ndarray]]:
  """Returns the kind, A, and what makes the space's of f32 [A] in [-1, 1]."""
  if isinstance(space, spaces.Discrete):
    return 'discrete', int(space.n), lambda a: space.start + a.argmax()
  if not isinstance(space, spaces.Box):
    raise UserError(
      f'task {task!r} has the actions {space}: wrap it so that they are a Box '
      'or a Discrete.'
    )
  low, high = _bounds(space)

  def scale(action):
    scaled = low + (action.reshape(space.shape) + 1) / 2 * (high - low)
    if np.issubdtype(space.dtype, np.integer):
      scaled = np.rint(scaled)
    return scaled.astype(space.dtype)

  return 'box', int(np.prod(space.shape)), scale


def _bounds(space):
  """What -1 and 1 stand for; 2 apart where the space leaves one open."""
  largest = np.finfo(np.float32).max  # Some write this for "unlimited".
  low, high = space.low.astype(np.float64), space.high.astype(np.float64)
  low_open, high_open = low <= -largest, high >= largest
  low = np.where(low_open, np.where(high_open, -1, high - 2), low)
  return low, np.where(high_open, low + 2, high)


def _picture_key(space):
  """'' for the observation itself, an entry's key, or None for neither."""
  if _is_picture(space):
    return ''
  if not isinstance(space, spaces.Dict):
    return None
  keys = [key for key, entry in space.items() if _is_picture(entry)]
  named = [key for key in _PICTURES if key in keys]
  if named or len(keys) == 1:
    return (named or keys)[0]
  return None


def _is_picture(space):
  return (
    isinstance(space, spaces.Box)
    and space.dtype == np.uint8
    and len(space.shape) == 3
    and space.shape[-1] == 3
  )


def _checked(task, frame):
  array = np.asarray(frame)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise UserError(
      f'task {task!r} renders no frame: in the render_mode '
      "'rgb_array' its render() has to return u8 [H, W, 3]."
    )
  return array
