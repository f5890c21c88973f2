"""The state policies of this package, by task and level."""

import pathlib

from vid2act_jax import envs
from vid2act_jax.types import UserError

LEVELS = ('medium', 'expert')
_FOLDER = pathlib.Path(__file__).parent / 'policies'


def file_name(task: str, level: str) -> str:
  """Name of the file of a task's policy."""
  # Commas separate the behaviours of a mixture, which names files.
  return f'{task.replace(",", "+")}-{level}.npz'


def shipped() -> dict[str, list[str]]:
  """Returns the levels of each task of which the package has policies."""
  found = {}
  for path in sorted(_FOLDER.glob('*.npz')):
    task, _, level = path.stem.rpartition('-')
    found.setdefault(task, []).append(level)
  return {task: sorted(found[task], key=LEVELS.index) for task in found}


def find(task: str, level: str) -> pathlib.Path:
  """Returns the file of a state policy.

  Args:
    task: its name; modifiers are ignored, so a shifted task is played by the
      policy of its base task.
    level: one of `LEVELS`, or the path of an .npz file.

  Raises:
    UserError: the task has no states, the level is unknown, no policy of the
      task is shipped, or the file is missing.
  """
  base = envs.base_name(task)
  if not envs.has_states(task):
    raise UserError(
      f'task {task!r} has no states, which the policy state:{level} reads: '
      'only dmc_* tasks have; choose another config.collect.policy (random)'
    )
  if level.endswith('.npz'):
    path = pathlib.Path(level).expanduser()
    if not path.is_file():
      raise UserError(f'policy state:{level}: the file {path} does not exist')
    return path
  if level not in LEVELS:
    raise UserError(
      f'policy state:{level}: the level should be one of {", ".join(LEVELS)}, '
      'or the path of an .npz file'
    )
  path = _FOLDER / file_name(base, level)
  if not path.is_file():
    raise UserError(
      f'no state policy of {base} is shipped, only of {", ".join(shipped())}: '
      f'train one (python -m vid2act_jax.behaviours train --task {base} --out '
      'DIR) and set config.collect.policy=state:DIR/FILE.npz, or choose '
      'another config.collect.policy'
    )
  return path
