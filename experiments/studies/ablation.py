"""Which part of the method does the work?

  python -m experiments.grid --study=experiments/studies/ablation.py

The whole method beside what is left of it without distillation, without
action replay, with weights that are equal, never learned or all on one source;
and beside the baselines, which learn from scratch or by other roads from the
same data. 8 + N runs a seed (N sources), 2 teachers a seed, N datasets.
"""

VARIANTS = (
  'vid2act',
  'dreamerv2',
  'finetune',
  'action_free',
  'no_distill',
  'no_replay',
  'uniform',
  'frozen_weights',
)


def get_study(config):
  """A point for each variant, and for each source alone."""
  points = {name: {'variant': name} for name in VARIANTS}
  for index, task in enumerate(config.sources):
    points[f'single_{index}'] = {'variant': f'single:{task}'}
  return points
