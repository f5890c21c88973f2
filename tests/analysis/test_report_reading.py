"""What the report reads of run folders, sound or damaged, and how it groups."""

import numpy as np
import pytest

from tests import fake_runs
from vid2act_jax.analysis import grouping, reading, scores


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


# Reading.


def test_runs_are_found_three_levels_deep_and_once(tmp_path):
  deep = tmp_path / 'study' / 'point' / 'run'
  fake_runs.write(deep, fake_runs.config(), fake_runs.rows())
  # Not an agent that collects a dataset, nor what lies in a run.
  fake_runs.write(tmp_path / 'sources' / 'agent', fake_runs.config())
  fake_runs.write(deep / 'teacher', fake_runs.config())
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'metadata.json').write_text('{}')
  fake_runs.write(tmp_path / 'data' / 'run', fake_runs.config())
  paths, problems = reading.find([tmp_path, deep, tmp_path / 'study'])
  assert paths == [deep] and problems == []
  _, problems = reading.find([tmp_path / 'absent', tmp_path / 'data'])
  assert 'no such folder' in problems[0] and 'no run in it' in problems[1]


def test_damaged_metrics_are_read_as_far_as_they_can(tmp_path):
  good = fake_runs.rows()
  bad = [
      b'\xff\xfe\x00garbage', b'{"stage": "finetune", "step"', b'[1, 2]',
      b'{"stage": "finetune", "step": "x"}', b'{"stage": 3, "step": 1}',
      b'{"stage": "finetune", "step": -1}', b'7', b'[' * 5000,
      b'{"stage": "finetune", "step": 1' + b'0' * 400 + b'}',
  ]  # fmt: skip
  odd = [
    b'{"stage": "finetune", "step": 1, "eval/return": "high", "a": true}',
    b'{"stage": "finetune", "step": 2, "eval/return": 1e300}',
    b'{"stage": "finetune", "step": 3, "eval/return": null, "b": NaN}',
  ]
  path = fake_runs.write(
    tmp_path / 'run', fake_runs.config(), [*good[:5], *bad, *odd, *good[5:]]
  )
  with open(path / 'metrics.jsonl', 'ab') as file:
    file.write(b'{"stage": "finetune", "st')  # Torn by a kill: no damage.
  run = reading.read(path)
  assert len(run.metrics) == len(good) + len(odd)
  assert (
    f'metrics.jsonl: {len(bad)} lines are no rows, left out' in run.problems
  )
  assert 'metrics.jsonl: 3 values are no numbers, left out' in run.problems
  steps, values = run.series('eval/return')
  assert len(steps) == 20 and np.isfinite(values).all()


@pytest.mark.parametrize(
  'config, word',
  [(None, 'no config.json'), ('{"a"', 'damaged'), ('[]', 'damaged')],
)
def test_configs_that_cannot_be_read(tmp_path, config, word):
  path = fake_runs.write(tmp_path / 'run', None, fake_runs.rows())
  if config is not None:
    (path / 'config.json').write_text(config)
  run = reading.read(path)
  assert run.task is None and any(word in x for x in run.problems)


def test_older_runs_have_their_variant_elsewhere(tmp_path):
  config = fake_runs.config()
  config['learner']['variant'] = config.pop('variant')
  run = reading.read(fake_runs.write(tmp_path / 'a', config, fake_runs.rows()))
  assert run.variant == 'vid2act' and run.problems == []
  config = fake_runs.config(task=3, seed='x', sources='y', learner=4)
  run = reading.read(fake_runs.write(tmp_path / 'b', config))
  assert (run.task, run.seed, run.sources) == (None, None, ())
  assert 'config.json does not tell its task and seed' in run.problems


# Groups.


def _groups(folder):
  paths, _ = reading.find([folder])
  return grouping.group([reading.read(path) for path in paths])


def test_labels_name_what_differs(folder):
  fake_runs.add(folder, seed=0, name='a', teacher_from='x')
  fake_runs.add(folder, seed=1, name='b', teacher_from='y')
  assert list(_groups(folder)[0]['dmc_quadruped_walk']) == ['vid2act']
  fake_runs.add(folder, seed=0, learner={'scales': {'kl': 0.5}})
  fake_runs.add(folder, variant='dreamerv2', sources=['one'], weights=None)
  groups, problems = _groups(folder)
  assert list(groups['dmc_quadruped_walk']) == [
    'dreamerv2', 'vid2act, kl=1.0', 'vid2act, kl=0.5',
  ]  # fmt: skip
  assert any('vid2act, kl=0.5: no seed 1' in x for x in problems)


def test_older_runs_are_as_those_with_the_keys_that_came_later(folder):
  for seed, scales in enumerate(({}, {'discount': 0.0}, {'discount': 5.0})):
    fake_runs.add(folder, seed=seed, learner={'scales': {'kl': 1.0, **scales}})
  (groups,) = _groups(folder)[0].values()
  assert {label: len(members) for label, members in groups.items()} == {
    'vid2act, discount=0.0': 2,
    'vid2act, discount=5.0': 1,
  }


def test_seeds_of_other_data_are_named(folder):
  for seed in range(2):
    fake_runs.add(folder, seed=seed, teacher_from=f'teacher-{seed}')
  assert not any('seeds differ' in x for x in _groups(folder)[1])
  fake_runs.add(folder, seed=2, teacher_from='other', source_dir='elsewhere')
  told = [x for x in _groups(folder)[1] if 'seeds differ' in x]
  assert any('config.source_dir' in x and 'elsewhere' in x for x in told)
  assert any('config.teacher_from (other, teacher)' in x for x in told)


def test_labels_of_lists(folder):
  sources = ['dmc_a_b', 'dmc_c_d']
  for many in (1, 2):
    fake_runs.add(folder, sources=sources[:many], weights=None)
  labels = _groups(folder)[0]['dmc_quadruped_walk']
  assert sorted(labels) == ['vid2act, sources=1', 'vid2act, sources=2']
  for mark in 'xy':
    fake_runs.add(folder, sources=['dmc_' + 'long' * 20 + mark], weights=None)
  labels = _groups(folder)[0]['dmc_quadruped_walk']
  assert len(labels) == 4 and all(len(label) < 80 for label in labels)


def test_labels_are_in_order():
  labels = ['b, n=10', 'b, n=0.5', 'b, n=0.25', 'dreamerv2', 'vid2act', 'a']
  assert scores.in_order(labels, 'dreamerv2') == [
    'vid2act', 'dreamerv2', 'a', 'b, n=0.25', 'b, n=0.5', 'b, n=10',
  ]  # fmt: skip


def test_of_the_same_seed_twice_the_longer_counts(folder):
  long = fake_runs.add(folder)
  short = fake_runs.add(folder, env_steps=50_000)
  groups, problems = _groups(folder)
  [run] = groups['dmc_quadruped_walk']['vid2act']
  assert run.path == long
  assert any(str(short) in x and str(long) in x for x in problems)
