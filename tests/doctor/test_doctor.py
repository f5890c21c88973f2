"""Tests of the doctor, on this machine and on ones with something wrong."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from vid2act_jax.doctor import __main__ as doctor
from vid2act_jax.doctor import checks, environments, machine, results
from vid2act_jax.envs import registry

ROOT = pathlib.Path(__file__).parents[2]
CRASH = 'kill -ABRT $$'
HANG = 'echo {; exec sleep 60'


def run(*names):
  """Results of checks by their names; the checks run in this process."""
  return {x.name: x for name in names for x in checks.find(name, '.')}


def change(monkeypatch, name, **fields):
  """Replaces fields of a check."""
  changed = checks.CHECKS[name]._replace(**fields)
  monkeypatch.setitem(checks.CHECKS, name, changed)


def replace_processes(monkeypatch, tmp_path, code):
  """Replaces the processes of all checks by a shell script."""
  script = tmp_path / 'python'
  script.write_text(f'#!/usr/bin/env bash\n{code}\n')
  script.chmod(0o755)
  monkeypatch.setattr(checks.sys, 'executable', str(script))


@pytest.fixture(scope='module')
def healthy():
  """The slow checks of this machine, once: (exit status, their results)."""
  done = subprocess.run(
    [sys.executable, '-m', 'vid2act_jax.doctor', '--json', '--only']
    + ['devices', 'gl', 'suites', 'update'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  output = json.loads(done.stdout)
  assert done.stderr == '' and output['ok'] == (done.returncode == 0)
  return done.returncode, {row['name']: row for row in output['checks']}


def test_this_machine_has_no_problem(healthy):
  status, found = healthy
  assert status == 0, found
  for row in found.values():
    assert set(row) == {'name', 'status', 'text', 'remedy'}
  for name in ('devices', 'gl', 'update', 'update/conv'):
    assert found[name]['status'] == 'ok'
  for name in checks.CHECKS:
    if name.startswith('suites/'):
      assert found[name]['status'] == 'ok'


def test_texts_of_results_without_problems(healthy):
  _, found = healthy
  chosen = found['gl']['text'].split()[-1]
  rate = float(found[f'gl/{chosen}']['text'].split()[0])
  assert rate > 1 and 'frames/s' in found[f'gl/{chosen}']['text']
  assert float(found['update']['text'].split()[0]) > 0
  assert float(found['update/conv']['text'].split()[-1]) < 1e-4


def test_quick_checks_as_text(tmp_path, capsys):
  quick = ['packages', 'memory', 'allocator', 'disk']
  status = doctor.main(['--folder', str(tmp_path), '--only', *quick])
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1].endswith('0 problem') and status == 0
  heads = [line for line in lines[:-2] if not line.startswith(' ')]
  columns = {line.index(line.split()[1]) for line in heads}
  assert len(columns) == 1
  names = [line.split()[1] for line in heads]
  assert names[:2] == ['python', 'packages']
  assert names[-6:-4] == ['disk', 'disk/write']
  assert names[-4:] == [
    f'disk/{x}' for x in ('locks', 'fsync', 'links', 'mmap')
  ]
  assert not list(tmp_path.iterdir())


def test_a_problem_makes_the_status_1(capsys, monkeypatch):
  monkeypatch.setattr(checks, 'run', checks.find)
  monkeypatch.setattr(jax, 'local_devices', lambda: 1 / 0)
  assert doctor.main(['--json', '--only', 'devices']) == 1
  output = json.loads(capsys.readouterr().out)
  assert output['ok'] is False
  [row] = output['checks']
  assert row['status'] == 'problem' and 'division' in row['text']
  assert 'JAX_PLATFORMS' in row['remedy']


def test_a_note_leaves_the_status_0(capsys, monkeypatch):
  monkeypatch.setattr(checks, 'run', checks.find)
  monkeypatch.setattr(machine, 'accelerator_files', dict)
  monkeypatch.setattr(machine.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  monkeypatch.setenv('GLIBC_TUNABLES', '')
  assert doctor.main(['--only', 'allocator']) == 0
  assert '-> export GLIBC_TUNABLES=' in capsys.readouterr().out


@pytest.mark.parametrize(
  'arguments', [['--only', 'nothing'], ['--only'], ['x']]
)
def test_wrong_usage_is_status_2(arguments, capsys):
  with pytest.raises(SystemExit) as caught:
    doctor.main(arguments)
  assert caught.value.code == 2
  assert 'usage' in capsys.readouterr().err


def test_list_names_all_checks(capsys):
  assert doctor.main(['--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == [
    'packages', 'variables', 'devices', 'memory', 'allocator', 'disk', 'gl',
    'suites', 'update',
  ]  # fmt: skip
  assert all(len(line.split()) > 3 for line in lines)


def test_a_check_that_raises_ends_only_itself(capsys, monkeypatch):
  def half(_):
    yield results.ok('half', 'so far')
    raise RuntimeError('a first line\nand a second')

  def missing(_):
    raise ModuleNotFoundError("No module named 'mujoco'")
    yield

  whole = lambda _: [results.ok('whole', 'fine')]
  table = {'half': half, 'missing': missing, 'whole': whole}
  table = {name: checks.Check(find) for name, find in table.items()}
  monkeypatch.setattr(checks, 'CHECKS', table)
  monkeypatch.setattr(checks, 'run', checks.find)
  assert doctor.main(['--json']) == 1
  found = json.loads(capsys.readouterr().out)['checks']
  status = [(row['name'], row['status']) for row in found]
  assert status == [
    ('half', 'ok'), ('half', 'problem'), ('missing', 'problem'),
    ('whole', 'ok'),
  ]  # fmt: skip
  assert found[1]['text'] == 'RuntimeError: a first line'
  assert '--only half' in found[1]['remedy']
  assert 'mujoco' in found[2]['text'] and 'pip' in found[2]['remedy']


def test_results_have_a_fix_exactly_if_they_need_one():
  with pytest.raises(ValueError, match='note'):
    results.note('a', 'text')
  with pytest.raises(ValueError, match='ok'):
    results.ok('a', 'text', 'do this')
  with pytest.raises(ValueError, match='unknown'):
    results.CheckResult('bad', 'a', 'text', 'do this')
  fix = 'x ' * 100 + 'end'
  text = str(results.note('a', 'word ' * 50, fix))
  assert f'-> {fix}' in text
  assert all(len(x) <= 80 for x in text.splitlines() if '->' not in x)


def test_without_mujoco_it_runs(tmp_path):
  """Nor jax: nothing but the standard library is needed to begin."""
  for name in ('jax', 'flax', 'numpy', 'mujoco', 'packaging'):
    text = f'raise ModuleNotFoundError("No module named {name!r}")'
    (tmp_path / f'{name}.py').write_text(text)
  code = (
    f'import os, sys\nsys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n'
    'os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])\n'
    'from vid2act_jax.doctor.__main__ import main\n'
    'names = ["packages", "devices", "memory", "disk", "suites", "update"]\n'
    'sys.exit(main(["--json", "--only", *names]))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
  )
  assert done.returncode == 1 and done.stderr == ''
  found = {x['name']: x for x in json.loads(done.stdout)['checks']}
  assert found['packages']['status'] == 'problem'
  assert 'packaging' in found['packages']['text']
  assert found['disk/write']['status'] == 'ok'
  for name in ('devices', 'suites/dmc', 'update'):
    assert found[name]['status'] == 'problem'
    assert found[name]['text'].startswith('ModuleNotFoundError: No module')


def test_devices_and_their_memory(monkeypatch):
  memory = lambda: {'bytes_limit': 60e9}
  card = types.SimpleNamespace(device_kind='Card', memory_stats=memory)
  for name, value in (
    ('local_devices', [card]),
    ('default_backend', 'gpu'),
    ('device_count', 8),
    ('process_count', 2),
  ):
    monkeypatch.setattr(jax, name, lambda value=value: value)
  row = run('devices')['devices']
  assert (
    row.text == 'gpu: 8 x Card, JAX may take 60.0 GB of each, in 2 processes'
  )


@pytest.mark.parametrize('kind,extra', [('nvidia', 'cuda'), ('tpu', 'tpu')])
def test_an_accelerator_that_jax_does_not_see(monkeypatch, kind, extra):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(machine, 'accelerator_files', lambda: {kind: '/dev/it'})
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  row = run('devices')[f'devices/{kind}']
  assert row.status == 'note' and '/dev/it' in row.text
  assert f"pip install -e '.[{extra}]'" in row.fix
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  fix = run('devices')[f'devices/{kind}'].fix
  assert fix.startswith('unset JAX_PLATFORMS')


GL_BACKENDS = ('egl', 'osmesa', 'glfw')


def test_gl_backends_that_crash(monkeypatch, tmp_path):
  replace_processes(monkeypatch, tmp_path, CRASH)
  for backend in GL_BACKENDS:
    [row] = checks.run(f'gl/{backend}', '.')
    assert row.name == f'gl/{backend}' and row.status == 'note'
    assert 'SIGABRT' in row.text
    assert row.fix.startswith('needed if no other one works: ')
  [row] = checks.run('gl', '.')
  assert row.status == 'problem' and 'apt-get' in row.fix
  assert 'unset MUJOCO_GL' in row.fix


def test_gl_backends_that_hang(monkeypatch, tmp_path):
  monkeypatch.delenv('DISPLAY', raising=False)
  assert 'no display' in run('gl/glfw')['gl/glfw'].text
  replace_processes(monkeypatch, tmp_path, HANG)
  change(monkeypatch, 'gl/egl', limit=0.5)
  change(monkeypatch, 'gl', limit=0.5)
  [row] = checks.run('gl/egl', '.')
  assert row.text == 'no answer within 0.5 s'
  [row] = checks.run('gl', '.')
  assert row.status == 'problem'


def test_software_rendering_on_a_machine_with_a_graphics_card(monkeypatch):
  monkeypatch.setenv('MUJOCO_GL', 'osmesa')
  drawn = lambda: (50.0, 'llvmpipe (LLVM)')
  monkeypatch.setattr(environments, '_render', drawn)
  monkeypatch.setattr(environments, 'accelerator_files', dict)
  assert run('gl/egl')['gl/egl'].status == 'ok'
  assert environments.os.environ['MUJOCO_GL'] == 'egl'
  card = lambda: {'nvidia': '/dev/nvidia0'}
  monkeypatch.setattr(environments, 'accelerator_files', card)
  monkeypatch.setattr('vid2act_jax.envs.gl.select_backend', lambda: 'egl')
  found = run('gl/egl', 'gl')
  assert found['gl/egl'].status == 'note' and found['gl'].status == 'ok'
  assert 'NVIDIA_DRIVER_CAPABILITIES' in found['gl/egl'].fix


def test_processes_that_fail(monkeypatch, tmp_path):
  def reply(code):
    replace_processes(monkeypatch, tmp_path, code)
    return checks.run('disk', '.')

  [row] = checks.run('disk', str(tmp_path / 'none'))
  assert row.text.endswith('does not exist, or is not a folder')
  [row] = reply('echo the last words >&2; exit 1')
  assert row.status == 'problem'
  assert row.text == 'exit status 1 without an answer: the last words'
  answer = 'ANSWER [["ok", "disk", "fine"]]'
  # An answer, and a crash on the way out.
  [row] = reply(f"echo '{answer}'; {CRASH}")
  assert row.status == 'problem' and 'SIGABRT' in row.text
  assert reply(f"echo 'noise\n\n{answer}'") == [results.ok('disk', 'fine')]
  monkeypatch.setattr(machine.shutil, 'disk_usage', lambda path: {}['a'])
  assert run('disk')['disk'].text == "KeyError: 'a'"


def without(monkeypatch, *missing):
  real = importlib.util.find_spec
  find = lambda name: None if name in missing else real(name)
  monkeypatch.setattr(environments, 'find_spec', find)


def test_a_missing_suite_is_a_note_and_no_suite_a_problem(monkeypatch):
  env = types.SimpleNamespace(
    action_dim=1,
    reset=lambda: None,
    step=lambda action: {'image': np.ones((64, 64, 3), np.uint8)},
    close=lambda: None,
    description={'versions': {'some': '1'}},
  )
  monkeypatch.setattr('vid2act_jax.envs.make', lambda *args, **kwargs: env)
  names = ('suites/dmc', 'suites/metaworld', 'suites/gym', 'suites')
  without(monkeypatch, 'metaworld')
  found = run(*names)
  assert 'suites' not in found and found['suites/dmc'].status == 'ok'
  assert found['suites/dmc'].text == 'dmc_cartpole_balance steps (some 1)'
  assert found['suites/metaworld'].status == 'note'
  assert found['suites/metaworld'].fix == "pip install -e '.[metaworld]'"
  without(monkeypatch, 'metaworld', 'dm_control', 'gymnasium', 'mujoco')
  found = run(*names)
  assert found['suites'].status == 'problem'
  gl = run(*(f'gl/{x}' for x in GL_BACKENDS), 'gl')
  assert list(gl) == ['gl'] and gl['gl'].status == 'note'


def test_a_suite_that_fails_is_a_problem(monkeypatch):
  def make(*args, **kwargs):
    raise AttributeError('np.in1d')

  monkeypatch.setattr('vid2act_jax.envs.make', make)
  row = run('suites/dmc')['suites/dmc']
  assert row.status == 'problem' and 'np.in1d' in row.text
  black = {'image': np.zeros((64, 64, 3), np.uint8)}
  env = types.SimpleNamespace(
    action_dim=1,
    reset=lambda: None,
    step=lambda action: black,
    close=lambda: None,
  )
  monkeypatch.setattr('vid2act_jax.envs.make', lambda *args, **kwargs: env)
  row = run('suites/dmc')['suites/dmc']
  assert row.status == 'problem' and 'renders no image' in row.text


def test_the_suites_are_those_of_the_registry():
  optional = {k: x for k, x in registry.SUITES.items() if x.package}
  for name, suite in optional.items():
    check = checks.CHECKS[f'suites/{name}']
    assert f"pip install -e '.[{suite.extra}]'" in check.fix
    assert check.find.args[1].startswith(f'{name}_')
  names = [x for x in checks.CHECKS if x.startswith('suites/')]
  assert set(names) == {f'suites/{name}' for name in optional}


@pytest.mark.parametrize('error', [0.5, float('nan')])
def test_an_update_with_wrong_numbers(monkeypatch, error):
  from vid2act_jax.doctor import update

  monkeypatch.setattr(update, 'measure', lambda agent: (9.0, 2.0, []))
  monkeypatch.setattr(update, 'conv_error', lambda: error)
  found = run('update')
  assert found['update'].status == 'ok'
  assert found['update/conv'].status == 'problem'
  bad = lambda agent: (9.0, 2.0, ['actor_loss'])
  monkeypatch.setattr(update, 'measure', bad)
  monkeypatch.setattr(update, 'conv_error', lambda: 1e-6)
  found = run('update')
  assert found['update'].status == 'problem'
  assert 'actor_loss' in found['update'].text
  assert found['update/conv'].status == 'ok'


def test_an_update_that_crashes(monkeypatch, tmp_path):
  replace_processes(monkeypatch, tmp_path, 'kill -ILL $$')
  [row] = checks.run('update', '.')
  assert row.name == 'update' and row.status == 'problem'
  assert 'SIGILL' in row.text


@pytest.mark.parametrize('name', ['conv', 'conv_transpose'])
def test_a_wrong_convolution_is_seen(monkeypatch, name):
  from vid2act_jax.doctor import update

  real = getattr(update.conv, name)

  def broken(scale):
    wrong = lambda x: x * scale
    right = lambda x: x
    return lambda x, kernel, form: real(x, kernel, form).map(
      wrong if form == 'native' else right
    )

  monkeypatch.setattr(update.conv, name, broken(1.01))
  assert 1e-3 < update.conv_error() < 1
  monkeypatch.setattr(update.conv, name, broken(np.nan))
  assert np.isnan(update.conv_error())
