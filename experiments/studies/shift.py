"""Transfer under shifted dynamics and camera views.

  python -m experiments.grid --study=experiments/studies/shift.py

The source is the target task with gravity, gain or mass scaled by a factor, or
with another camera (docs/shifted-tasks.md). `same` is the unchanged task,
`from_scratch` has no source. `<key>_all` has all values of a key and the
unchanged task as sources: do the similarity weights select it? Per seed 2 + 12
+ 3 runs, one per camera and one with all cameras, and a teacher for each of
them but `from_scratch`; 13 datasets and one per camera.
"""

import functools

from experiments.studies import shifted
from vid2act_jax import envs
from vid2act_jax.loops import setup
from vid2act_jax.types import UserError

FACTORS = '0.25', '0.5', '2', '4'  # In addition to 1, the task itself.
KEYS = 'gravity', 'gain', 'mass'
MAX_CAMERAS = 5


def get_study(config):
  """Jobs by modifier and value."""
  task = config.task
  jobs = {
    'from_scratch': {'variant': 'dreamerv2'},
    'same': _transfer_from(task),
  }
  for key in KEYS:
    jobs |= _shifted_jobs(task, key, FACTORS)
  cameras = [
    number
    for number in _cameras(task, setup.env_settings(config))
    if number != config.env.camera
  ]
  return jobs | (_shifted_jobs(task, 'camera', cameras) if cameras else {})


def _shifted_jobs(task, key, values):
  """One job for each value, and one with all values and the task itself."""
  names = {value: shifted(task, key, value) for value in values}
  jobs = {
    f'{key}_{value}': _transfer_from(name) for value, name in names.items()
  }
  return {**jobs, f'{key}_all': _transfer_from(task, *names.values())}


def _transfer_from(*sources):
  return {'variant': 'vid2act', 'sources': sources}


@functools.cache
def _cameras(task, settings):
  """Returns the numbers of the task's first cameras, as strings."""
  # Errors of the task itself must be raised, not taken for a missing camera.
  envs.make(task, settings, 0).close()
  found = []
  for number in map(str, range(MAX_CAMERAS)):
    try:
      envs.make(shifted(task, 'camera', number), settings, 0).close()
    except UserError:
      break
    found.append(number)
  return tuple(found)
