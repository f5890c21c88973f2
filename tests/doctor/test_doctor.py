"""The doctor: what it says here, and of machines with something wrong."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vid2act_jax.doctor import __main__ as doctor
from vid2act_jax.doctor import checks, machine, probe, results
from vid2act_jax.envs import registry

ROOT = pathlib.Path(__file__).parents[2]
CRASH = 'import os; os.abort()'
HANG = 'import time; print("{", flush=True); time.sleep(60)'


def run(check, folder='.'):
  """Rows of a check by their names."""
  return {x.name: x for x in results.collect({'check': check}, folder)}


def answer(monkeypatch, **answers):
  """Puts answers, or exceptions, in the place of probes by their names."""

  def probe_run(name, *unused, **unused_settings):
    value = answers[name]
    if isinstance(value, Exception):
      raise value
    return value

  monkeypatch.setattr(probe, 'run', probe_run)


def replace_probes(monkeypatch, code, **limits):
  """Puts other programs in the place of all probes."""
  command = lambda *unused: [sys.executable, '-c', code]
  monkeypatch.setattr(probe, '_command', command)
  monkeypatch.setattr(checks, 'LIMITS', {**checks.LIMITS, **limits})


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
  for name in checks.SUITES:
    assert found[f'suites/{name}']['status'] == 'ok'


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
  assert names[-2:] == ['disk', 'disk/write']
  assert not list(tmp_path.iterdir())


def test_a_problem_makes_the_status_1(capsys, monkeypatch):
  answer(monkeypatch, devices=probe.Failed('no driver'))
  assert doctor.main(['--json', '--only', 'devices']) == 1
  output = json.loads(capsys.readouterr().out)
  assert output['ok'] is False
  [row] = output['checks']
  assert row['status'] == 'problem' and 'no driver' in row['text']
  assert 'JAX_PLATFORMS' in row['remedy']


def test_a_note_leaves_the_status_0(capsys, monkeypatch):
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
  assert [line.split()[0] for line in lines] == list(checks.CHECKS)
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
  monkeypatch.setattr(checks, 'CHECKS', table)
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
  code = (
    'import sys\n'
    'for name in ("jax", "flax", "numpy", "mujoco", "packaging"):\n'
    '  sys.modules[name] = None\n'
    'from vid2act_jax.doctor.__main__ import main\n'
    'sys.exit(main(["--json", "--only", "packages", "memory", "disk"]))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 1 and done.stderr == ''
  found = {x['name']: x for x in json.loads(done.stdout)['checks']}
  assert found['packages']['status'] == 'problem'
  assert 'packaging' in found['packages']['text']
  assert found['disk/write']['status'] == 'ok'


CPU = {'backend': 'cpu', 'kind': 'cpu', 'count': 1, 'bytes': 0, 'processes': 1}


def test_devices_and_their_memory(monkeypatch):
  found = {'backend': 'gpu', 'kind': 'Card', 'count': 8, 'bytes': 60e9}
  answer(monkeypatch, devices={**found, 'processes': 2})
  row = run(checks.devices)['devices']
  assert (
    row.text == 'gpu: 8 x Card, JAX may take 60.0 GB of each, in 2 processes'
  )


@pytest.mark.parametrize('kind,extra', [('nvidia', 'cuda'), ('tpu', 'tpu')])
def test_an_accelerator_that_jax_does_not_see(monkeypatch, kind, extra):
  answer(monkeypatch, devices=CPU)
  monkeypatch.setattr(machine, 'accelerator_files', lambda: {kind: '/dev/it'})
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  row = run(checks.devices)[f'devices/{kind}']
  assert row.status == 'note' and '/dev/it' in row.text
  assert f"pip install -e '.[{extra}]'" in row.fix
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  fix = run(checks.devices)[f'devices/{kind}'].fix
  assert fix.startswith('unset JAX_PLATFORMS')


def test_gl_backends_that_crash(monkeypatch):
  replace_probes(monkeypatch, CRASH)
  monkeypatch.setenv('DISPLAY', ':0')
  monkeypatch.delenv('MUJOCO_GL', raising=False)
  found = run(checks.gl)
  for backend in ('egl', 'osmesa', 'glfw'):
    assert 'SIGABRT' in found[f'gl/{backend}'].text
    assert not found[f'gl/{backend}'].fix.startswith('none needed')
  assert found['gl'].status == 'problem' and 'apt-get' in found['gl'].fix
  monkeypatch.setenv('MUJOCO_GL', 'egl')
  assert 'unset MUJOCO_GL' in run(checks.gl)['gl'].fix


def test_gl_backends_that_hang(monkeypatch):
  replace_probes(monkeypatch, HANG, gl=0.5, gl_choice=0.5)
  monkeypatch.delenv('DISPLAY', raising=False)
  found = run(checks.gl)
  assert found['gl/egl'].text == 'no answer within 0.5 s'
  assert 'no display' in found['gl/glfw'].text
  assert found['gl'].status == 'problem'


def test_software_rendering_beside_a_graphics_card(monkeypatch):
  drawn = {'rate': 50.0, 'driver': 'llvmpipe (LLVM)'}
  answer(monkeypatch, gl=drawn, gl_choice={'backend': 'egl'})
  assert run(checks.gl)['gl/egl'].status == 'ok'
  card = lambda: {'nvidia': '/dev/nvidia0'}
  monkeypatch.setattr(machine, 'accelerator_files', card)
  found = run(checks.gl)
  assert found['gl/egl'].status == 'note' and found['gl'].status == 'ok'
  assert 'NVIDIA_DRIVER_CAPABILITIES' in found['gl/egl'].fix


def test_how_a_probe_fails(monkeypatch):
  with pytest.raises(probe.Failed, match="^KeyError: 'no_such_probe'$"):
    probe.run('no_such_probe', limit=60)
  replace_probes(monkeypatch, 'import sys; sys.exit("the last words")')
  with pytest.raises(probe.Failed, match='status 1 .*: the last words$'):
    probe.run('gl', limit=60)
  # An answer, and a crash on the way out.
  replace_probes(monkeypatch, f'print("{{}}", flush=True); {CRASH}')
  with pytest.raises(probe.Failed, match='SIGABRT'):
    probe.run('gl', limit=60)
  replace_probes(monkeypatch, 'print("noise"); print(\'{"rate": 3}\')')
  assert probe.run('gl', limit=60) == {'rate': 3}


def without(monkeypatch, *missing):
  real = importlib.util.find_spec
  find = lambda name: None if name in missing else real(name)
  monkeypatch.setattr(checks.importlib.util, 'find_spec', find)


def test_a_missing_suite_is_a_note_and_no_suite_a_problem(monkeypatch):
  answer(monkeypatch, suite={'versions': {'some': '1'}})
  without(monkeypatch, 'metaworld')
  found = run(checks.suites)
  assert 'suites' not in found and found['suites/dmc'].status == 'ok'
  assert found['suites/metaworld'].status == 'note'
  assert found['suites/metaworld'].fix == "pip install -e '.[metaworld]'"
  without(monkeypatch, 'metaworld', 'dm_control', 'gymnasium', 'mujoco')
  found = run(checks.suites)
  assert found['suites'].status == 'problem'
  assert run(checks.gl)['gl'].status == 'note'


def test_a_suite_that_fails_is_a_problem(monkeypatch):
  answer(monkeypatch, suite=probe.Failed('AttributeError: np.in1d'))
  row = run(checks.suites)['suites/dmc']
  assert row.status == 'problem' and 'np.in1d' in row.text


def test_the_suites_are_those_of_the_registry():
  for name, (package, extra, task) in checks.SUITES.items():
    suite = registry.SUITES[name]
    assert (suite.package, suite.extra) == (package, extra)
    assert task.startswith(f'{name}_')
  optional = {k for k, suite in registry.SUITES.items() if suite.package}
  assert optional == set(checks.SUITES)


@pytest.mark.parametrize('error', [0.5, float('nan')])
def test_an_update_with_wrong_numbers(monkeypatch, error):
  good = {'compile_s': 2.0, 'rate': 9.0, 'form': 'native', 'bad': []}
  answer(monkeypatch, update={**good, 'conv_error': error})
  found = run(checks.update)
  assert found['update'].status == 'ok'
  assert found['update/conv'].status == 'problem'
  bad = {**good, 'bad': ['actor_loss'], 'conv_error': 1e-6}
  answer(monkeypatch, update=bad)
  found = run(checks.update)
  assert found['update'].status == 'problem'
  assert 'actor_loss' in found['update'].text
  assert found['update/conv'].status == 'ok'
  answer(monkeypatch, update=probe.Failed('it died of SIGILL'))
  assert run(checks.update)['update'].status == 'problem'


def test_a_wrong_convolution_is_seen(monkeypatch):
  from vid2act_jax.doctor import update

  real = update.conv.conv

  def broken(scale):
    wrong = lambda x: x * scale
    right = lambda x: x
    return lambda x, kernel, form: real(x, kernel, form).map(
      wrong if form == 'native' else right
    )

  monkeypatch.setattr(update.conv, 'conv', broken(1.01))
  assert 1e-3 < update.conv_error() < 1
  monkeypatch.setattr(update.conv, 'conv', broken(np.nan))
  assert np.isnan(update.conv_error())
