"""May the target's actions be others than the sources'?

  python -m experiments.grid --study=experiments/studies/action_space.py \
    -- --config.task=dmc_reacher_easy

The source is the target task itself with fewer or more action dimensions
(docs/shifted-tasks.md), so that nothing else differs, and every point learns
the same task. Fewer: its last actuators got 0. More: the additional ones did
nothing. The target's actions are `equal` to the source's, a `subset` or a
`superset` of them, or of another size than those of either of two sources
(`between`); `from_scratch` has none. 5 runs and 4 teachers a seed, 3 datasets.
For a task with one action dimension there are no fewer: `superset` and
`between` are left out.
"""

import functools

from experiments.studies import shifted
from vid2act_jax import envs
from vid2act_jax.loops import setup


def get_study(config):
  """Points by how the target's action space lies to the sources'."""
  task = config.task
  size = _action_dim(task, setup.env_settings(config))
  fewer, more = (shifted(task, 'actions', n) for n in (size // 2, 2 * size))
  sources = {'equal': (task,), 'subset': (more,)}
  if size > 1:
    sources |= {'superset': (fewer,), 'between': (fewer, more)}
  points = {'from_scratch': {'variant': 'dreamerv2'}}
  for name, tasks in sources.items():
    points[name] = {'variant': 'vid2act', 'sources': tasks}
  return points


@functools.cache
def _action_dim(task, settings):
  env = envs.make(task, settings, 0)
  env.close()
  return env.action_dim
