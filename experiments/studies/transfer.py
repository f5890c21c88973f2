"""Does transfer help, and which part of the method?

  python -m experiments.grid --study=experiments/studies/transfer.py \
    --base=experiments/studies/balance.py --jobs=2

The full method; without distillation, without action replay, and without both;
with all weight on the first source, which is the related one in balance.py; and
with a warm start from the teacher instead. 6 runs and 1 teacher per seed, N
datasets.
"""

VARIANTS = 'vid2act', 'dreamerv2', 'finetune', 'no_distill', 'no_replay'


def get_study(config):
  """A job for each variant, and for the first source only."""
  jobs = {name: {'variant': name} for name in VARIANTS}
  if config.sources:
    jobs['single_0'] = {'variant': f'single:{config.sources[0]}'}
  return jobs
