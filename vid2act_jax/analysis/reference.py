"""Committed learning curves of an experiment from scratch, for its summary.

A curve is drawn next to a run only if the run has the same config, but for what
a run from scratch does not use.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping

from vid2act_jax.loops import config_keys

PATH = pathlib.Path(__file__).with_name('reference.json')
# Keys that a run from scratch does not use, or that may differ.
_IGNORED = (
  *config_keys.RUNTIME,
  'seed',
  'seeds',
  'variant',
  'sources',
  'source_dir',
  'teacher_from',
  'collect',
  'pretrain',
  'replay',
  'learner.teacher',
  'learner.generator',
  'learner.matmul_precision',
  'learner.transfer',
)


def digest(config: Mapping) -> str:
  """Identifies what a run from scratch with this config, nested dicts, does."""
  values = config_keys.exclude(json.loads(json.dumps(config)), _IGNORED)
  text = json.dumps(values, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def find(config: Mapping) -> dict | None:
  """Returns the committed curve for a run's config, or None.

  Returns:
    {'label', 'digest', 'seeds', 'env_steps', 'median', 'low', 'high', 'commit',
    'machine'}; low and high are the extremes over the seeds.
  """
  if config.get('variant') == 'dreamerv2':
    return None
  own = digest(config)
  curves = json.loads(PATH.read_text(encoding='utf-8'))
  return next((curve for curve in curves if curve['digest'] == own), None)
