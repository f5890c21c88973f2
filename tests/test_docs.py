"""Runs docs/your-own-task.md as written; checks the links of all pages."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from vid2act_jax.data import dataset
from vid2act_jax.loops.logger import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  *ROOT.glob('*.md'),
  *(ROOT / 'docs').glob('*.md'),
  *(ROOT / 'examples').glob('*.ipynb'),
  ROOT / 'benchmarks' / 'README.md',
  ROOT / 'tests' / 'golden' / 'README.md',
]
LINK = re.compile(r'\]\(([^)\s]+)\)')
GUIDE = (ROOT / 'docs' / 'your-own-task.md').read_text()
# Overrides that shorten the run.
TINY = {
  'learner.teacher.depth': 2,
  'learner.student.depth': 2,
  'pretrain.steps': 4,
  'pretrain.video_every': 0,
  'pretrain.log_every': 2,
  'finetune.env_steps': 460,
  'finetune.prefill': 200,
  'finetune.first_updates': 4,
  'finetune.update_every': 10,
  'finetune.video_every': 0,
  'finetune.log_every': 4,
  'evaluate.every': 0,
  'evaluate.episodes': 1,
}


@pytest.mark.slow
def test_the_guide(tmp_path):
  files = re.findall(r'```python (\S+)\n(.*?)```', GUIDE, re.S)
  assert [name for name, _ in files] == ['my_tasks.py', 'pendulum.py']
  for name, text in files:
    (tmp_path / name).write_text(text)
  blocks = re.findall(r'```bash\n(.*?)```', GUIDE, re.S)
  commands = [line for block in blocks for line in block.splitlines()]
  assert len(commands) == 7
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  for command in commands:
    program, *arguments = command.split()
    assert program == 'python'
    if 'experiments.run' in command:
      arguments += [f'--config.{key}={value}' for key, value in TINY.items()]
    done = subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
  metadata = dataset.read_metadata(tmp_path / 'data' / 'imported_pendulum')
  assert metadata['episodes'] == 6
  rows = read_metrics(tmp_path / 'runs' / 'pendulum-0', 'finetune')
  assert any('similarity/imported_pendulum' in row for row in rows)
  assert any('eval/return' in row for row in rows)


def anchors(page):
  """GitHub's anchors of a page's headings."""
  titles = re.findall(r'^#+ (.+)$', page.read_text(), re.M)
  kept = (re.sub(r'[^\w\- ]', '', title.lower()) for title in titles)
  return {title.replace(' ', '-') for title in kept}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links(page):
  for link in LINK.findall(page.read_text()):
    if link.startswith('http'):
      continue
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors(target), link


def test_every_page_is_in_the_index():
  index = (ROOT / 'docs' / 'README.md').read_text()
  for page in (ROOT / 'docs').glob('*.md'):
    assert page.name == 'README.md' or f']({page.name})' in index, page.name
