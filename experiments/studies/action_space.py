"""Transfer between different action spaces.

  python -m experiments.grid --study=experiments/studies/action_space.py \
    -- --config.task=dmc_reacher_easy

The source is the target task with fewer or more action dimensions
(docs/shifted-tasks.md), so that nothing else differs, and every job learns the
same task. Fewer: the last actuators get 0. More: the additional dimensions have
no effect. The target's actions are `equal` to the source's, a `subset` or a
`superset` of them, or between those of two sources (`between`); `from_scratch`
has no source. 5 runs and 4 teachers per seed, 3 datasets. A task with one
action dimension has no `superset` and `between`.
"""

import functools

from experiments.studies import shifted
from vid2act_jax import envs
from vid2act_jax.loops import setup


def get_study(config):
  """Jobs by relation of the target's action space to the sources'."""
  task = config.task
  size = _action_dim(task, setup.env_settings(config))
  fewer, more = (shifted(task, 'actions', n) for n in (size // 2, 2 * size))
  sources = {'equal': (task,), 'subset': (more,)}
  if size > 1:
    sources |= {'superset': (fewer,), 'between': (fewer, more)}
  jobs = {'from_scratch': {'variant': 'dreamerv2'}}
  for name, tasks in sources.items():
    jobs[name] = {'variant': 'vid2act', 'sources': tasks}
  return jobs


@functools.cache
def _action_dim(task, settings):
  env = envs.make(task, settings, 0)
  env.close()
  return env.action_dim
