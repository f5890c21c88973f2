"""Does transfer help, and which half of it?

  python -m experiments.grid --study=experiments/studies/transfer.py \
    --base=experiments/studies/balance.py --jobs=2

The whole method, without distillation, without action replay, and without
both. 4 runs and 1 teacher a seed, N datasets (N sources).
"""

VARIANTS = 'vid2act', 'dreamerv2', 'no_distill', 'no_replay'


def get_study(config):
  """A point for each variant."""
  del config
  return {name: {'variant': name} for name in VARIANTS}
