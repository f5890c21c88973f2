"""Commands in surroundings with something wrong."""

import errno
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from vid2act_jax import startup
from vid2act_jax.data import storage
from vid2act_jax.envs import gl
from vid2act_jax.loops import runs
from vid2act_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
_INSTALL = 'from vid2act_jax import startup; startup.install()\n'
_REST = "print('the work is done', file=sys.stderr)"


def python(code, **changes):
  """Runs code that begins like a command; None removes a variable."""
  env = {**os.environ, **changes}
  env = {k: v for k, v in env.items() if v is not None}
  command = [sys.executable, '-c', f'import os, sys\n{_INSTALL}{code}']
  text = {'capture_output': True, 'text': True, 'errors': 'replace'}
  return subprocess.run(command, cwd=ROOT, env=env, **text)


@pytest.mark.parametrize(
  'settings',
  [
    {'PYTHONIOENCODING': 'ascii'},
    {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'},
    {'PYTHONIOENCODING': 'latin-1:strict'},
  ],
)
def test_output_that_is_not_utf8(settings):
  code = f"print('1 \\u00b1 2 \\u4e00 \\udcff')\n{_REST}"
  done = python(code, **settings)
  assert done.returncode == 0 and done.stderr == 'the work is done\n'
  assert '\\u4e00 \\udcff' in done.stdout


def _with_output(target):
  code = f"for i in range(9): print('a' * 9999, flush=i % 2)\n{_REST}"
  command = [sys.executable, '-c', f'import sys\n{_INSTALL}{code}']
  error = {'stderr': subprocess.PIPE, 'text': True}
  return subprocess.run(command, cwd=ROOT, stdout=target, **error)


def test_a_closed_pipe_does_not_end_the_work():
  reader, writer = os.pipe()
  os.close(reader)
  done = _with_output(writer)
  os.close(writer)
  assert done.returncode == 0 and done.stderr == 'the work is done\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_of_the_log_does_not_end_the_work():
  with open('/dev/full', 'w') as full:
    done = _with_output(full)
  assert done.returncode == 0 and done.stderr == 'the work is done\n'


def test_a_command_whose_reader_has_gone():
  command = f'{sys.executable} -m vid2act_jax.behaviours list | head -1'
  done = subprocess.run(
    ['bash', '-o', 'pipefail', '-c', command],
    cwd=ROOT,
    env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0 and done.stderr == ''
  assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
  'code,name,value',
  [
    ('import jax; jax.devices()', 'JAX_PLATFORMS', 'gpuu'),
    ('import jax; jax.devices()', 'JAX_PLATFORMS', 'cuda'),
    ('import jax', 'JAX_ENABLE_X64', 'maybe'),
    ('import matplotlib', 'MPLBACKEND', 'nothing'),
  ],
)
def test_a_variable_that_a_library_rejects(code, name, value):
  done = python(code, **{name: value})
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'error: {name}={value}: ')
  assert line.endswith('correct this environment variable, or unset it')


def test_no_home_and_no_temporary_folder():
  code = """
import pathlib, pwd, tempfile
def missing(*unused):
  raise KeyError('uid not found')
pwd.getpwuid = missing
"""
  done = python(f"{code}pathlib.Path('~/x').expanduser()", HOME=None)
  assert done.stderr.startswith('error: a path starts with ~, but HOME is not')
  assert len(done.stderr.splitlines()) == 1 and done.returncode == 1
  code += "tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
  done = python(f'{code}tempfile.gettempdir()', TMPDIR='/nowhere')
  assert done.stderr.startswith('error: TMPDIR=/nowhere: no temporary folder')


def test_only_errors_of_the_surroundings_are_explained(monkeypatch):
  monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  text = 'out of memory, try XLA_PYTHON_CLIENT_PREALLOCATE=false'
  for error in (
    KeyError('a'),
    ValueError('shapes differ'),
    TypeError('MUJOCO_GL'),
    FileNotFoundError(errno.ENOENT, 'No such file', 'a'),
    jax.errors.JaxRuntimeError(text),
  ):
    assert startup.explain(error) is None
  full = OSError(errno.ENOSPC, 'No space left on device', '/a/b')
  assert startup.explain(full) == (
    '/a/b: No space left on device; free disk space, and start again'
  )


@pytest.mark.parametrize('kind', ['home', 'cache', 'variable'])
def test_without_a_cache_a_run_goes_on(monkeypatch, capsys, tmp_path, kind):
  monkeypatch.setattr(storage, '_warned', set())
  before = jax.config.jax_compilation_cache_dir
  (tmp_path / 'file').touch()
  blocked = str(tmp_path / 'file' / 'x')
  for name in 'HOME', 'XDG_CACHE_HOME':
    monkeypatch.delenv(name, raising=False)
  if kind == 'home':
    monkeypatch.setattr('pwd.getpwuid', lambda *unused: {}['uid'])
  elif kind == 'cache':
    monkeypatch.setenv('XDG_CACHE_HOME', blocked)
  try:
    chosen = blocked if kind == 'variable' else None
    jax.config.update('jax_compilation_cache_dir', chosen)
    runs.cache_compilations()
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  error = capsys.readouterr().err
  assert error.count('warning: ') == 1 and 'XDG_CACHE_HOME' in error


@pytest.mark.parametrize(
  'values,works_without,message',
  [
    ({'MUJOCO_GL': 'off'}, (), 'MUJOCO_GL=off: set it to egl or osmesa'),
    ({'MUJOCO_GL': 'glfw'}, (), 'MUJOCO_GL=glfw.*there is no display'),
    (
      {'PYOPENGL_PLATFORM': 'osmesa'},
      ('PYOPENGL_PLATFORM',),
      '^PYOPENGL_PLATFORM=osmesa: .* unset PYOPENGL_PLATFORM$',
    ),
    (
      {'MUJOCO_GL': 'egl', 'MUJOCO_EGL_DEVICE_ID': '9'},
      ('MUJOCO_EGL_DEVICE_ID',),
      '^MUJOCO_EGL_DEVICE_ID=9: .*number of a device$',
    ),
    (
      {'MUJOCO_EGL_DEVICE_ID': 'a', 'PYOPENGL_PLATFORM': 'glx'},
      ('MUJOCO_EGL_DEVICE_ID', 'PYOPENGL_PLATFORM'),
      'unset PYOPENGL_PLATFORM and MUJOCO_EGL_DEVICE_ID',
    ),
    ({}, ('nothing',), 'no GL library.*apt-get'),
  ],
)
def test_rendering_names_the_variable(
  monkeypatch, values, works_without, message
):
  for name in ('MUJOCO_GL', 'DISPLAY', gl._VERIFIED, *gl._MISLEADING):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.delitem(sys.modules, 'mujoco', raising=False)
  for name, value in values.items():
    monkeypatch.setenv(name, value)

  def test_backend(backend, without=()):
    works = works_without and set(works_without) <= set(without)
    return '' if works else f'{backend} fails'

  monkeypatch.setattr(gl, '_test_backend', test_backend)
  with pytest.raises(UserError, match=message):
    gl.select_backend()


def test_a_device_that_egl_does_not_have(monkeypatch):
  """With the real library; OSMesa does not take its place."""
  for name in ('MUJOCO_GL', gl._VERIFIED, *gl._MISLEADING):
    monkeypatch.delenv(name, raising=False)
  if gl._test_backend('egl'):
    pytest.skip('no EGL')
  monkeypatch.delitem(sys.modules, 'mujoco', raising=False)
  monkeypatch.setenv('MUJOCO_EGL_DEVICE_ID', '99')
  with pytest.raises(UserError, match='^MUJOCO_EGL_DEVICE_ID=99: with this'):
    gl.select_backend()
