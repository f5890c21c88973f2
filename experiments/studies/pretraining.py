"""What should be pretrained from the sources' data?

  python -m experiments.grid --study=experiments/studies/pretraining.py

The same data four times: a frozen teacher with actions (vid2act), a model with
actions that goes on as the student's (finetune), one without actions under the
student's (action_free, as in APV), and nothing (dreamerv2). 4 runs and 2
teachers a seed, N datasets.
"""

VARIANTS = 'vid2act', 'finetune', 'action_free', 'dreamerv2'


def get_study(config):
  """A point for each kind of pretraining."""
  del config
  return {name: {'variant': name} for name in VARIANTS}
