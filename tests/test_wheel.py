"""The wheel: its contents, and what works from it in an empty folder."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
API = (ROOT / 'docs' / 'python-api.md').read_text()
EXAMPLE = re.findall(r'```python\n(.*?)```', API, re.S)[2]
IMPORT_ALL = """
import importlib, pkgutil, sys
import vid2act_jax
for module in pkgutil.walk_packages(vid2act_jax.__path__, 'vid2act_jax.'):
  if not module.name.endswith('__main__'):
    importlib.import_module(module.name)
assert not {'experiments', 'tests', 'benchmarks'} & set(sys.modules)
"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """A folder with the wheel unpacked, as pip would install it."""
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  source.mkdir()
  # Built from a copy: setuptools leaves a build folder behind.
  for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name in ('vid2act_jax', 'experiments', 'tests', 'benchmarks'):
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  command += ['--no-build-isolation', '--wheel-dir', folder, source]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (wheel,) = folder.glob('*.whl')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / 'site')
  return folder / 'site'


def run(site, folder, *arguments):
  """Runs Python in a folder, with the wheel in front of everything else."""
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(site)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_it_holds_the_package_alone(site):
  names = {path.name for path in site.iterdir()}
  (info,) = (name for name in names if name.endswith('.dist-info'))
  assert names == {'vid2act_jax', info}
  metadata = (site / info / 'METADATA').read_text()
  assert re.search(r'(?m)^License-Expression: Apache-2.0$', metadata)
  files = {
    path.relative_to(ROOT)
    for path in (ROOT / 'vid2act_jax').rglob('*')
    if path.is_file() and path.suffix != '.pyc'
  }
  assert {path for path in files if not (site / path).is_file()} == set()


def test_every_module_imports(site, tmp_path):
  run(site, tmp_path, '-c', IMPORT_ALL)


def test_the_default_config(site, tmp_path):
  script = 'from vid2act_jax import config; print(config.__file__)\n'
  script += 'print(config.get_config().learner.student.deter)'
  assert run(site, tmp_path, '-c', script).split() == [
    str(site / 'vid2act_jax' / 'config.py'),
    '200',
  ]


@pytest.mark.slow
def test_the_training_example(site, tmp_path):
  checks = """
assert teacher_state.step == 1 and state.step == 1
assert metrics['similarity'].shape == (2,)
print(learner.__file__)
"""
  where = run(site, tmp_path, '-c', EXAMPLE + checks).strip()
  assert where == str(site / 'vid2act_jax' / 'learner' / '__init__.py')


@pytest.mark.parametrize('command', ['analysis', 'data', 'doctor'])
def test_commands(site, tmp_path, command):
  out = run(site, tmp_path, '-m', f'vid2act_jax.{command}', '--help')
  assert out.startswith('usage:')
