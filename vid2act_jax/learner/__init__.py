"""Pure learning steps: build an agent, then jit its step functions."""

from vid2act_jax.learner.agent import Agent
from vid2act_jax.learner.build import (
  build_agent,
  build_pretrainer,
  check_settings,
)
from vid2act_jax.learner.pretrain import Pretrainer
from vid2act_jax.learner.variants import Variant, parse
from vid2act_jax.rng import NoiseFns

__all__ = [
  'Agent',
  'NoiseFns',
  'Pretrainer',
  'Variant',
  'build_agent',
  'build_pretrainer',
  'check_settings',
  'parse',
]
