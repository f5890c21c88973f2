"""How runs are grouped and labelled, and what they cost."""

import math

import pandas as pd
import pytest

from tests import fake_runs
from vid2act_jax.analysis import group_runs, load_runs


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


def _groups(folder):
  """{task: {label: runs}}, and the problems."""
  paths, _ = load_runs.find([folder])
  table = group_runs.run_table([load_runs.load(path) for path in paths])
  table, problems = group_runs.group(table)
  groups = {}
  for (task, label), runs in table.groupby(['task', 'label']):
    groups.setdefault(task, {})[label] = list(runs.object)
  return groups, problems


def test_labels_name_what_differs(folder):
  fake_runs.add(folder, seed=0, name='a', teacher_from='x')
  fake_runs.add(folder, seed=1, name='b', teacher_from='y')
  assert list(_groups(folder)[0]['dmc_quadruped_walk']) == ['vid2act']
  fake_runs.add(folder, seed=0, learner={'scales': {'kl': 0.5}})
  fake_runs.add(folder, variant='dreamerv2', sources=['one'], weights=None)
  groups, problems = _groups(folder)
  assert list(groups['dmc_quadruped_walk']) == [
    'dreamerv2', 'vid2act, kl=0.5', 'vid2act, kl=1.0',
  ]  # fmt: skip
  assert any('vid2act, kl=0.5: no seed 1' in x for x in problems)


def test_a_key_that_some_configs_lack_is_no_difference(folder):
  for seed, scales in enumerate(({}, {'discount': 5.0})):
    fake_runs.add(folder, seed=seed, learner={'scales': {'kl': 1.0, **scales}})
  (groups,) = _groups(folder)[0].values()
  assert {label: len(runs) for label, runs in groups.items()} == {'vid2act': 2}


def test_seeds_of_other_data_are_named(folder):
  for seed in range(2):
    fake_runs.add(folder, seed=seed, teacher_from=f'teacher-{seed}')
  assert not any('seeds differ' in x for x in _groups(folder)[1])
  fake_runs.add(folder, seed=2, teacher_from='other', source_dir='elsewhere')
  problems = [x for x in _groups(folder)[1] if 'seeds differ' in x]
  assert any('config.source_dir' in x and 'elsewhere' in x for x in problems)
  assert any('config.teacher_from (other, teacher)' in x for x in problems)


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
  assert group_runs.sort_labels(labels, 'dreamerv2') == [
    'vid2act', 'dreamerv2', 'a', 'b, n=0.25', 'b, n=0.5', 'b, n=10',
  ]  # fmt: skip


def test_the_longer_of_two_runs_of_a_seed_counts(folder):
  long = fake_runs.add(folder)
  short = fake_runs.add(folder, env_steps=50_000)
  groups, problems = _groups(folder)
  [run] = groups['dmc_quadruped_walk']['vid2act']
  assert run.path == long
  assert any(str(short) in x and str(long) in x for x in problems)


def test_costs(folder):
  teacher = fake_runs.write(
    folder / 'teacher', fake_runs.config(), fake_runs.rows()[:1]
  )
  path = fake_runs.add(folder, teacher_from=str(teacher))
  run = load_runs.load(path)
  peak = {'stage': 'finetune', 'step': 1.0, 'train/peak_gb': 2.5}
  run.metrics = pd.concat(
    [
      run.metrics[run.metrics.stage == 'finetune'],
      load_runs.metric_table([peak]),
    ]
  )
  table = group_runs.run_table([run, load_runs.load(teacher)])[:1]
  cost = table.iloc[0]
  assert math.isnan(cost.collect) and cost.pretrain == 250
  assert cost.finetune == 1000
  assert cost['shared'] and cost['env_steps_per_s'] == 100
  assert cost['updates'] == 2000 and cost['peak_gb'] == 2.5
  assert cost['seconds_per_update'] == pytest.approx(0.5)
  other = table.assign(updates=math.nan, commit='x')
  mean = group_runs.mean_costs(pd.concat([table, other]))
  assert mean['updates'] == 2000 and mean['commit'] == 'abc1234; x'
  assert mean['seconds'] == {'collect': None, 'pretrain': 250, 'finetune': 1000}
  alone = group_runs.mean_costs(group_runs.run_table([run]))
  assert alone['seconds']['pretrain'] is None and not alone['shared']
