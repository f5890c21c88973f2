"""Base config of studies for two CPU cores: cartpole swing-up, small networks.

  python -m experiments.grid --study=experiments/studies/ablation.py

Like experiments/learning_check.py, which learns within these 60k env steps.
"""

from experiments import learning_check


def get_config():
  """learning_check.py, shorter."""
  config = learning_check.get_config()
  config.name = 'small'
  config.finetune.env_steps = 60_000
  return config
