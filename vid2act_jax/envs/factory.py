"""Environments of one's own: a task is '<module>:<function>'.

The function takes no arguments and returns a gymnasium environment, as in
my_lab.tasks:make_reach; a class will do. The module is one that Python finds,
or lies in the current folder. What the environment has to be like is told in
`vid2act_jax.envs.gym`.
"""

import difflib
from collections.abc import Callable

import gymnasium

from vid2act_jax.envs import core, gym
from vid2act_jax.types import UserError


def check(name: str):
  """Imports the module; UserError when it or the function is missing."""
  _find(name)


def build(name: str, settings: core.Settings, seed: int) -> gym.Simulator:
  """Calls the function; UserError when what it returns will not do."""
  function = _find(name)
  with gym.importing(name):
    env = function()
    if not isinstance(env, gymnasium.Env):
      raise UserError(
        f'task {name!r} returns {type(env).__name__!r}: it has to return a '
        'gymnasium.Env.'
      )
    return gym.Simulator(name, env, settings, seed)


def _find(name) -> Callable[[], gymnasium.Env]:
  path, _, attribute = name.partition(':')
  if not all(part.isidentifier() for part in [*path.split('.'), attribute]):
    raise UserError(
      f'task {name!r} is not named <module>:<function>, such as '
      'my_lab.tasks:make_reach.'
    )
  module = gym.load(path, name)
  function = getattr(module, attribute, None)
  if callable(function):
    return function
  known = [key for key, value in vars(module).items() if callable(value)]
  near = difflib.get_close_matches(attribute, known, 3)
  names = ', '.join(f'{path}:{n}' for n in near)
  hint = f'did you mean {names}?' if near else 'define it there.'
  raise UserError(
    f'task {name!r}: {module.__name__} has no function {attribute!r}; {hint}'
  )
