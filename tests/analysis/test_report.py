"""The report: what it reads, compares, says and writes, on made-up runs."""

import html.parser
import json

import pytest
from PIL import Image

from tests import fake_runs
from vid2act_jax.analysis import (
  __main__,
  costs,
  evidence,
  figures_inside,
  inside,
  pictures,
  published,
  reading,
  report,
  words,
)
from vid2act_jax.types import UserError


def _gather(folder, baseline='dreamerv2'):
  paths, problems = reading.find([folder])
  runs = [reading.read(path) for path in paths]
  return evidence.gather(runs, problems, baseline)


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


# What is told.


def test_everything_odd_is_told(folder):
  fake_runs.study(folder, 2)
  fake_runs.add(folder, seed=2, commit='other', evaluate={'episodes': 3})
  fake_runs.add(folder, seed=3, env_steps=30_000)
  fake_runs.write(folder / 'teacher', fake_runs.config(), fake_runs.rows()[:1])
  fake_runs.write(folder / 'empty', fake_runs.config())
  fake_runs.write(folder / 'unknown', None, fake_runs.rows())
  told = '\n'.join(_gather(folder)['problems'])
  for text in (
      'dreamerv2: no seed 2, 3', 'their commit: abc1234 (5 runs), other',
      'teacher: no finetuning yet', 'unknown: not compared', 'no config.json',
      'unfinished: evaluated up to 30000 of 100000', 'left out of means',
  ):  # fmt: skip
    assert text in told, text


def test_teachers_of_others_are_no_part_of_it(folder):
  fake_runs.study(folder, 1)
  config = {**fake_runs.config(), 'stages': ['pretrain']}
  fake_runs.write(folder / 'teacher', config, fake_runs.rows()[:1])
  assert not any('teacher' in text for text in _gather(folder)['problems'])


def test_errors_over_the_training(folder):
  fake_runs.study(folder, 2)
  told = _gather(folder)['errors']['dmc_quadruped_walk']['vid2act']
  assert [one['seed'] for one in told['runs']] == [0, 1]
  first, last = told['mean'][0], told['mean'][-1]
  assert last == pytest.approx(0.02 / 6) and first > last
  assert first > told['halves'][0] > told['halves'][1] > last


def test_what_diagnosed_runs_tell(folder):
  """Of each of them by itself; those without are named as missing it."""
  for seed in range(2):
    fake_runs.add(folder, seed=seed, diagnosis=fake_runs.diagnosis())
  fake_runs.add(folder, variant='dreamerv2')
  found, task = _gather(folder), 'dmc_quadruped_walk'
  for part in ('relation', 'pull', 'vae', 'guidance'):
    assert list(found[part][task]) == ['vid2act']
    assert [one['seed'] for one in found[part][task]['vid2act']] == [0, 1]
    assert part in found['undiagnosed'][task]['dreamerv2']
  one = found['pull'][task]['vid2act'][0]
  assert one['share'] == pytest.approx(0.3 / 40)
  one = found['relation'][task]['vid2act'][0]
  assert all(told['distance'] == 0.1 for told in one['sources'].values())


# Scores.


def test_scores_of_a_task(folder):
  fake_runs.study(folder)
  task = _gather(folder)['tasks']['dmc_quadruped_walk']
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
  results = _gather(folder)
  assert results['tasks']['dmc_quadruped_walk']['horizon'] == 60_000
  assert any('end at 60000' in x for x in results['problems'])


def test_one_seed_has_no_interval_and_no_claim(folder):
  fake_runs.study(folder, 1)
  results = _gather(folder)
  ours = results['tasks']['dmc_quadruped_walk']['labels']['vid2act']
  assert ours['final']['interval'] is None and ours['low'] is None
  assert ours['improvement']['verdict'] == 'undecided'
  text = ' '.join(words.lead(results))
  assert 'With one seed of each there are no intervals' in text
  assert 'by more than chance' not in text


def test_enough_runs_bear_a_claim(folder):
  fake_runs.study(folder, 5)
  results = _gather(folder)
  verdicts = results['tasks']['dmc_quadruped_walk']['labels']
  assert verdicts['vid2act']['improvement']['verdict'] == 'better'
  text = ' '.join(words.lead(results))
  assert 'Better than dreamerv2, by more than chance explains: vid2act' in text
  turned = _gather(folder, 'vid2act')
  verdicts = turned['tasks']['dmc_quadruped_walk']['labels']
  assert verdicts['dreamerv2']['improvement']['verdict'] == 'worse'


def test_too_few_runs_are_said_to_be(folder):
  fake_runs.study(folder, 3)
  text = ' '.join(words.lead(_gather(folder)))
  assert 'Too few runs to tell any difference' in text and '10%' in text


def test_tasks_are_averaged_only_by_known_scales(folder):
  for task in ('dmc_a_b', 'dmc_c_d'):
    fake_runs.study(folder, task=task)
  fake_runs.add(folder, task='dmc_a_b', variant='uniform')
  fake_runs.study(folder, task='gym_Pendulum-v1')
  overall = _gather(folder)['overall']
  assert overall['tasks'] == ['dmc_a_b', 'dmc_c_d']
  assert list(overall['labels']) == ['vid2act', 'dreamerv2']
  assert overall['left_out'] == ['uniform']
  ours = overall['labels']['vid2act']
  assert 0.6 < ours['final']['iqm'] < 0.8
  # Six against six runs in two tasks bear a claim.
  assert ours['improvement']['verdict'] == 'better'


def test_success_counts_on_meta_world(folder):
  for task in ('metaworld_reach', 'dmc_a_b'):
    success = {'success': 0.8} if task == 'metaworld_reach' else {}
    fake_runs.study(folder, task=task, **success)
  results = _gather(folder)
  task = results['tasks']['metaworld_reach']
  assert (task['metric'], task['scale']) == ('success', 1)
  assert task['labels']['vid2act']['random'] is None
  assert len(results['overall']['tasks']) == 2
  fake_runs.add(folder, task='metaworld_reach', seed=7)
  results = _gather(folder)
  assert results['tasks']['metaworld_reach']['scale'] is None
  assert any('tell no success' in x for x in results['problems'])


def test_published_curves_match_whole_names_up_to_twice_as_far():
  found = published.matching('dmc_quadruped_walk', 'return', 100_000)
  assert {x['method'] for x in found} >= {'DreamerV2', 'APV (Locomotion)'}
  for curve in found:
    assert max(curve['env_steps']) <= 200_000 and curve['source']
    assert len(curve['env_steps']) == len(curve['mean']) == len(curve['std'])
  assert not published.matching('dmc_quadruped_walk@mass=2', 'return', 1e6)
  assert not published.matching('dmc_quadruped_walk', 'success', 1e6)
  assert not published.matching('dmc_quadruped_walk', 'return', 100)


# Costs.


def test_costs(folder):
  teacher = fake_runs.write(
    folder / 'teacher', fake_runs.config(), fake_runs.rows()[:1]
  )
  path = fake_runs.add(folder, teacher_from=str(teacher))
  run = reading.read(path)
  run.metrics = [r for r in run.metrics if r['stage'] == 'finetune']
  run.seconds.pop('pretrain')
  run.metrics.append({'stage': 'finetune', 'step': 1.0, 'train/peak_gb': 2.5})
  cost = costs.of_run(run, {teacher.resolve(): reading.read(teacher)})
  assert cost['seconds'] == {'collect': None, 'pretrain': 250, 'finetune': 1000}
  assert cost['shared'] and cost['env_steps_per_s'] == 100
  assert cost['updates'] == 2000 and cost['peak_gb'] == 2.5
  assert cost['seconds_per_update'] == pytest.approx(0.5)
  mean = costs.of_group([cost, {**cost, 'updates': None, 'commit': 'x'}])
  assert mean['updates'] == 2000 and mean['commit'] == 'abc1234; x'
  alone = costs.of_run(run, {})
  assert alone['seconds']['pretrain'] is None and not alone['shared']


# The page.


class _Checker(html.parser.HTMLParser):
  """Counts what a page has, and that its elements are closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.images, self.text, self.tags = [], [], [], set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    if tag == 'img':
      self.images.append(dict(attrs))
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def _check(page):
  checker = _Checker()
  checker.feed(page.read_text())
  assert not checker.open and 'script' not in checker.tags
  for image in checker.images:
    assert image['src'].startswith('data:image/png;base64,') and image['alt']
  return checker


def _no_constant(text):
  raise AssertionError(f'{text} is not JSON')


def test_whole_report(folder, tmp_path, capsys):
  sources = ('dmc_walker_walk', 'dmc_walker_walk@copy=1', 'probe_noise')
  diagnosis = fake_runs.diagnosis(sources)
  for task in ('dmc_quadruped_walk', 'dmc_quadruped_run'):
    for seed in range(2):
      fake_runs.add(
          folder, task, seed=seed, sources=sources, diagnosis=diagnosis,
          weights=(0.4, 0.5, 0.1),
      )  # fmt: skip
      fake_runs.add(folder, task, 'dreamerv2', seed, level=300)
  out = tmp_path / 'report'
  page = report.write_report([folder], out, 'A <b> title')
  assert capsys.readouterr().err == ''
  checker = _check(page)
  text = ' '.join(checker.text)
  for part in (
      'A <b> title', 'Over 2 tasks', 'other protocol', 'as expected',
      'Nothing is missing or odd', 'found nothing wrong', 'abc1234',
      'shuffled / across states', 'error / variance', 'distillation / others',
      'Missing (python -m vid2act_jax.analysis diagnose RUN makes it) for',
      'pure noise, as expected in 4 of 4 cases', 'last context frame repeated',
  ):  # fmt: skip
    assert part in text, part
  drawn = sorted(out.glob('*.png'))
  assert len(drawn) == len(checker.images) == 16
  for path in drawn:
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
      assert image.width > 1000
  results = json.loads(
    (out / 'results.json').read_text(), parse_constant=_no_constant
  )
  assert results['tasks']['dmc_quadruped_run']['labels']['vid2act']['iqm']
  assert results['predictions'] and results['vae'] and results['costs']


def test_report_of_strangers_runs(folder, tmp_path, capsys):
  name = '<script>alert(1)</script>$x^$\ud800\x00/../' + 'n' * 300
  config = fake_runs.config(name, '"><img src=x>', sources=[name, 'b'])
  rows = [
    {k.replace('dmc_walker_walk', name): v for k, v in row.items()}
    for row in fake_runs.rows()
  ]
  diagnosis = fake_runs.diagnosis([name])
  path = fake_runs.write(folder / 'a', config, rows, diagnosis)
  (path / 'starts.jsonl').write_text('{"commit": ["<"]}\n[]\nx\n')
  page = report.write_report([folder], tmp_path / 'out')
  checker = _check(page)
  assert '<script>' in ' '.join(checker.text)
  assert {path.parent for path in (tmp_path / 'out').rglob('*')} == {
    tmp_path / 'out'
  }
  assert 'no runs of the baseline' in capsys.readouterr().err


def test_notes_go_to_stderr_and_nothing_usable_fails(folder, tmp_path, capsys):
  fake_runs.write(folder / 'a', None)
  arguments = ['report', str(folder), '--out', str(tmp_path / 'out')]
  assert __main__.main(arguments) == 1
  err = capsys.readouterr().err.splitlines()
  assert err[-1].startswith('error: no run with evaluations in')
  assert any(line.startswith('note: ') for line in err[:-1])
  assert not (tmp_path / 'out').exists()


def test_command_line(folder, tmp_path, capsys):
  fake_runs.study(folder, 1)
  out = tmp_path / 'deep' / 'out'
  command = ['report', str(folder), '--out', str(out), '--baseline', 'vid2act']
  assert __main__.main(command) == 0
  assert capsys.readouterr().out.strip() == str(out / 'index.html')
  assert json.loads((out / 'results.json').read_text())['baseline'] == 'vid2act'
  (tmp_path / 'file').write_text('')
  command[3] = str(tmp_path / 'file')
  assert __main__.main(command) == 1
  assert __main__.main(['summary', str(tmp_path / 'absent')]) == 1
  assert 'absent' in capsys.readouterr().err


def test_only_what_fits_is_drawn(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(figures_inside, 'MOST_PANELS', 2)
  for index in range(4):
    fake_runs.add(folder, variant=f'v{index}')
  results = _gather(folder)
  assert len(results['similarity']['dmc_quadruped_walk']) == 4
  made = pictures.Pictures(tmp_path)
  text = ''.join(inside.weights(results, made))
  assert 'The first 2 of 4 kinds' in text and len(made.paths) == 2
  # A name that is taken gets a number.
  again = inside.weights(results, made)
  assert len({path.name for path in made.paths}) == 4 and again


def test_a_report_of_nothing_says_so(tmp_path):
  with pytest.raises(UserError, match='no run with evaluations'):
    report.write_report([tmp_path / 'absent'], tmp_path / 'out')
