"""Does transfer help in the base experiment? The same runs from scratch.

  python -m experiments.grid --study=experiments/studies/scratch.py \
    --base=experiments/quickstart.py --seeds=5 --jobs=2

2 runs and 1 teacher per seed, N datasets.
"""


def get_study(config):
  """The base experiment's variant, and learning from scratch."""
  return {
    config.variant: {'variant': config.variant},
    'dreamerv2': {'variant': 'dreamerv2'},
  }
