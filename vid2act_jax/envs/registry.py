"""Maps task names to environments; suites are imported on first use."""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Callable

import numpy as np

from vid2act_jax.envs import core, gl, shift
from vid2act_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Suite:
  """A suite's module and its requirements.

  The module has build(name, settings, seed) and either tasks(), which returns
  all names, or, if they cannot be listed, check(name), which raises UserError.
  """

  module: str
  package: str = ''  # the required package, '' for none
  extra: str = ''  # the pip extra that installs it
  needs_gl: bool = False  # imports MuJoCo; other suites select GL themselves
  has_models: bool = True  # some of its tasks may have a MuJoCo model
  has_states: bool = False  # `Env.named_state` returns one


_NUM_MATCHES = 5
SUITES = {
  'dmc': Suite(
    'vid2act_jax.envs.dmc', 'dm_control', 'dmc', True, has_states=True
  ),
  'metaworld': Suite(
    'vid2act_jax.envs.meta_world', 'metaworld', 'metaworld', True
  ),
  'probe': Suite('vid2act_jax.envs.probe', has_models=False),
  'gym': Suite('vid2act_jax.envs.gym', 'gymnasium', 'gym'),
}
CUSTOM = Suite('vid2act_jax.envs.factory', 'gymnasium', 'gym')
DEFAULT_SETTINGS = core.Settings()


def make(task: str, settings: core.Settings, seed: int) -> core.Env:
  """Makes one environment.

  Args:
    task: '<suite>_<name>', for example 'dmc_ball_in_cup_catch', or
      '<module>:<function>', which returns a gymnasium environment; optionally
      with modifiers '@key=value,...' (see `vid2act_jax.envs.shift`).
    settings: how the task is rendered and stepped.
    seed: seed of the initial states, 0 to 2**32 - 1.

  Raises:
    UserError: unknown suite, task, modifier or camera, a missing package, no
      working GL backend, or an environment that is not supported or does not
      support the modifiers.
  """
  module, name, change = _resolve(task)
  if change.camera:
    settings = dataclasses.replace(settings, camera=change.camera)
  simulator = module.build(name, settings, seed)
  try:
    shifted = shift.apply(change, simulator, task)
  except BaseException:
    simulator.close()
    raise
  return core.Env(task, settings, shifted)


def as_gymnasium(
  task: str,
  settings: core.Settings = DEFAULT_SETTINGS,
  render_mode: str | None = 'rgb_array',
):
  """Makes a task as a `gymnasium.Env`, for other people's loops.

  Observations are frames u8 [size, size, 3]. Actions are the environment's own:
  a Box with its bounds, [-1, 1] where it has none, or a Discrete. One step
  repeats an action as often as the settings say, and sums the rewards; the
  info has `success` where the task defines it. `render` returns the last frame.
  `reset(seed=)` takes any seed.

  Args:
    task: as in `make`, also with modifiers.
    settings: how the task is rendered and stepped.
    render_mode: 'rgb_array', or None.

  Raises:
    UserError: as in `make`; gymnasium is not installed, or there is no such
      render mode.
  """
  _check_installed(task, CUSTOM)
  if render_mode not in ('rgb_array', None):
    raise UserError(
      f"task {task!r} has no render_mode {render_mode!r}: set it to 'rgb_array'"
      ' or None.'
    )
  module = importlib.import_module('vid2act_jax.envs.gymnasium_env')
  return module.PixelEnv(task, settings, render_mode)


def scripted_policy(task: str) -> Callable[[core.Env], np.ndarray]:
  """Returns the scripted policy: environment -> action f32 [A] in [-1, 1].

  Its input is the environment's `state`, not the image.

  Raises:
    UserError: the suite has no scripted policies, the policy needs more action
      dimensions, or as in `make`.
  """
  module, name, change = _resolve(task)
  if not hasattr(module, 'policy'):
    raise UserError(
      f'task {task!r}: its suite has no scripted policies; '
      'only metaworld_* tasks have them.'
    )
  return module.policy(name, change.actions)


def has_states(task: str) -> bool:
  """Whether the task's environment has a `named_state`.

  Raises:
    UserError: as in `make`, for the suite and the modifiers.
  """
  return _parse(task)[0].has_states


def check(task: str):
  """Raises the UserError of `make` if the name alone is already invalid."""
  _resolve(task)


def prepare(task: str):
  """Does the setup that every process that makes the task would repeat."""
  suite, _, _ = _parse(task)
  if suite.needs_gl:
    gl.select_backend()
  elif suite.package:
    _resolve(task)  # Selects a GL backend if the environment needs one.


def _resolve(task):
  suite, name, change = _parse(task)
  if suite.needs_gl:
    gl.select_backend()  # MuJoCo reads MUJOCO_GL only when imported.
  module = importlib.import_module(suite.module)
  if hasattr(module, 'check'):
    module.check(name)
    return module, name, change
  known = module.tasks()
  if name not in known:
    prefix = task.partition('_')[0] + '_'
    matches = difflib.get_close_matches(name, known, _NUM_MATCHES, 0.5)
    hint = 'did you mean '
    if not matches:
      # The closest first, and not dozens.
      hint = f'choose one of {len(known)} tasks, such as '
      matches = difflib.get_close_matches(name, known, _NUM_MATCHES, 0.0)
    hint += ', '.join(prefix + n for n in matches)
    raise UserError(f'unknown task {task!r}: {hint}.')
  return module, name, change


def _suite_hint(name):
  """Names the tasks that are most similar to a name without its suite."""
  full = []
  for prefix, suite in SUITES.items():
    with contextlib.suppress(UserError, ImportError):
      if suite.needs_gl:
        gl.select_backend()
      module = importlib.import_module(suite.module)
      if hasattr(module, 'tasks'):
        full += [f'{prefix}_{task}' for task in module.tasks()]
  ends = [task for task in full if name and task.endswith(f'_{name}')]
  found = ends or difflib.get_close_matches(name, full, _NUM_MATCHES)
  return f'did you mean {" or ".join(found)}? Or ' if found else ''


def _parse(task):
  base, change = shift.parse(task)
  prefix, _, name = base.partition('_')
  if prefix in SUITES:
    suite = SUITES[prefix]
  elif ':' in base:
    suite, name = CUSTOM, base
  else:
    raise UserError(
      f'unknown suite {prefix!r} in task {task!r}: {_suite_hint(base)}name a '
      f'task <suite>_<name>, with one of the suites {", ".join(SUITES)}, or '
      '<module>:<function> for a custom task.'
    )
  _check_installed(task, suite)
  if change.has_dynamics and not suite.has_models:
    raise shift.no_model_error(task)
  return suite, name, change


def _check_installed(task, suite):
  if suite.package and importlib.util.find_spec(suite.package) is None:
    raise UserError(
      f'task {task!r} needs the package {suite.package}, which is not '
      f'installed: pip install "vid2act_jax[{suite.extra}]"'
    )
