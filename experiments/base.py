"""The default config as an experiment; its keys are in vid2act_jax/config.py.

python -m experiments.run --config=experiments/base.py --config.task=...
"""

from vid2act_jax.config import get_config

__all__ = ['get_config']
