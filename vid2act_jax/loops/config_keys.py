"""Groups of config keys, for comparing configs.

A name here stands for a key, or for all keys of a section.

- In a run's folder, keys of RUNTIME, BUDGET and LOCATIONS may change, and those
  that nothing in it depends on yet.
- A report groups runs by all keys except those of RUNTIME and GROUPED.
- In a study, jobs with equal keys of DATA share a dataset. Jobs with equal
  keys of TEACHER, except those of STUDENT_ONLY, share a teacher.
"""

import copy
from collections.abc import Iterable, Iterator

from vid2act_jax.config import GENERATOR
from vid2act_jax.learner.variants import FIELDS

# How a run executes, stores and logs. They do not change what is learned,
# except for rounding: sums may be taken in another order.
RUNTIME = (
  'name',
  'stages',
  'logger',
  'mesh',
  'skip_limit',
  'evaluate',
  'env.parallel',
  'env.timeout',
  'env.replacements',
  'learner.conv',
  'learner.unroll',
  'learner.cpu_chunk',
  'replay.scratch',
  'replay.device_gb',
  'replay.keep_all',
  'collect.workers',
  'pretrain.updates_per_call',
  'pretrain.log_every',
  'pretrain.video_every',
  'pretrain.save_every',
  'finetune.updates_per_call',
  'finetune.log_every',
  'finetune.video_every',
  'finetune.save_every',
)
# How long a run is: it can be extended, and then resumes.
BUDGET = 'collect.episodes', 'pretrain.steps', 'finetune.env_steps'
# Where a run finds its datasets and teachers, which may have been moved. What
# it reads there is compared with its checkpoints.
LOCATIONS = 'source_dir', 'teacher_from'
# What the dataset of a source task depends on, and what the teacher does.
DATA = (
  'collect',
  'env.action_repeat',
  'env.camera',
  'env.quality',
  'env.size',
  'env.time_limit',
)
TEACHER = (
  *DATA,
  'sources',
  'learner',
  'replay.source_gb',
  'replay.cross_episodes',
  'replay.held_out',
  'pretrain',
)
STUDENT_ONLY = (
  'learner.student',
  *(f'learner.transfer.{field}' for field in FIELDS),
  'learner.behavior',
  'learner.scales.discount',
  'learner.scales.distillation',
  'learner.scales.vae',
  'learner.optim.actor_lr',
  'learner.optim.actor_clip',
  'learner.optim.critic_lr',
  'learner.optim.critic_clip',
)
# Reports show these as groups, seeds and steps.
GROUPED = (
  'seed',
  'task',
  'variant',
  'learner.variant',  # Its place in older runs.
  'source_dir',
  'teacher_from',
  'finetune.env_steps',
)

# Keys that older runs lack, with the values that those runs used.
_ADDED = {
  'learner.unroll': -1,
  'learner.matmul_precision': 'default',
  'learner.scales.discount': 0.0,
  **dict.fromkeys(f'learner.transfer.{field}' for field in FIELDS),
  'replay.held_out': 0.0,
  'replay.device_gb': -1.0,
  'learner.generator': GENERATOR,
  'seeds': [],
  'logger': {'backends': ['jsonl', 'tensorboard']},
}
# Removed keys, which had no effect if they were not set.
_REMOVED = ('learner.transfer.prior_floor',)
_MAX_DEPTH = 8  # Of a config; a deeper one is damaged.


def leaves(tree: dict) -> dict:
  """Flattens a config.

  Args:
    tree: nested dicts; below `_MAX_DEPTH` levels, a dict counts as a value.

  Returns:
    {dotted key: value}.
  """
  return dict(_leaves(tree, '', _MAX_DEPTH))


def _leaves(tree, prefix, levels) -> Iterator:
  if not isinstance(tree, dict) or not levels:
    yield prefix[:-1], tree
    return
  for key, value in tree.items():
    yield from _leaves(value, f'{prefix}{key}.', levels - 1)


def exclude(tree: dict, names: Iterable[str]) -> dict:
  """Returns `leaves(tree)` without the keys that match the names."""
  return {
    key: value for key, value in leaves(tree).items() if not matches(key, names)
  }


def upgrade(tree: dict) -> None:
  """Makes an older run's config, nested dicts, one of today's keys.

  Newer keys are added, and removed ones left out where they had no effect.
  """
  learner = tree.get('learner')
  transfer = learner.get('transfer') if isinstance(learner, dict) else None
  if isinstance(transfer, dict) and 'guidance_size' not in transfer:
    # Its name in older runs, which had the floor for all variants.
    transfer['guidance_size'] = transfer.pop('guidance', None)
    if transfer.get('importance_floor') == FIELDS['importance_floor']:
      transfer['importance_floor'] = None
  for name, value in _ADDED.items():
    section, key = _find_section(tree, name)
    if isinstance(section, dict):
      section.setdefault(key, copy.copy(value))
  for name in _REMOVED:
    section, key = _find_section(tree, name)
    if isinstance(section, dict) and not section.get(key):
      section.pop(key, None)


def _find_section(tree, name) -> tuple:
  """The section of a key, which may not be a dict, and the key's last part."""
  *sections, key = name.split('.')
  node = tree
  for section in sections:
    node = node.get(section) if isinstance(node, dict) else None
  return node, key


def matches(key: str, names: Iterable[str]) -> bool:
  """Whether a key is one of the names, or in one of their sections.

  Args:
    key: dotted name of a value or a section.
    names: dotted names of keys and sections.
  """
  return any(f'{key}.'.startswith(f'{name}.') for name in names)
