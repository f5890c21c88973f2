"""Comparison of pretraining methods on the sources' data.

  python -m experiments.grid --study=experiments/studies/pretraining.py

All use the same data: a frozen teacher with actions (vid2act), a model with
actions that initialises the student (finetune), a model without actions below
the student's (action_free, as in APV), and no pretraining (dreamerv2). 4 runs
and 2 teachers per seed, N datasets.
"""

VARIANTS = 'vid2act', 'finetune', 'action_free', 'dreamerv2'


def get_study(config):
  """A job for each pretraining method."""
  del config
  return {name: {'variant': name} for name in VARIANTS}
