"""Scores, comparisons and other results of made-up runs."""

import pytest

from tests import fake_runs
from vid2act_jax.analysis import aggregate, load_runs, report


def gather(folder, baseline='dreamerv2'):
  paths, problems = load_runs.find([folder])
  runs = [load_runs.load(path) for path in paths]
  return aggregate.gather(runs, problems, baseline)


def _text(results):
  """The page without figures, as one line."""
  return ' '.join(report.render(results, {}, '').split())


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


def test_problems_are_listed(folder):
  fake_runs.study(folder, 2)
  fake_runs.add(folder, seed=2, commit='other', evaluate={'episodes': 3})
  fake_runs.add(folder, seed=3, env_steps=30_000)
  fake_runs.write(folder / 'teacher', fake_runs.config(), fake_runs.rows()[:1])
  fake_runs.write(folder / 'empty', fake_runs.config())
  fake_runs.write(folder / 'unknown', None, fake_runs.rows())
  problems = '\n'.join(gather(folder)['problems'])
  for text in (
      'dreamerv2: no seed 2, 3', 'their commit: abc1234 (5 runs), other',
      'teacher: no finetuning yet', 'unknown: not compared', 'no config.json',
      'unfinished: evaluated up to 30000 of 100000', 'left out of means',
  ):  # fmt: skip
    assert text in problems, text


def test_runs_that_only_made_a_teacher_are_not_named(folder):
  fake_runs.study(folder, 1)
  config = {**fake_runs.config(), 'stages': ['pretrain']}
  fake_runs.write(folder / 'teacher', config, fake_runs.rows()[:1])
  assert not any('teacher' in text for text in gather(folder)['problems'])


def test_errors_over_the_training(folder):
  fake_runs.study(folder, 2)
  result = gather(folder)['errors']['dmc_quadruped_walk']['vid2act']
  assert [one['seed'] for one in result['runs']] == [0, 1]
  first, last = result['mean'][0], result['mean'][-1]
  assert last == pytest.approx(0.02 / 6) and first > last
  assert first > result['halves'][0] > result['halves'][1] > last


def test_parts_of_diagnosed_runs(folder):
  """Of each run; labels without a diagnosis are listed as missing it."""
  for seed in range(2):
    fake_runs.add(folder, seed=seed, diagnosis=fake_runs.diagnosis())
  fake_runs.add(folder, variant='dreamerv2')
  found, task = gather(folder), 'dmc_quadruped_walk'
  for part in ('relation', 'pull', 'vae', 'guidance'):
    assert list(found[part][task]) == ['vid2act']
    assert [one['seed'] for one in found[part][task]['vid2act']] == [0, 1]
    assert part in found['undiagnosed'][task]['dreamerv2']
  one = found['pull'][task]['vid2act'][0]
  assert one['share'] == pytest.approx(1.2 / 40)
  one = found['relation'][task]['vid2act'][0]
  assert all(x['distance'] == 0.1 for x in one['sources'].values())


def test_scores_of_a_task(folder):
  fake_runs.study(folder)
  task = gather(folder)['tasks']['dmc_quadruped_walk']
  assert (task['metric'], task['scale'], task['horizon']) == (
    'return', 1000, 100_000,
  )  # fmt: skip
  ours = task['labels']['vid2act']
  assert list(task['labels']) == ['vid2act', 'dreamerv2']
  assert ours['seeds'] == [0, 1, 2] and ours['random'] == 40
  low, high = ours['final']['interval']
  assert 600 < low < ours['final']['iqm'] < high < 800
  assert ours['area']['iqm'] < ours['final']['iqm']
  better = ours['improvement']
  assert better['probability'] == 1 and better['verdict'] == 'undecided'
  assert better['least_chance'] == pytest.approx(0.1)
  assert len(ours['iqm']) == len(ours['low']) == len(task['grid'])


def test_means_end_where_the_shortest_run_does(folder):
  fake_runs.study(folder, 2)
  fake_runs.add(
    folder, seed=2, env_steps=60_000, finetune={'env_steps': 60_000}
  )
  results = gather(folder)
  assert results['tasks']['dmc_quadruped_walk']['horizon'] == 60_000
  assert any('end at 60000' in x for x in results['problems'])


def test_one_seed_has_no_interval_and_no_claim(folder):
  fake_runs.study(folder, 1)
  results = gather(folder)
  ours = results['tasks']['dmc_quadruped_walk']['labels']['vid2act']
  assert ours['final']['interval'] is None and ours['low'] is None
  assert ours['improvement']['verdict'] == 'undecided'
  text = _text(results)
  assert 'With one seed of each there are no intervals' in text
  assert 'ignificantly' not in text


def test_enough_runs_are_significant(folder):
  fake_runs.study(folder, 5)
  results = gather(folder)
  verdicts = results['tasks']['dmc_quadruped_walk']['labels']
  assert verdicts['vid2act']['improvement']['verdict'] == 'better'
  text = _text(results)
  assert 'Significantly better than dreamerv2: vid2act' in text
  turned = gather(folder, 'vid2act')
  verdicts = turned['tasks']['dmc_quadruped_walk']['labels']
  assert verdicts['dreamerv2']['improvement']['verdict'] == 'worse'


def test_too_few_runs_are_named(folder):
  fake_runs.study(folder, 3)
  text = _text(gather(folder))
  assert 'Too few runs for any significant difference' in text and '10%' in text


def test_tasks_are_averaged_only_by_known_scales(folder):
  for task in ('dmc_a_b', 'dmc_c_d'):
    fake_runs.study(folder, task=task)
  fake_runs.add(folder, task='dmc_a_b', variant='uniform')
  fake_runs.study(folder, task='gym_Pendulum-v1')
  overall = gather(folder)['overall']
  assert overall['tasks'] == ['dmc_a_b', 'dmc_c_d']
  assert list(overall['labels']) == ['vid2act', 'dreamerv2']
  assert overall['left_out'] == ['uniform']
  ours = overall['labels']['vid2act']
  assert 0.6 < ours['final']['iqm'] < 0.8
  # Six against six runs in two tasks are significant.
  assert ours['improvement']['verdict'] == 'better'


def test_success_counts_on_meta_world(folder):
  for task in ('metaworld_reach', 'dmc_a_b'):
    success = {'success': 0.8} if task == 'metaworld_reach' else {}
    fake_runs.study(folder, task=task, **success)
  results = gather(folder)
  task = results['tasks']['metaworld_reach']
  assert (task['metric'], task['scale']) == ('success', 1)
  assert task['labels']['vid2act']['random'] is None
  assert len(results['overall']['tasks']) == 2
  fake_runs.add(folder, task='metaworld_reach', seed=7)
  results = gather(folder)
  assert results['tasks']['metaworld_reach']['scale'] is None
  assert any('log no success' in x for x in results['problems'])


def test_published_curves_match_whole_names_up_to_twice_as_far():
  found = aggregate.published_curves('dmc_quadruped_walk', 'return', 100_000)
  assert {x['method'] for x in found} >= {'DreamerV2', 'APV (Locomotion)'}
  for curve in found:
    assert max(curve['env_steps']) <= 200_000 and curve['source']
    assert len(curve['env_steps']) == len(curve['mean']) == len(curve['std'])
  assert not aggregate.published_curves(
    'dmc_quadruped_walk@mass=2', 'return', 1e6
  )
  assert not aggregate.published_curves('dmc_quadruped_walk', 'success', 1e6)
  assert not aggregate.published_curves('dmc_quadruped_walk', 'return', 100)
