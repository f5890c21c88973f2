"""Examples of docs/python-api.md with a run, and the README's experiments."""

import pathlib
import re

import pytest

from experiments import debug, run

ROOT = pathlib.Path(__file__).parent.parent
API = (ROOT / 'docs' / 'python-api.md').read_text()
EXAMPLE, LOOPS = re.findall(r'```python\n(.*?)```', API, re.S)[:2]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('readme') / 'run'
  config = debug.get_config()
  config.finetune.env_steps = 44
  config.evaluate.every = 0
  run.run(config.lock(), workdir)
  return workdir


@pytest.mark.slow
def test_loading_a_run_and_acting(finished):
  assert EXAMPLE.count('runs/quickstart-0') == 1
  names = {}
  exec(EXAMPLE.replace('runs/quickstart-0', str(finished)), names)
  assert names['action'].shape == (1, 2)
  assert abs(names['action']).max() <= 1


@pytest.mark.slow
def test_acting_in_other_loops(finished):
  assert (finished / 'environment.json').exists()
  names = {}
  exec(LOOPS.replace('runs/quickstart-0', str(finished)), names)
  assert names['truncated'].shape == (2,) and names['ended']


def test_every_experiment_is_listed():
  text = (ROOT / 'README.md').read_text()
  for path in (ROOT / 'experiments').glob('*.py'):
    if path.stem not in ('__init__', 'run', 'base'):
      assert f'`{path.name}`' in text, path.name
