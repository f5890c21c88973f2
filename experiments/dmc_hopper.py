"""Hopper hop from four locomotion sources (DeepMind Control), full size.

python -m experiments.run --config=experiments/dmc_hopper.py
"""

from experiments import base


def get_config():
  """base.py with another target, and environments in their own processes."""
  config = base.get_config()
  config.name = 'dmc_hopper'
  config.task = 'dmc_hopper_hop'
  config.env.update(num=4, parallel=True)
  # At most a tenth of the time: four environments train side by side.
  config.evaluate.every = 50_000
  return config
