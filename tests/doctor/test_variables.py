"""The doctor's check of environment variables."""

import os

import pytest

from vid2act_jax.doctor import checks, variables


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
  """Surroundings without a fault."""
  for name in list(os.environ):
    if name.startswith(('JAX_', 'MUJOCO_', 'PYOPENGL_', 'XDG_', 'MPL')):
      monkeypatch.delenv(name)
  monkeypatch.setenv('HOME', str(tmp_path))


def test_nothing_wrong():
  (row,) = variables.variables('.')
  assert row.status == 'ok'


@pytest.mark.parametrize(
  'values,status,text,fix',
  [
    ({'HOME': '/dev/null'}, 'note', '/dev/null/.cache cannot', 'XDG_CACHE'),
    ({'XDG_CACHE_HOME': '/dev/null'}, 'note', 'XDG_CACHE_HOME=', 'XDG_CACHE'),
    ({'MPLCONFIGDIR': '/dev/null/x'}, 'note', 'no font cache', 'MPLCONFIG'),
    (
      {'JAX_COMPILATION_CACHE_DIR': '/dev/null/x'},
      'note',
      'no compiled code',
      'export JAX_COMPILATION_CACHE_DIR',
    ),
    ({'TMPDIR': '/nowhere'}, 'note', 'TMPDIR=/nowhere', 'mkdir -p /nowhere'),
    ({'MUJOCO_GL': 'off'}, 'problem', 'MUJOCO_GL=off', 'unset MUJOCO_GL'),
    (
      {'MUJOCO_GL': 'egl', 'PYOPENGL_PLATFORM': 'osmesa'},
      'problem',
      'contradicts MUJOCO_GL=egl',
      'unset PYOPENGL_PLATFORM',
    ),
    (
      {'MUJOCO_EGL_DEVICE_ID': '-1'},
      'problem',
      'MUJOCO_EGL_DEVICE_ID=-1',
      'unset MUJOCO_EGL_DEVICE_ID',
    ),
    ({'JAX_PLATFORMS': 'cpu'}, 'note', 'JAX_PLATFORMS=cpu', 'unset it'),
  ],
)
def test_each_fault_is_reported(monkeypatch, values, status, text, fix):
  for name, value in values.items():
    monkeypatch.setenv(name, value)
  (row,) = variables.variables('.')
  assert row.status == status and text in row.text and fix in row.fix


def test_no_home_folder_and_another_encoding(monkeypatch):
  monkeypatch.setattr(variables.os.path, 'expanduser', lambda path: path)
  (row,) = variables.variables('.')
  assert row.name == 'variables/home' and 'HOME is not set' in row.text
  monkeypatch.undo()
  monkeypatch.setattr(variables.locale, 'getpreferredencoding', lambda _: '646')
  names = [x.name for x in variables.variables('.') if x.status == 'note']
  assert 'variables/files' in names


def test_a_failure_names_its_variable(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'gpuu')

  def fail(_):
    raise RuntimeError("Unable to initialize backend 'gpuu' (JAX_PLATFORMS)")
    yield

  check = checks.CHECKS['devices']._replace(find=fail)
  monkeypatch.setitem(checks.CHECKS, 'devices', check)
  (row,) = checks.find('devices', '.')
  assert row.text.startswith('JAX_PLATFORMS=gpuu: Unable')
  assert row.fix == 'unset JAX_PLATFORMS, or correct it'
