"""How many sources pay, in return, time and memory?

  python -m experiments.grid --study=experiments/studies/sources.py

The first 1, 2, 4 and 8 of one list, and none (dreamerv2). The list is
config.sources, filled up from POOL and shuffled once for all seeds: a larger N
has all that a smaller one has, and does not begin with what is related most.
Which task comes first is chance, though: try another ORDER before you conclude
from N = 1. Pretraining has as many updates and frames for every N: its batch is
made one that they share out evenly.
5 runs and 4 teachers a seed, 8 datasets.
"""

import random

NUMBERS = 1, 2, 4, 8
ORDER = 0  # Seed of the shuffle.
# By suite: tasks of several bodies, none with a long horizon.
POOL = {
  'dmc': (
    'dmc_cartpole_balance',
    'dmc_pendulum_swingup',
    'dmc_reacher_easy',
    'dmc_finger_spin',
    'dmc_ball_in_cup_catch',
    'dmc_cheetah_run',
    'dmc_hopper_stand',
    'dmc_walker_walk',
    'dmc_point_mass_easy',
  ),
  'metaworld': (
    'metaworld_door_close',
    'metaworld_faucet_open',
    'metaworld_handle_press',
    'metaworld_plate_slide',
    'metaworld_reach_wall',
    'metaworld_window_close',
    'metaworld_drawer_close',
    'metaworld_coffee_button',
    'metaworld_button_press',
  ),
}


def get_study(config):
  """A point for each number of sources there are enough tasks for."""
  tasks = candidates(config)[: NUMBERS[-1]]
  random.Random(ORDER).shuffle(tasks)
  batch = -(-config.pretrain.batch // NUMBERS[-1]) * NUMBERS[-1]
  points = {'sources_0': {'variant': 'dreamerv2'}}
  for number in NUMBERS:
    if number <= len(tasks):
      points[f'sources_{number}'] = {
        'variant': 'vid2act',
        'sources': tuple(tasks[:number]),
        'pretrain.batch': batch,
      }
  return points


def candidates(config) -> list[str]:
  """The config's own sources, then those of the pool that it has not."""
  own = list(config.sources)
  more = POOL.get(config.task.split('_')[0], ())
  known = {task.split('@')[0] for task in (*own, config.task)}
  more = [task for task in more if task not in known]
  if config.env.camera:  # Chosen for the config's own tasks.
    more = [f'{task}@camera=0' for task in more]
  return own + more
