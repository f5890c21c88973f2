"""Which behaviours play a dataset, and how often each."""

import numpy as np

from vid2act_jax.types import UserError

BEHAVIOURS = ('scripted', 'noisy', 'random')
_CHECKPOINT = 'checkpoint'


def parse(policy: str) -> dict[str, float]:
  """Weights by behaviour; {'checkpoint': 1} for an agent's.

  Args:
    policy: 'checkpoint:RUN', or behaviours with weights, as in
      'scripted:0.5,noisy:0.3,random:0.2'; without a weight one has 1.

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
  fine = set(weights) <= set(BEHAVIOURS) and min(weights.values()) >= 0
  if not fine or not 0 < sum(weights.values()) < np.inf:
    raise UserError(
      f'policy {policy!r}: should be {_CHECKPOINT}:RUN_FOLDER, or some of '
      f'{", ".join(BEHAVIOURS)} with weights that are not negative and not all '
      'zero, such as scripted:0.5,noisy:0.3,random:0.2'
    )
  return weights


def mixture(weights: dict[str, float], count: int) -> list[str]:
  """A behaviour for each of `count` episodes, well mixed in time.

  At every point of the list each behaviour has had its share, up to one.
  """
  total = sum(weights.values())
  had = dict.fromkeys(weights, 0)
  out = []
  for n in range(1, count + 1):
    due = {k: n * w / total - had[k] for k, w in weights.items()}
    name = max(due, key=due.get)
    had[name] += 1
    out.append(name)
  return out
