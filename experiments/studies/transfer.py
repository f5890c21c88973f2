"""Does transfer help, and which part of it?

  python -m experiments.grid --study=experiments/studies/transfer.py \
    --base=experiments/studies/balance.py --jobs=2

The whole method, without distillation, without action replay, and without
both; with all weight on the first of config.sources, which balance.py makes
the related one; and with a warm start from the teacher instead of the method.
6 runs and 1 teacher a seed, N datasets.
"""

VARIANTS = 'vid2act', 'dreamerv2', 'finetune', 'no_distill', 'no_replay'


def get_study(config):
  """A point for each variant, and for the first source alone."""
  points = {name: {'variant': name} for name in VARIANTS}
  if config.sources:
    points['single_0'] = {'variant': f'single:{config.sources[0]}'}
  return points
