"""Groups of config keys."""

import json

import pytest

from experiments import base, debug
from vid2act_jax.loops import config_keys, runs

_ALL = (
  *config_keys.RUNTIME,
  *config_keys.BUDGET,
  *config_keys.TEACHER,
  *config_keys.STUDENT_ONLY,
  *config_keys.GROUPED,
)


@pytest.mark.parametrize('name', sorted(set(_ALL) - {'learner.variant'}))
def test_every_name_is_a_key_or_a_section(name):
  node = base.get_config()
  for key in name.split('.'):
    assert key in node
    node = node[key]


def test_section_name_matches_its_keys():
  assert config_keys.matches('learner.optim.eps', ['env', 'learner.optim'])
  assert config_keys.matches('learner', ['learner'])
  assert not config_keys.matches('learner', ['learner.optim'])
  assert not config_keys.matches('evaluate.every', ['evaluat', 'every'])


def test_leaves_of_a_very_deep_tree():
  tree = {'b': 1}
  for _ in range(100_000):
    tree = {'a': tree}
  found = config_keys.leaves({'c': {'d': 2}, **tree})
  assert set(found) == {'c.d', '.'.join('a' * 8)}
  assert found['c.d'] == 2


def test_a_folder_of_an_older_version_fits(tmp_path):
  runs.init_workdir(tmp_path, debug.get_config())
  path = tmp_path / runs.CONFIG
  old = json.loads(path.read_text())
  del old['seeds'], old['mesh']['seed']
  path.write_text(json.dumps(old))
  assert runs.config_diff(tmp_path, debug.get_config()) == []


@pytest.mark.parametrize('value', [None, 0.0, 0.1])
def test_a_removed_key_matters_where_it_had_an_effect(tmp_path, value):
  config = debug.get_config()
  runs.init_workdir(tmp_path, config)
  (tmp_path / runs.STUDENT / '5').mkdir(parents=True)
  path = tmp_path / runs.CONFIG
  old = json.loads(path.read_text())
  old['learner']['transfer']['prior_floor'] = value
  path.write_text(json.dumps(old))
  diff = runs.config_diff(tmp_path, config)
  assert [line.split(':')[0] for line in diff] == (
    ['learner.transfer.prior_floor'] if value else []
  )


def test_runtime_keys_may_change_in_a_folder(tmp_path):
  runs.init_workdir(tmp_path, debug.get_config())
  (tmp_path / runs.STUDENT / '5').mkdir(parents=True)
  config = debug.get_config()
  config.learner.update(conv='native', unroll=5, cpu_chunk=0)
  config.finetune.update(log_every=7, env_steps=100_000)
  config.evaluate.every = 1
  assert runs.config_diff(tmp_path, config) == []
  config.finetune.update_every = 9
  config.collect.noise = 1.5
  assert runs.config_diff(tmp_path, config) == [
    'collect.noise: 0.5 in the folder, 1.5 now',
    f'finetune.update_every: {debug.get_config().finetune.update_every} in the'
    ' folder, 9 now',
  ]


def test_keys_may_change_while_nothing_depends_on_them(tmp_path):
  runs.init_workdir(tmp_path, debug.get_config())
  changes = {
    'env.time_limit': 9,  # of the datasets
    'replay.cross_episodes': True,  # of the teacher
    'finetune.length': 8,  # of the student
  }
  config = debug.get_config()
  config.update_from_flattened_dict(changes)

  def differ():
    return {line.split(':')[0] for line in runs.config_diff(tmp_path, config)}

  assert differ() == set()
  folder = tmp_path / runs.SOURCES / 'probe_wide'
  folder.mkdir(parents=True)
  (folder / 'metadata.json').touch()
  assert differ() == {'env.time_limit'}
  (tmp_path / runs.TEACHER / '3').mkdir(parents=True)
  assert differ() == {'env.time_limit', 'replay.cross_episodes'}
  # A checkpoint that is being replaced counts.
  (tmp_path / runs.STUDENT / 'replaced-5').mkdir(parents=True)
  assert differ() == set(changes)
