"""Pure learning steps: build an agent, then jit its step functions."""

from vid2act_jax.learner.agent import Agent, Draws, Pretrainer
from vid2act_jax.learner.build import build_agent, build_pretrainer
from vid2act_jax.learner.variants import Variant, parse

__all__ = [
  'Agent',
  'Draws',
  'Pretrainer',
  'Variant',
  'build_agent',
  'build_pretrainer',
  'parse',
]
