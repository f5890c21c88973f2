"""Ablation: which part of the method matters?

  python -m experiments.grid --study=experiments/studies/ablation.py

The full method, compared with ablations (no distillation, no action replay,
similarity weights that are uniform, frozen or all on one source) and baselines
(training from scratch, other transfer methods on the same data). 8 + N runs per
seed (N sources), 2 teachers per seed, N datasets.
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
  """A job for each variant, and for each single source."""
  jobs = {name: {'variant': name} for name in VARIANTS}
  for index, task in enumerate(config.sources):
    jobs[f'single_{index}'] = {'variant': f'single:{task}'}
  return jobs
