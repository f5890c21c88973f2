"""State policies: small networks that act from a task's states, not pixels.

Datasets are collected with them in minutes: the policies of common tasks are
part of the package, each at two levels. They are played with NumPy alone;
`vid2act_jax.behaviours.train` makes new ones with sbx-rl.

  python -m vid2act_jax.behaviours list
  python -m vid2act_jax.behaviours train --task dmc_walker_walk \
    --env-steps 400_000 --out DIR
"""

from vid2act_jax.behaviours.evaluation import evaluate
from vid2act_jax.behaviours.library import LEVELS, find, shipped
from vid2act_jax.behaviours.policy import StatePolicy, digest, read, write

__all__ = [
  'LEVELS',
  'StatePolicy',
  'digest',
  'evaluate',
  'find',
  'read',
  'shipped',
  'write',
]
