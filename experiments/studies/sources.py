"""Effect of the number of sources on return, time and memory.

  python -m experiments.grid --study=experiments/studies/sources.py

The first 1, 2, 4 and 8 sources of one list, and none (dreamerv2). The list is
config.sources, extended from POOL and shuffled once for all seeds: the sources
of a smaller N are a subset of those of a larger N, and do not start with the
most related ones. The first task is random: try another SHUFFLE_SEED before
drawing conclusions from N = 1. Pretraining has the same number of updates and
frames for every N: its batch is divisible by every N.
5 runs and 4 teachers per seed, 8 datasets.
"""

import random

NUM_SOURCES = 1, 2, 4, 8
SHUFFLE_SEED = 0  # Seed of the shuffle.
# By suite: tasks with different bodies, none with a long horizon.
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
  """A job for each number of sources, as far as there are enough tasks."""
  tasks = candidates(config)[: NUM_SOURCES[-1]]
  random.Random(SHUFFLE_SEED).shuffle(tasks)
  batch = -(-config.pretrain.batch // NUM_SOURCES[-1]) * NUM_SOURCES[-1]
  jobs = {'sources_0': {'variant': 'dreamerv2'}}
  for number in NUM_SOURCES:
    if number <= len(tasks):
      jobs[f'sources_{number}'] = {
        'variant': 'vid2act',
        'sources': tuple(tasks[:number]),
        'pretrain.batch': batch,
      }
  return jobs


def candidates(config) -> list[str]:
  """The config's sources, followed by the other tasks of the pool."""
  tasks = list(config.sources)
  more = POOL.get(config.task.split('_')[0], ())
  known = {task.split('@')[0] for task in (*tasks, config.task)}
  more = [task for task in more if task not in known]
  if config.env.camera:  # Chosen for the config's tasks.
    more = [f'{task}@camera=0' for task in more]
  return tasks + more
