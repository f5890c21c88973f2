"""What the keys of a config decide, for all that compare configs.

A name here stands for a key or for all keys of a section. In a run's folder all
keys but those of WORK and AMOUNT must stay as they are; a report tells runs
apart by all but those of WORK and TOLD_APART; and in a study those points share
a dataset that differ in nothing of DATA, and those a teacher that differ in
nothing of TEACHER but STUDENT_ALONE.
"""

from collections.abc import Iterable, Iterator

# How the work is done, kept and told. What is learned is the same, but for the
# rounding of sums in another order.
RUNTIME = (
  'name',
  'stages',
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
# How much is made: a run may be made longer, and goes on where it is.
BUDGET = 'collect.episodes', 'pretrain.steps', 'finetune.env_steps'
# What makes another dataset of a source task, and another teacher.
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
  'pretrain',
)
STUDENT_ALONE = (
  'learner.student',
  'learner.transfer',
  'learner.behavior',
  'learner.scales.discount',
  'learner.scales.distillation',
  'learner.scales.vae',
  'learner.optim.actor_lr',
  'learner.optim.actor_clip',
  'learner.optim.critic_lr',
  'learner.optim.critic_clip',
)
# Reports tell these in other words: as groups, as seeds, as the steps done.
GROUPED = (
  'seed',
  'task',
  'variant',
  'learner.variant',  # Where older runs have it.
  'source_dir',
  'teacher_from',
  'finetune.env_steps',
)

# Keys that older runs do not have, with what those runs did.
_LATER = {'learner.unroll': -1, 'learner.scales.discount': 0.0}
_LEVELS = 8  # Of a config; deeper ones are damage.


def leaves(tree: dict) -> dict:
  """Flattens a config.

  Args:
    tree: nested dicts. What lies too deep for a config is taken as it is.

  Returns:
    {dotted key: value}.
  """
  return dict(_leaves(tree, '', _LEVELS))


def _leaves(tree, prefix, levels) -> Iterator:
  if not isinstance(tree, dict) or not levels:
    yield prefix[:-1], tree
    return
  for key, value in tree.items():
    yield from _leaves(value, f'{prefix}{key}.', levels - 1)


def exclude(tree: dict, names: Iterable[str]) -> dict:
  """What `leaves` has but for the keys that names stand for."""
  return {
    key: value for key, value in leaves(tree).items() if not matches(key, names)
  }


def add_missing(tree: dict) -> None:
  """Gives an older run's config, nested dicts, the keys that came later."""
  for name, value in _LATER.items():
    *sections, key = name.split('.')
    part = tree
    for section in sections:
      part = part.get(section) if isinstance(part, dict) else None
    if isinstance(part, dict):
      part.setdefault(key, value)


def matches(key: str, names: Iterable[str]) -> bool:
  """Whether a key is one of those that names stand for.

  Args:
    key: dotted, of one value or of a section.
    names: of keys and sections.
  """
  return any(f'{key}.'.startswith(f'{name}.') for name in names)
