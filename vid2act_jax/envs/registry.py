"""From a task's name to an environment; suites are imported when asked for."""

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
  """Where a suite lives and what it needs.

  Its module has build(name, settings, seed) and either tasks(), all names there
  are, or, where nobody can list them, check(name), which raises a UserError.
  """

  module: str
  package: str = ''  # what has to be installed, '' for nothing
  extra: str = ''  # the pip extra that installs it
  renders: bool = False  # imports MuJoCo at once; others choose GL themselves
  models: bool = True  # some of its tasks may have a MuJoCo model


SUITES = {
  'dmc': Suite('vid2act_jax.envs.dmc', 'dm_control', 'dmc', True),
  'metaworld': Suite(
    'vid2act_jax.envs.meta_world', 'metaworld', 'metaworld', True
  ),
  'probe': Suite('vid2act_jax.envs.probe', models=False),
  'gym': Suite('vid2act_jax.envs.gym', 'gymnasium', 'gym'),
}
FACTORY = Suite('vid2act_jax.envs.factory', 'gymnasium', 'gym')


def make(task: str, settings: core.Settings, seed: int) -> core.Env:
  """Makes one environment.

  Args:
    task: '<suite>_<name>', for example 'dmc_ball_in_cup_catch', or
      '<module>:<function>', which makes a gymnasium environment; with
      '@key=value,...' behind it, what `vid2act_jax.envs.shift` tells of.
    settings: how it is shown and stepped.
    seed: of its initial states, 0 to 2**32 - 1.

  Raises:
    UserError: unknown suite, task, modifier or camera, a package that is
      missing, no GL library to render with, or an environment that cannot be
      used, or not be shifted in this way.
  """
  module, name, change = _find(task)
  if change.camera:
    settings = dataclasses.replace(settings, camera=change.camera)
  simulator = module.build(name, settings, seed)
  try:
    shifted = shift.apply(change, simulator, task)
  except BaseException:
    simulator.close()
    raise
  return core.Env(task, settings, shifted)


def scripted_policy(task: str) -> Callable[[core.Env], np.ndarray]:
  """Returns the suite's own policy: environment -> action f32 [A] in [-1, 1].

  It reads the environment's `state`, not the picture.

  Raises:
    UserError: the suite has no scripted policies, too few actions are left to
      play them, or as `make` does.
  """
  module, name, change = _find(task)
  if not hasattr(module, 'policy'):
    raise UserError(
      f'task {task!r}: its suite has no scripted policies; '
      'only metaworld_* tasks have them.'
    )
  return module.policy(name, change.actions)


def check(task: str):
  """Raises the UserError that `make` would, as far as the name tells."""
  _find(task)


def prepare(task: str):
  """Does once what every process that makes the task would else repeat."""
  suite, _, _ = _split(task)
  if suite.renders:
    gl.choose()
  elif suite.package:
    _find(task)  # Which chooses where the environment turns out to need it.


def _find(task):
  suite, name, change = _split(task)
  if suite.renders:
    gl.choose()  # Before the import: MuJoCo reads its choice only then.
  module = importlib.import_module(suite.module)
  if hasattr(module, 'check'):
    module.check(name)
    return module, name, change
  known = module.tasks()
  if name not in known:
    prefix = task.partition('_')[0] + '_'
    near = difflib.get_close_matches(name, known, 5, 0.5)
    names = ', '.join(prefix + n for n in near or known)
    hint = f'did you mean {names}?' if near else f'there are {names}.'
    raise UserError(f'unknown task {task!r}: {hint}')
  return module, name, change


def _split(task):
  base, change = shift.parse(task)
  prefix, _, name = base.partition('_')
  if prefix in SUITES:
    suite = SUITES[prefix]
  elif ':' in base:
    suite, name = FACTORY, base
  else:
    raise UserError(
      f'unknown suite {prefix!r} in task {task!r}: a task is named '
      f'<suite>_<name>, with a suite of {", ".join(SUITES)}, or, if it is '
      'your own, <module>:<function>.'
    )
  if suite.package and importlib.util.find_spec(suite.package) is None:
    raise UserError(
      f'task {task!r} needs the package {suite.package}, which is not '
      f'installed: pip install "vid2act_jax[{suite.extra}]"'
    )
  if change.dynamics and not suite.models:
    raise shift.no_model(task)
  return suite, name, change
