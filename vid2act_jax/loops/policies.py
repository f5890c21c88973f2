"""Behaviour policies of data collection, and their weights."""

import pathlib

import numpy as np

from vid2act_jax import behaviours
from vid2act_jax.envs import base_name
from vid2act_jax.types import UserError

BEHAVIOURS = ('scripted', 'noisy', 'random')
STATE = 'state:'
_NOISE = '+noise'  # Suffix of a state policy.
_CHECKPOINT = 'checkpoint'
CHECKPOINT = f'{_CHECKPOINT}:'  # Before the folder of a run.
# The policy 'auto' where state policies of both levels are shipped.
_AUTO_STATE = 'state:expert:0.5,state:medium:0.3,random:0.2'
# The policy 'auto' of the other tasks, by suite.
_AUTO = {'dmc': 'agent', 'metaworld': 'scripted:0.5,noisy:0.3,random:0.2'}


def resolve(policy: str, task: str) -> str:
  """Policy that collects a task's dataset, with 'auto' resolved."""
  if policy != 'auto':
    return policy
  levels = behaviours.shipped().get(base_name(task), ())
  if set(levels) == set(behaviours.LEVELS):
    return _AUTO_STATE
  return _AUTO.get(task.split('_')[0], 'random')


def parse(policy: str) -> dict[str, float]:
  """Returns the weight of each behaviour; {'checkpoint': 1} for an agent.

  Args:
    policy: 'checkpoint:RUN', or behaviours with weights, as in
      'scripted:0.5,noisy:0.3,random:0.2' or
      'state:expert:0.5,state:medium:0.3,random:0.2'; the default weight is 1.
      After 'state:' stands the level of a shipped state policy or the path of
      a file, and '+noise' for Gaussian noise.

  Raises:
    UserError: an unknown behaviour, or no positive weight.
  """
  if policy.startswith(CHECKPOINT):
    return {_CHECKPOINT: 1.0}
  weights = dict(_parse_item(item.strip()) for item in policy.split(','))
  known = all(n in BEHAVIOURS or n.startswith(STATE) for n in weights)
  valid = known and STATE not in weights and min(weights.values()) >= 0
  if not valid or not 0 < sum(weights.values()) < np.inf:
    raise UserError(
      f'policy {policy!r}: should be {_CHECKPOINT}:RUN_FOLDER, or some of '
      f'{", ".join(BEHAVIOURS)}, {STATE}LEVEL or {STATE}FILE.npz with weights '
      'that are not negative and not all zero, such as '
      'scripted:0.5,noisy:0.3,random:0.2'
    )
  return weights


def find_state_policies(policy: str, task: str) -> dict:
  """Returns the file of each state policy among the behaviours, by name.

  Raises:
    UserError: as `parse`, or there is no such state policy of the task.
  """
  return {
    name: find_state_policy(name, task)
    for name in parse(policy)
    if name.startswith(STATE)
  }


def find_state_policy(name: str, task: str) -> pathlib.Path:
  """Returns the file of the state policy of a behaviour 'state:...'."""
  level = name.removeprefix(STATE).removesuffix(_NOISE)
  return behaviours.find(task, level)


def is_noisy(name: str) -> bool:
  """Whether Gaussian noise is added to the actions of a behaviour."""
  return name == 'noisy' or name.endswith(_NOISE)


def _parse_item(item):
  """Returns the name and the weight of a behaviour; -1: not a number."""
  name, _, weight = item.partition(':')
  if name + ':' == STATE:
    # A level or a path, which may have colons, perhaps with a weight.
    name, _, weight = item.rpartition(':')
    if name + ':' == STATE or weight.endswith('.npz'):
      name, weight = item, ''
  try:
    return name.strip(), float(weight or 1)
  except ValueError:
    return name.strip(), -1.0


def mixture(weights: dict[str, float], count: int) -> list[str]:
  """Returns a behaviour for each of `count` episodes, interleaved.

  At every index, the number of episodes of each behaviour differs from its
  share by less than one.
  """
  total = sum(weights.values())
  assigned = dict.fromkeys(weights, 0)
  out = []
  for n in range(1, count + 1):
    due = {k: n * w / total - assigned[k] for k, w in weights.items()}
    name = max(due, key=due.get)
    assigned[name] += 1
    out.append(name)
  return out
