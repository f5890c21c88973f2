"""Hopper hop from four locomotion sources (DeepMind Control), full size.

python -m experiments.run --config=experiments/dmc_hopper.py
"""

from experiments import base


def get_config():
  """base.py with another target."""
  config = base.get_config()
  config.name = 'dmc_hopper'
  config.task = 'dmc_hopper_hop'
  return config
