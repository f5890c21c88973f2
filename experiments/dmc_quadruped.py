"""Quadruped from four locomotion sources (DeepMind Control), full size.

  python -m experiments.run --config=experiments/dmc_quadruped.py
  python -m experiments.run --config=experiments/dmc_quadruped.py \
    --config.task=dmc_quadruped_run --workdir=runs/quadruped_run

For one GPU; on a CPU it takes weeks. Sources of which state policies are
shipped (python -m vid2act_jax.behaviours list) are collected in minutes on 16
cores. Published returns at 402k env steps, with
the most similar protocol: DreamerV2 514 (walk) and 410 (run), APV 797 and 647.
"""

from experiments import base


def get_config():
  """base.py, under a name of its own."""
  config = base.get_config()
  config.name = 'dmc_quadruped'
  return config
