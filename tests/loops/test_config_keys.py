"""What the keys of a config decide."""

import pytest

from experiments import base, debug
from vid2act_jax.loops import config_keys, runs

_ALL = (
  *config_keys.RUNTIME,
  *config_keys.BUDGET,
  *config_keys.TEACHER,
  *config_keys.STUDENT_ALONE,
  *config_keys.GROUPED,
)


@pytest.mark.parametrize('name', sorted(set(_ALL) - {'learner.variant'}))
def test_every_name_is_a_key_or_a_section(name):
  found = base.get_config()
  for part in name.split('.'):
    assert part in found
    found = found[part]


def test_a_name_stands_for_all_in_its_section():
  assert config_keys.matches('learner.optim.eps', ['env', 'learner.optim'])
  assert config_keys.matches('learner', ['learner'])
  assert not config_keys.matches('learner', ['learner.optim'])
  assert not config_keys.matches('evaluate.every', ['evaluat', 'every'])


def test_leaves_of_a_tree_too_deep_for_a_config():
  tree = {'b': 1}
  for _ in range(100_000):
    tree = {'a': tree}
  found = config_keys.leaves({'c': {'d': 2}, **tree})
  assert set(found) == {'c.d', '.'.join('a' * 8)}
  assert found['c.d'] == 2


def test_how_the_work_is_done_may_change_in_a_folder(tmp_path):
  runs.init_workdir(tmp_path, debug.get_config())
  config = debug.get_config()
  config.learner.update(conv='native', unroll=5, cpu_chunk=0)
  config.finetune.update(log_every=7, env_steps=100_000)
  config.evaluate.every = 1
  assert runs.config_diff(tmp_path, config) == []
  config.finetune.update_every = 9
  config.collect.noise = 1.5
  assert runs.config_diff(tmp_path, config) == [
    'collect.noise: 0.5 there, 1.5 now',
    f'finetune.update_every: {debug.get_config().finetune.update_every} there,'
    ' 9 now',
  ]
