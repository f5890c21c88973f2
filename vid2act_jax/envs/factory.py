"""Custom environments: a task is named '<module>:<function>'.

The function (or class) takes no arguments and returns a gymnasium environment,
for example my_lab.tasks:make_reach. The module must be importable or in the
current folder. See `vid2act_jax.envs.gym` for the supported environments.
"""

import difflib
from collections.abc import Callable

import gymnasium

from vid2act_jax.envs import core, gym
from vid2act_jax.types import UserError


def check(name: str):
  """Raises UserError if the module or the function is missing."""
  _find_function(name)


def build(name: str, settings: core.Settings, seed: int) -> gym.Simulator:
  """Calls the function; raises UserError if its result is unsupported."""
  return gym.build_custom(name, _find_function(name), settings, seed)


def _find_function(name) -> Callable[[], gymnasium.Env]:
  path, _, attribute = name.partition(':')
  if not all(part.isidentifier() for part in [*path.split('.'), attribute]):
    raise UserError(
      f'task {name!r} is not named <module>:<function>, for example '
      'my_lab.tasks:make_reach.'
    )
  module = gym.import_module(path, name)
  function = getattr(module, attribute, None)
  if callable(function):
    return function
  known = [key for key, value in vars(module).items() if callable(value)]
  matches = difflib.get_close_matches(attribute, known, 3)
  names = ', '.join(f'{path}:{n}' for n in matches)
  hint = f'did you mean {names}?' if matches else 'define it in the module.'
  raise UserError(
    f'task {name!r}: {module.__name__} has no function {attribute!r}; {hint}'
  )
