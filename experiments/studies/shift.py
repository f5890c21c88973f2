"""How far may the sources' dynamics or view be from the target's?

  python -m experiments.grid --study=experiments/studies/shift.py

The source is the target task itself, with gravity, gain or mass changed by a
factor, or seen by another camera (docs/shifted-tasks.md). `same` is the task
unchanged, `from_scratch` no source. `<key>_all` has all strengths of a key at
once, the unchanged task among them: do the weights find it? 2 + 12 + 3 runs a
seed, one a camera and one with all of them; a teacher for each but one of
them; 13 datasets and one a camera.
"""

import functools

from experiments.studies import shifted
from vid2act_jax import envs
from vid2act_jax.loops import setup
from vid2act_jax.types import UserError

FACTORS = '0.25', '0.5', '2', '4'  # Beside 1, which is the task itself.
KEYS = 'gravity', 'gain', 'mass'
MOST_CAMERAS = 5


def get_study(config):
  """Points by what is changed, and by how much."""
  task = config.task
  points = {
    'from_scratch': {'variant': 'dreamerv2'},
    'same': _from(task),
  }
  for key in KEYS:
    points |= _changed(task, key, FACTORS)
  cameras = [
    number
    for number in _cameras(task, setup.env_settings(config))
    if number != config.env.camera
  ]
  return points | (_changed(task, 'camera', cameras) if cameras else {})


def _changed(task, key, values):
  """One point for each value, and one with all of them and the task itself."""
  names = {value: shifted(task, key, value) for value in values}
  points = {f'{key}_{value}': _from(name) for value, name in names.items()}
  return {**points, f'{key}_all': _from(task, *names.values())}


def _from(*sources):
  return {'variant': 'vid2act', 'sources': sources}


@functools.cache
def _cameras(task, settings):
  """Numbers of the cameras that the task has, the first few, as text."""
  # What is wrong with the task itself is told, not taken for no camera.
  envs.make(task, settings, 0).close()
  found = []
  for number in map(str, range(MOST_CAMERAS)):
    try:
      envs.make(shifted(task, 'camera', number), settings, 0).close()
    except UserError:
      break
    found.append(number)
  return tuple(found)
