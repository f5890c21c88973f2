"""Checks of environment variables, and of the folders that they name."""

import codecs
import locale
import os
import sys
import tempfile

from vid2act_jax.doctor.results import note, ok, problem

_NO_CACHE = 'no compiled code or font cache is kept'


def variables(_):
  """Environment variables: home, caches, temporary files, JAX, GL, encoding."""
  found = [*_home(), *_temporary(), *_gl(), *_encoding()]
  if platforms := os.environ.get('JAX_PLATFORMS'):
    text = f'JAX_PLATFORMS={platforms}'
    fix = "if 'devices' fails: unset it, or set it to cpu"
    found.append(note('variables/jax', text, fix))
  yield from found
  if not found:
    yield ok('variables', 'home, caches, temporary files, GL and encoding')


def _home():
  home = os.path.expanduser('~')
  if home == '~':
    text = f'HOME is not set and this user has no home folder: {_NO_CACHE}'
    yield note('variables/home', text, 'export HOME=DIR')
  for part, name, default, what in (
    ('cache', 'XDG_CACHE_HOME', os.path.join(home, '.cache'), _NO_CACHE),
    ('jax', 'JAX_COMPILATION_CACHE_DIR', '', 'no compiled code is kept'),
    ('fonts', 'MPLCONFIGDIR', '', 'no font cache is kept'),
  ):
    path = os.environ.get(name) or default
    if not path or path.startswith('~') or '://' in path or _is_writable(path):
      continue
    value = f'{name}={path}' if os.environ.get(name) else path
    text = f'{value} cannot be written: {what}'
    yield note(f'variables/{part}', text, f'export {name}=DIR')


def _is_writable(path):
  """Whether a folder can be written, or made and then be."""
  while not os.path.lexists(path) and os.path.dirname(path) != path:
    path = os.path.dirname(path)
  try:
    tempfile.TemporaryFile(dir=path).close()
  except OSError:
    return False
  return True


def _temporary():
  for name in 'TMPDIR', 'TEMP', 'TMP':
    path = os.environ.get(name)
    if path and not (os.path.isdir(path) and _is_writable(path)):
      text = f'{name}={path} is no folder that can be written'
      fix = f'mkdir -p {path}, or export {name}=DIR, or unset {name}'
      yield note(f'variables/{name.lower()}', text, fix)
  try:
    tempfile.gettempdir()
  except FileNotFoundError as error:
    text = f'no temporary folder can be written: {error.strerror}'
    yield problem('variables/tmp', text, 'export TMPDIR=DIR')


def _gl():
  backends = 'egl', 'osmesa', 'glfw'
  backend = os.environ.get('MUJOCO_GL', '').strip().lower()
  if backend and backend not in backends:
    text = f'MUJOCO_GL={backend} is none of {", ".join(backends)}'
    yield problem('variables/gl', text, 'unset MUJOCO_GL')
  platform = os.environ.get('PYOPENGL_PLATFORM', '').lower()
  if platform and platform != (backend or 'egl'):
    text = f'PYOPENGL_PLATFORM={platform} contradicts '
    text += f'MUJOCO_GL={backend}' if backend else 'EGL, which is tried first'
    yield problem('variables/gl', text, 'unset PYOPENGL_PLATFORM')
  device = os.environ.get('MUJOCO_EGL_DEVICE_ID', '0')
  if not device.strip().isdecimal():
    text = f'MUJOCO_EGL_DEVICE_ID={device} is no number of a device'
    fix = 'unset MUJOCO_EGL_DEVICE_ID'
    yield problem('variables/gl', text, fix)


def _encoding():
  names = {
    'output': sys.stdout.encoding,
    'files': locale.getpreferredencoding(False),
  }
  for what, name in names.items():
    if codecs.lookup(name).name != 'utf-8':
      text = f'the encoding of {what} is {name}: other letters are escaped'
      fix = 'export LC_ALL=C.UTF-8, and unset PYTHONIOENCODING and PYTHONUTF8'
      yield note(f'variables/{what}', text, fix)
