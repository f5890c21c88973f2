"""Selects the GL backend for MuJoCo by trying to render with it."""

import os
import re
import subprocess
import sys

from vid2act_jax.types import UserError

# The value of MUJOCO_GL that is known to work; read by child processes.
_VERIFIED = 'VID2ACT_GL_TRIED'

# Runs in a subprocess: a broken driver may crash, and MuJoCo reads MUJOCO_GL
# only once, when it is imported.
_TEST_SCRIPT = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8)
renderer.render()
renderer.close()
"""
_INSTALL = 'apt-get install libegl1 libgl1 (or libosmesa6)'
BACKENDS = 'egl', 'osmesa', 'glfw'
# Variables that make a working backend fail.
_MISLEADING = (
  'PYOPENGL_PLATFORM',
  'MUJOCO_EGL_DEVICE_ID',
  '__EGL_VENDOR_LIBRARY_FILENAMES',
  '__EGL_VENDOR_LIBRARY_DIRS',
  'EGL_PLATFORM',
  'GALLIUM_DRIVER',
  'LIBGL_DRIVERS_PATH',
  'MESA_LOADER_DRIVER_OVERRIDE',
)


def select_backend() -> str:
  """Sets MUJOCO_GL to a working backend and returns it.

  An existing MUJOCO_GL is kept. Otherwise EGL, OSMesa and, with a display,
  GLFW are tried in this order. The result is stored in the environment, so that
  child processes do not try again.

  Raises:
    UserError: no backend works, or the requested one does not; names the
      environment variable that is the cause, if one is.
  """
  requested = os.environ.get('MUJOCO_GL', '')
  if requested and requested == os.environ.get(_VERIFIED):
    return requested
  backend = requested.strip().lower()  # As MuJoCo, but not dm_control, does.
  if backend:
    if backend not in BACKENDS:
      raise UserError(
        f'MUJOCO_GL={requested}: set it to {" or ".join(BACKENDS)}, or unset'
        ' it: then the first one that works is chosen'
      )
    error = _test_backend(backend)
    if error:
      _check_variables(backend)
      if backend == 'glfw' and not os.environ.get('DISPLAY'):
        error = f'there is no display; {error}'
      raise UserError(
        f'MUJOCO_GL={backend} does not work ({error}): unset it, or '
        f'install what it needs: {_INSTALL}'
      )
  elif 'mujoco' in sys.modules:
    raise UserError(
      'mujoco was imported before the GL backend was selected: make the '
      'first environment earlier, or set MUJOCO_GL=egl (or osmesa) before '
      'the program starts.'
    )
  else:
    backend = _find_backend()
  os.environ['MUJOCO_GL'] = os.environ[_VERIFIED] = backend
  return backend


def _find_backend():
  # EGL can use a GPU. Without one it is as fast as OSMesa at 64 x 64, since
  # both use the same Mesa.
  backends = ['egl', 'osmesa']
  if os.environ.get('DISPLAY'):
    backends.append('glfw')
  errors = []
  for backend in backends:
    error = _test_backend(backend)
    if not error:
      return backend
    errors.append(f'{backend}: {error}')
    if os.environ.get('MUJOCO_EGL_DEVICE_ID') and backend == 'egl':
      _check_variables(backend)  # A device was chosen: no other backend has it.
  for backend in backends:
    _check_variables(backend)
  raise UserError(
    f'no GL library to render with ({"; ".join(errors)}): {_INSTALL}'
  )


def _check_variables(backend):
  """Raises a UserError if a backend fails because of variables.

  Which ones is found by trying without them.
  """
  names = [name for name in _MISLEADING if os.environ.get(name)]
  if not names or _test_backend(backend, without=names):
    return
  for name in names:
    if not _test_backend(backend, without=[name]):
      names = [name]
      break
  values = ', '.join(f'{name}={os.environ[name]}' for name in names)
  raise UserError(
    f'{values}: with this, MuJoCo cannot render with {backend}, and without it'
    f' can; unset {" and ".join(names)}'
    + (', or set it to the number of a device' if 'DEVICE' in values else '')
  )


def _test_backend(backend, without=()):
  """Returns an error message, or '' if rendering works.

  Args:
    backend: of `BACKENDS`.
    without: variables that are left out of the environment.
  """
  env = {k: v for k, v in os.environ.items() if k not in without}
  try:
    completed = subprocess.run(
      [sys.executable, '-c', _TEST_SCRIPT],
      text=True,
      timeout=60,
      env={**env, 'MUJOCO_GL': backend},
      capture_output=True,
      stdin=subprocess.DEVNULL,
    )
  except subprocess.TimeoutExpired:
    return 'timed out after 60 s'
  if completed.returncode == 0:
    return ''
  lines = completed.stderr.splitlines()
  # The first error is the cause; later ones come from interpreter shutdown.
  errors = [line for line in lines if re.match(r'[\w.]*Error\b', line)]
  return (errors or lines or [f'exit status {completed.returncode}'])[0]
