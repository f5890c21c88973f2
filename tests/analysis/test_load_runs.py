"""What is loaded from run folders, sound or damaged."""

import numpy as np
import pytest

from tests import fake_runs
from vid2act_jax.analysis import load_runs


def test_runs_are_found_three_levels_deep_and_once(tmp_path):
  deep = tmp_path / 'study' / 'point' / 'run'
  fake_runs.write(deep, fake_runs.config(), fake_runs.rows())
  # Not an agent that collects a dataset, nor what lies in a run.
  fake_runs.write(tmp_path / 'sources' / 'agent', fake_runs.config())
  fake_runs.write(deep / 'teacher', fake_runs.config())
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'metadata.json').write_text('{}')
  fake_runs.write(tmp_path / 'data' / 'run', fake_runs.config())
  paths, problems = load_runs.find([tmp_path, deep, tmp_path / 'study'])
  assert paths == [deep] and problems == []
  _, problems = load_runs.find([tmp_path / 'absent', tmp_path / 'data'])
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
  run = load_runs.load(path)
  rows = run.metrics[run.metrics.key == 'step']
  assert len(rows) == len(good) + len(odd)
  assert (
    f'metrics.jsonl: {len(bad)} lines are no rows, left out' in run.problems
  )
  assert 'metrics.jsonl: 3 values are no numbers, left out' in run.problems
  values = run.series('eval/return')
  assert len(values) == 20 and np.isfinite(values).all()


@pytest.mark.parametrize(
  'config, word',
  [(None, 'no config.json'), ('{"a"', 'damaged'), ('[]', 'damaged')],
)
def test_configs_that_cannot_be_read(tmp_path, config, word):
  path = fake_runs.write(tmp_path / 'run', None, fake_runs.rows())
  if config is not None:
    (path / 'config.json').write_text(config)
  run = load_runs.load(path)
  assert run.task is None and any(word in x for x in run.problems)


def test_config_values_of_other_types_are_unknown(tmp_path):
  config = fake_runs.config(task=3, seed='x', sources='y', learner=4)
  run = load_runs.load(fake_runs.write(tmp_path / 'b', config))
  assert (run.task, run.seed, run.sources) == (None, None, [])
  assert 'config.json lacks its task and seed' in run.problems


def test_diagnoses_are_cleaned(tmp_path):
  diagnosis = {'a': [1, True, 'x\n', 1e300, None], 'b': {'\n': {'c': 2}}}
  diagnosis['deep'] = [[[[[[[[[[1]]]]]]]]]]
  path = fake_runs.write(tmp_path / 'a', fake_runs.config(), (), diagnosis)
  found = load_runs.load(path).diagnosis
  assert found['a'] == [1.0, None, 'x?', None, None]
  assert found['b'] == {'?': {'c': 2.0}} and '1' not in str(found['deep'])
