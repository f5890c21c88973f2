"""What the checks of transfer find in reports, and in the committed study."""

import json
import pathlib

import pytest

from tests import fake_runs
from tests.analysis.test_aggregate import gather
from vid2act_jax.analysis import __main__, report, transfer_findings
from vid2act_jax.analysis import model_sections as sections
from vid2act_jax.types import UserError

STUDY = (
  pathlib.Path(__file__).parents[2] / 'benchmarks' / 'results' / 'transfer'
)
TASK = 'dmc_quadruped_walk'
WALKER, CHEETAH, HOPPER = fake_runs.SOURCES


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


def found(folder, name):
  """(who, text) of a check's findings."""
  rows = transfer_findings.find(gather(folder))
  assert all(row['hint'] for row in rows)
  return [(row['run'], row['text']) for row in rows if row['name'] == name]


def add(folder, seeds=1, weights=(0.6, 0.3, 0.1), variant='vid2act', **changes):
  for seed in range(seeds):
    made = fake_runs.diagnosis(**changes)
    options = {'variant': variant, 'seed': seed, 'weights': weights}
    fake_runs.add(folder, diagnosis=made, **options)


def test_sound_runs_have_none(folder):
  fake_runs.study(folder, 3, diagnosis=fake_runs.diagnosis())
  assert transfer_findings.find(gather(folder)) == []


def test_distillation_that_is_negligible(folder):
  add(folder, 1, pull={'distillation': 0.3, 'others': 40.0})
  for seed, norm in ((1, 0.1), (2, 3.0)):
    made = fake_runs.diagnosis(pull={'distillation': norm, 'others': 40.0})
    fake_runs.add(folder, seed=seed, diagnosis=made)
  # Without distillation, by intention.
  add(folder, variant='no_distill', pull={'distillation': 0.0, 'others': 40.0})
  ((who, text),) = found(folder, transfer_findings.NEGLIGIBLE)
  assert who == f'vid2act, {TASK}'
  assert '0.25% to 0.75%' in text and '2 of 3 runs' in text
  assert 'below 1%' in text


def test_weights_that_contradict_the_teacher(folder):
  add(folder, 2, (0.3, 0.1, 0.6))
  ((who, text),) = found(folder, transfer_findings.CONTRADICTION)
  assert who == f'vid2act, {TASK}' and f'not with {WALKER} in 2 of 2' in text
  mean = {name: 0.006 + 0.001 * 10.5 * i for i, name in enumerate('xyz', 1)}
  assert f'is {mean["z"]:.3g}' in text and f'{mean["x"]:.3g}' in text


def test_weights_that_the_teacher_cannot_contradict(folder):
  curves = {WALKER: [0.0105], CHEETAH: [0.0104], HOPPER: [0.01]}
  prediction = {**fake_runs.diagnosis()['prediction'], 'teachers': curves}
  add(folder, prediction=prediction)  # All as good.
  worst = (0.1, 0.1, 0.8)
  add(folder, variant='uniform', weights=worst)  # Not learned.
  add(folder, variant='dreamerv2')
  assert not found(folder, transfer_findings.CONTRADICTION)


def test_surprise_counts_where_there_is_no_decoder(folder):
  prediction = {**fake_runs.diagnosis()['prediction'], 'teachers': None}
  add(folder, 1, (0.1, 0.7, 0.2), prediction=prediction)
  ((_, text),) = found(folder, transfer_findings.CONTRADICTION)
  assert "the teacher's KL of posterior to prior is 2, that of" in text
  no_kl = {'prediction': prediction, 'teacher_kl': None}
  add(folder, 1, (0.1, 0.7, 0.2), variant='no_distill', **no_kl)
  assert len(found(folder, transfer_findings.CONTRADICTION)) == 1


def with_actions(replayed, **changes):
  """The VAE's part: recorded actions uniform, the replayed ones as given."""
  made = fake_runs.diagnosis()['vae']
  made[CHEETAH].update(recorded=[[0.5] * 20], replayed=[replayed], **changes)
  return made


def test_replayed_actions_that_are_narrow(folder):
  narrow = [0] * 7 + [2.0] * 6 + [0] * 7
  add(folder, 2, vae=with_actions(narrow))
  ((who, text),) = found(folder, transfer_findings.NARROW)
  # Uniform over a width of 0.6: (0.6 / 2) ** 2 of the variance, but for bins.
  assert f'{CHEETAH}: 9% of the variance, 90% of the actions' in text
  assert who == f'vid2act, {TASK}' and WALKER not in text


def test_replayed_actions_that_leave_gaps(folder):
  ends = [5.0] + [0] * 18 + [5.0]
  add(folder, 1, vae=with_actions(ends, coverage=0.2))
  ((_, text),) = found(folder, transfer_findings.NARROW)
  assert '20% of the actions have a replayed one nearby' in text
  add(folder, variant='uniform', vae=with_actions(ends, coverage=0.0))
  assert len(found(folder, transfer_findings.NARROW)) == 2


def test_actions_of_older_diagnoses(folder):
  made = with_actions([0.5] * 20)
  for part in made.values():
    del part['coverage']
  add(folder, 1, vae=made)
  assert not found(folder, transfer_findings.NARROW)
  assert (
    'spread' in gather(folder)['vae'][TASK]['vid2act'][0]['sources'][CHEETAH]
  )


def test_spread_of_histograms():
  edges = [-1, 0, 1]
  part = {'edges': edges, 'recorded': [[0.5, 0.5]], 'replayed': [[1, 0]]}
  assert sections.spread(part) == 0
  part['replayed'] = [[0.25, 0.75]]
  assert sections.spread(part) == pytest.approx(0.75)
  part |= {'recorded': [[0, 1]]}
  assert sections.spread(part) == 1
  with pytest.raises(ValueError):
    sections.spread({**part, 'replayed': [[0, 0]]})


def test_transfer_below_the_baseline(folder):
  for seed in range(4):
    fake_runs.add(folder, seed=seed, level=300 + 10 * seed)
    fake_runs.add(folder, seed=seed, level=700 + 10 * seed, variant='dreamerv2')
    fake_runs.add(folder, seed=seed, level=900 + 10 * seed, variant='uniform')
    level = 550 if seed % 2 else 800
    fake_runs.add(folder, seed=seed, level=level, variant='no_replay')
  ((who, text),) = found(folder, transfer_findings.BELOW)
  assert who == f'vid2act, {TASK}'
  assert 'probability of improvement 0.00 [0.00, 0.00]' in text
  ((who, text),) = found(folder, transfer_findings.NO_EFFECT)
  assert who == TASK and 'no_replay 0.' in text and 'uniform' not in text


def test_other_baselines_and_single_seeds_are_not_compared(folder):
  fake_runs.add(folder, level=300)
  fake_runs.add(folder, level=700, variant='dreamerv2')
  assert transfer_findings.find(gather(folder)) == []
  for seed in (1, 2, 3):
    fake_runs.add(folder, seed=seed, level=300)
    fake_runs.add(folder, seed=seed, level=700, variant='dreamerv2')
  assert len(transfer_findings.find(gather(folder))) == 1
  assert transfer_findings.find(gather(folder, 'vid2act')) == []


def test_findings_of_the_committed_study(capsys):
  """By the public command, from the results that are committed."""
  assert __main__.main(['findings', str(STUDY)]) == 0
  out = capsys.readouterr().out
  for text in (
    'distillation is 0.22% to 0.28%',
    'dmc_pendulum_swingup has the largest weight (0.84;',
    'dmc_pendulum_swingup: 22% of the variance',
    'not distinguishable from dreamerv2',
    'try: config.learner.transfer.weights=evidence',
    '9 findings',
  ):
    assert text in out, text


def test_findings_of_runs_and_of_their_report(folder, tmp_path, capsys):
  guidance = {'shuffled': 0.01, 'across_states': 0.5}
  add(folder, 2, (0.1, 0.1, 0.8), guidance=guidance)
  assert __main__.main(['findings', str(folder)]) == 0
  of_runs = capsys.readouterr().out
  assert of_runs.count('guidance ignored: ') == 2
  assert 'contradict' in of_runs and '3 findings' in of_runs
  out = tmp_path / 'report'
  page = report.write_report([folder], out).read_text()
  assert 'what to try' in page and 'weights=evidence' in page
  assert 'The checks have 3 findings' in ' '.join(page.split())
  capsys.readouterr()
  assert __main__.main(['findings', str(out)]) == 0
  assert capsys.readouterr().out == of_runs


@pytest.mark.parametrize(
  'text', ['[]', '{', '{"findings": [3]}', '{"findings": [], "pull": {"a": 3}}']
)
def test_damaged_results(tmp_path, text):
  path = tmp_path / 'results.json'
  path.write_text(text)
  with pytest.raises(UserError, match='results.json: damaged'):
    report.read_findings(path)


def test_results_with_damaged_parts(tmp_path):
  results = json.loads((STUDY / 'results.json').read_text())
  for part in ('pull', 'vae', 'similarity', 'tasks'):
    path = tmp_path / f'{part}.json'
    path.write_text(json.dumps({**results, part: {'a': {'b': [None]}}}))
    with pytest.raises(UserError, match='damaged'):
      report.read_findings(path)
