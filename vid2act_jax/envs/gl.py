"""Which GL backend MuJoCo renders with: found by trying it."""

import os
import re
import subprocess
import sys

from vid2act_jax.types import UserError

# The value of MUJOCO_GL that was seen working, for this process's children.
_TRIED = 'VID2ACT_GL_TRIED'

# A failing driver may crash, and MuJoCo reads MUJOCO_GL once, at its import:
# so the trial runs in a process of its own.
_TRIAL = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8)
renderer.render()
renderer.close()
"""
_INSTALL = 'apt-get install libegl1 libgl1 (or libosmesa6)'


def choose() -> str:
  """Sets MUJOCO_GL to a backend that works, and returns it.

  A MUJOCO_GL that is set already is respected. Else EGL, OSMesa, or, with a
  display, GLFW, in this order. The answer stays in the environment, so that
  child processes do not try again.

  Raises:
    UserError: none works, or the one that was asked for does not.
  """
  asked = os.environ.get('MUJOCO_GL', '')
  if asked and asked == os.environ.get(_TRIED):
    return asked
  if asked:
    problem = _try(asked)
    if problem:
      raise UserError(
        f'MUJOCO_GL={asked} does not work ({problem}): unset it, or '
        f'install what it needs: {_INSTALL}'
      )
  elif 'mujoco' in sys.modules:
    raise UserError(
      'mujoco was imported before the GL backend was chosen: make the '
      'first environment earlier, or set MUJOCO_GL=egl (or osmesa) before '
      'the program starts.'
    )
  else:
    asked = _search()
  os.environ['MUJOCO_GL'] = os.environ[_TRIED] = asked
  return asked


def _search():
  # EGL reaches graphics cards; where there is none, it measured no slower
  # than OSMesa at 64 x 64, both being the same Mesa underneath.
  backends = ['egl', 'osmesa']
  if os.environ.get('DISPLAY'):
    backends.append('glfw')
  problems = []
  for backend in backends:
    problem = _try(backend)
    if not problem:
      return backend
    problems.append(f'{backend}: {problem}')
  raise UserError(
    f'no GL library to render with ({"; ".join(problems)}): {_INSTALL}'
  )


def _try(backend):
  """Returns what went wrong, '' for nothing."""
  try:
    trial = subprocess.run(
      [sys.executable, '-c', _TRIAL],
      text=True,
      timeout=60,
      env={**os.environ, 'MUJOCO_GL': backend},
      capture_output=True,
      stdin=subprocess.DEVNULL,
    )
  except subprocess.TimeoutExpired:
    return 'no answer within 60 s'
  if trial.returncode == 0:
    return ''
  lines = trial.stderr.splitlines()
  # The first error: those raised while the interpreter goes down hide it.
  errors = [line for line in lines if re.match(r'[\w.]*Error\b', line)]
  return (errors or lines or [f'exit status {trial.returncode}'])[0]
