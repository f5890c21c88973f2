"""Behaviour policies of data collection, and their weights."""

import numpy as np

from vid2act_jax.types import UserError

BEHAVIOURS = ('scripted', 'noisy', 'random')
_CHECKPOINT = 'checkpoint'
# The policy 'auto', by suite.
_AUTO = {'dmc': 'agent', 'metaworld': 'scripted:0.5,noisy:0.3,random:0.2'}


def resolve(policy: str, task: str) -> str:
  """Policy that collects a task's dataset, with 'auto' resolved."""
  if policy != 'auto':
    return policy
  return _AUTO.get(task.split('_')[0], 'random')


def parse(policy: str) -> dict[str, float]:
  """Returns the weight of each behaviour; {'checkpoint': 1} for an agent.

  Args:
    policy: 'checkpoint:RUN', or behaviours with weights, as in
      'scripted:0.5,noisy:0.3,random:0.2'; the default weight is 1.

  Raises:
    UserError: an unknown behaviour, or no positive weight.
  """
  if policy.startswith(f'{_CHECKPOINT}:'):
    return {_CHECKPOINT: 1.0}
  weights = {}
  for item in policy.split(','):
    name, _, weight = item.partition(':')
    try:
      weights[name.strip()] = float(weight or 1)
    except ValueError:
      weights[name.strip()] = -1.0
  valid = set(weights) <= set(BEHAVIOURS) and min(weights.values()) >= 0
  if not valid or not 0 < sum(weights.values()) < np.inf:
    raise UserError(
      f'policy {policy!r}: should be {_CHECKPOINT}:RUN_FOLDER, or some of '
      f'{", ".join(BEHAVIOURS)} with weights that are not negative and not all '
      'zero, such as scripted:0.5,noisy:0.3,random:0.2'
    )
  return weights


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
