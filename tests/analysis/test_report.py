"""The report: what it writes about made-up runs."""

import html.parser
import json

import pytest
from PIL import Image

from tests import fake_runs
from tests.analysis.test_aggregate import gather
from vid2act_jax.analysis import __main__, plots, report
from vid2act_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'runs'
  made.mkdir()
  return made


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
          weights=(0.5, 0.4, 0.1),
      )  # fmt: skip
      fake_runs.add(folder, task, 'dreamerv2', seed, level=300)
  out = tmp_path / 'report'
  page = report.write_report([folder], out, 'A <b> title')
  assert capsys.readouterr().err == ''
  checker = _check(page)
  text = ' '.join(checker.text)
  for part in (
      'A <b> title', 'Over 2 tasks', 'other protocol', 'as expected',
      'Nothing is missing or wrong', 'found nothing wrong', 'abc1234',
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


def test_report_of_untrusted_runs(folder, tmp_path, capsys):
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


def test_warnings_go_to_stderr_and_nothing_usable_fails(
  folder, tmp_path, capsys
):
  fake_runs.write(folder / 'a', None)
  arguments = ['report', str(folder), '--out', str(tmp_path / 'out')]
  assert __main__.main(arguments) == 1
  err = capsys.readouterr().err.splitlines()
  assert err[-1].startswith('error: no run with evaluations in')
  assert any(line.startswith('warning: ') for line in err[:-1])
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
  monkeypatch.setattr(plots, 'MAX_PANELS', 2)
  for index in range(4):
    fake_runs.add(folder, variant=f'v{index}')
  results = gather(folder)
  labels = results['similarity']['dmc_quadruped_walk']
  assert len(labels) == 4
  panels = [
    x for x in plots.weights(labels, '').axes if x.get_title(loc='left')
  ]
  assert [x.get_title(loc='left') for x in panels] == ['v0', 'v1']
  figures = {('similarity', 'dmc_quadruped_walk'): 'data:'}
  assert 'The first 2 of 4 kinds' in report.render(results, figures, '')


def test_figures_whose_names_differ_in_other_letters_alone(folder, tmp_path):
  for task in ('dmc_a/b', 'dmc_a?b'):
    fake_runs.add(folder, task)
  figures = report.draw(gather(folder), tmp_path / 'runs')
  assert len(figures) == len(list(folder.glob('*.png'))) == 9
  assert (folder / 'learning-dmc_a_b.png').exists()
  assert (folder / 'learning-dmc_a_b-2.png').exists()


def test_a_label_whose_runs_are_all_left_out_is_still_drawn(folder, tmp_path):
  fake_runs.study(folder, 1)
  fake_runs.add(folder, variant='short', env_steps=20_000)
  page = report.write_report([folder], tmp_path / 'out').read_text()
  assert 'left out of means' in page and 'short' in page
  results = json.loads((tmp_path / 'out' / 'results.json').read_text())
  task = 'dmc_quadruped_walk'
  assert 'short' in results['similarity'][task]
  assert 'short' not in results['tasks'][task]['labels']


def test_weights_of_runs_without_a_common_step(folder, tmp_path):
  for seed in range(2):
    rows = [
      {k: v for k, v in row.items() if 'similarity' not in k}
      for row in fake_runs.rows(seed=seed)
    ]
    step = {'stage': 'finetune', 'step': 100 + seed, 'time': 1.0}
    rows.append(step | {'similarity/a': 0.6, 'similarity/b': 0.4})
    fake_runs.write(folder / str(seed), fake_runs.config(seed=seed), rows)
  report.write_report([folder], tmp_path / 'out')
  assert (tmp_path / 'out' / 'similarity-dmc_quadruped_walk.png').exists()


def test_a_report_of_nothing_says_so(tmp_path):
  with pytest.raises(UserError, match='no run with evaluations'):
    report.write_report([tmp_path / 'absent'], tmp_path / 'out')
