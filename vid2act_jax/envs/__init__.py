"""Pixel environments: one interface over several suites.

A suite is imported only when one of its tasks is made. Task names:
`dmc_<domain>_<task>`, `metaworld_<task>`, `probe_<name>`, `gym_<id>` for ids
registered with gymnasium (see `vid2act_jax.envs.gym`), and
`<module>:<function>` for custom tasks (see `vid2act_jax.envs.factory`).
Modifiers after an '@' change a task (see `vid2act_jax.envs.shift`).
"""

from vid2act_jax.envs.actions import ActionSpec
from vid2act_jax.envs.core import Env, EnvWarning, Interface, Settings
from vid2act_jax.envs.registry import (
  as_gymnasium,
  check,
  has_states,
  make,
  scripted_policy,
)
from vid2act_jax.envs.shift import base_name, pad_or_truncate
from vid2act_jax.envs.vector import VectorEnv
from vid2act_jax.envs.workers import Limits

__all__ = [
  'ActionSpec',
  'Env',
  'EnvWarning',
  'Interface',
  'Limits',
  'Settings',
  'VectorEnv',
  'as_gymnasium',
  'base_name',
  'check',
  'has_states',
  'make',
  'pad_or_truncate',
  'scripted_policy',
]
