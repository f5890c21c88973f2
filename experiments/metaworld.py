"""Meta-World from six sources, full size; for any target task.

  python -m experiments.run --config=experiments/metaworld.py
  python -m experiments.run --config=experiments/metaworld.py \
    --config.task=metaworld_drawer_open --workdir=runs/drawer_open

For one GPU. The metric is the success rate.
"""

from experiments import base


def get_config():
  """base.py with Meta-World's tasks and schedule."""
  config = base.get_config()
  config.name = 'metaworld'
  config.task = 'metaworld_lever_pull'
  config.sources = (
    'metaworld_door_close',
    'metaworld_faucet_open',
    'metaworld_handle_press',
    'metaworld_plate_slide',
    'metaworld_reach_wall',
    'metaworld_window_close',
  )
  config.env.update(action_repeat=1, time_limit=500)
  config.evaluate.every = 20_000
  config.finetune.update(env_steps=300_000, prefill=5_000)
  return config
