"""All checks, and those that try things in processes of their own."""

import importlib.util
import os
from collections.abc import Iterator

from vid2act_jax.doctor import machine, packages, trial
from vid2act_jax.doctor.rows import Row

# Seconds: a cold disk and a first compilation are slow, a broken driver hangs.
LIMITS = {
  'devices': 120,
  'gl': 45,
  'gl_choice': 240,  # It tries each for up to a minute.
  'suite': 180,
  'update': 400,
}
_GL_LIBRARIES = {
  'egl': 'apt-get install libegl1 libgl1',
  'osmesa': 'apt-get install libosmesa6',
  'glfw': 'start it where there is a display, with libgl1 installed',
}
_SOFTWARE = ('llvmpipe', 'softpipe', 'swrast')
# Suite: the package it needs, the extra that installs it, a task that is small.
SUITES = {
  'dmc': ('dm_control', 'dmc', 'dmc_cartpole_balance'),
  'metaworld': ('metaworld', 'metaworld', 'metaworld_reach'),
  'gym': ('gymnasium', 'gym', 'gym_Pendulum-v1'),
}
# Another program on the same accelerator keeps its memory.
_SHARING = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
_CLOSE = 1e-3  # Relative: float32 gives 1e-6, a wrong convolution 1.


def devices(_) -> Iterator[Row]:
  """What JAX computes on."""
  try:
    found = trial.run('devices', limit=LIMITS['devices'], **_SHARING)
  except trial.Failed as error:
    remedy = 'JAX_PLATFORMS=cpu if the CPU will do; else mend the driver'
    text = f'JAX finds no device: {error}'
    yield Row('devices', 'problem', text, f"{remedy}, or pip install -e '.'")
    return
  text = f'{found["backend"]}: {found["count"]} x {found["kind"]}'
  if found['bytes']:
    text += f', JAX may take {found["bytes"] / machine.GB:.1f} GB of each'
  if found['processes'] > 1:
    text += f', in {found["processes"]} processes'
  yield Row('devices', 'ok', text)
  if found['backend'] == 'cpu':
    yield from _unused_accelerators()


def _unused_accelerators():
  for kind, path in machine.accelerator_files().items():
    platforms = os.environ.get('JAX_PLATFORMS')
    if platforms:
      remedy = f'unset JAX_PLATFORMS (it is {platforms})'
    elif kind == 'nvidia':
      remedy = "pip install -e '.[cuda]'; if it is: nvidia-smi"
    else:
      remedy = "pip install -e '.[tpu]'"
    text = f'there is {path}, but JAX sees the CPU alone'
    yield Row(f'devices/{kind}', 'note', text, remedy)


def gl(_) -> Iterator[Row]:
  """GL backends tried, with frames a second, and the one that is chosen."""
  if not is_installed('mujoco'):
    text = 'mujoco is not installed: no tasks of dmc and metaworld'
    yield Row('gl', 'note', text, "pip install -e '.[dmc]'")
    return
  found, reasons = {}, {}
  for backend in _GL_LIBRARIES:
    if backend == 'glfw' and not os.environ.get('DISPLAY'):
      reasons[backend] = 'not tried: there is no display'
      continue
    try:
      found[backend] = trial.run('gl', limit=LIMITS['gl'], MUJOCO_GL=backend)
    except trial.Failed as error:
      reasons[backend] = str(error)
  for backend, answer in found.items():
    yield from _rendering(backend, answer)
  for backend, reason in reasons.items():
    remedy = _GL_LIBRARIES[backend]
    if found:
      remedy = f'none needed; to have it: {remedy}'
    yield Row(f'gl/{backend}', 'note', reason, remedy)
  yield _choice()


def _rendering(backend, answer):
  text = f'{answer["rate"]:.0f} frames/s of 64 x 64, by {answer["driver"]}'
  row = Row(f'gl/{backend}', 'ok', text)
  slow = answer['driver'].lower().startswith(_SOFTWARE)
  if backend == 'egl' and slow and 'nvidia' in machine.accelerator_files():
    text += ': the graphics card is not used'
    remedy = (
      "install the GL part of the card's driver; in a container, start it"
      ' with NVIDIA_DRIVER_CAPABILITIES=all'
    )
    row = Row(f'gl/{backend}', 'note', text, remedy)
  yield row


def _choice():
  try:
    backend = trial.run('gl_choice', limit=LIMITS['gl_choice'])['backend']
  except trial.Failed as error:
    install = 'bash launch/setup.sh, or apt-get install libegl1 libgl1'
    if asked := os.environ.get('MUJOCO_GL'):
      install = f'unset MUJOCO_GL (it is {asked}); {install}'
    return Row('gl', 'problem', str(error), install)
  return Row('gl', 'ok', f'environments are drawn with {backend}')


def suites(_) -> Iterator[Row]:
  """Suites of tasks: one task of each made, reset and stepped."""
  missing = 0
  for name, (package, extra, task) in SUITES.items():
    remedy = f"pip install -e '.[{extra}]'"
    if not is_installed(package):
      missing += 1
      text = f'{package} is not installed: no {name}_... tasks'
      yield Row(f'suites/{name}', 'note', text, remedy)
      continue
    try:
      answer = trial.run('suite', task, limit=LIMITS['suite'])
    except trial.Failed as error:
      remedy = f"first what 'gl' and 'packages' say, then {remedy}"
      yield Row(f'suites/{name}', 'problem', f'{task}: {error}', remedy)
      continue
    versions = ', '.join(f'{k} {v}' for k, v in answer['versions'].items())
    yield Row(f'suites/{name}', 'ok', f'{task} steps ({versions})')
  if missing == len(SUITES):
    text = 'no suite is installed: there is nothing to learn'
    yield Row('suites', 'problem', text, "pip install -e '.[dmc,metaworld]'")


def update(_) -> Iterator[Row]:
  """A small update: compiled, repeated for a second, its numbers looked at."""
  try:
    found = trial.run('update', limit=LIMITS['update'], **_SHARING)
  except trial.Failed as error:
    remedy = "first what 'packages' and 'devices' say; JAX_PLATFORMS=cpu"
    remedy += ' tells whether it is the device'
    yield Row('update', 'problem', str(error), remedy)
    return
  elsewhere = "try JAX_PLATFORMS=cpu; then pip install -e '.' in a fresh"
  elsewhere += ' environment: bash launch/setup.sh'
  text = (
    f'{found["rate"]:.0f} updates/s of the sizes of experiments/debug.py,'
    f' compiled in {found["compile_s"]:.1f} s (on a CPU with little'
    ' optimization)'
  )
  if found['bad']:
    bad = ', '.join(found['bad'])
    text += f'; not finite: {bad}'
    yield Row('update', 'problem', text, elsewhere)
  else:
    yield Row('update', 'ok', text + '; all metrics are finite')
  error = found['conv_error']
  text = f'{found["form"]} is chosen; its two forms differ by {error:.0e}'
  if error <= _CLOSE:  # Not so if it is not a number.
    yield Row('update/conv', 'ok', text)
  else:
    yield Row('update/conv', 'problem', text, elsewhere)


def is_installed(package: str) -> bool:
  """Whether a package can be found; it is not imported."""
  return importlib.util.find_spec(package) is not None


CHECKS = {
  'packages': packages.packages,
  'devices': devices,
  'memory': machine.memory,
  'allocator': machine.allocator,
  'disk': machine.disk,
  'gl': gl,
  'suites': suites,
  'update': update,
}
