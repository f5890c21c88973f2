"""All checks, and those that run probes in their own processes."""

import importlib.util
import os

from vid2act_jax.doctor import machine, packages, probe
from vid2act_jax.doctor.results import note, ok, problem

# Seconds: a cold disk and a first compilation are slow, a broken driver hangs.
# The choice of a GL backend tries each for up to a minute.
LIMITS = {
  'devices': 120, 'gl': 45, 'gl_choice': 240, 'suite': 180, 'update': 400,
}  # fmt: skip
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
_MAX_ERROR = 1e-3  # Relative: float32 gives 1e-6, a wrong convolution 1.


def _probe(name, *arguments, **variables):
  # Another program may have the accelerator's memory.
  variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  return probe.run(name, *arguments, limit=LIMITS[name], **variables)


def devices(_):
  """The devices that JAX computes on."""
  try:
    found = _probe('devices')
  except probe.Failed as error:
    fix = 'JAX_PLATFORMS=cpu if the CPU is enough; else fix the driver, or'
    fix += " pip install -e '.'"
    yield problem('devices', f'JAX finds no device: {error}', fix)
    return
  text = f'{found["backend"]}: {found["count"]} x {found["kind"]}'
  if found['bytes']:
    text += f', JAX may take {found["bytes"] / machine.GB:.1f} GB of each'
  if found['processes'] > 1:
    text += f', in {found["processes"]} processes'
  yield ok('devices', text)
  unused = machine.accelerator_files() if found['backend'] == 'cpu' else {}
  for kind, path in unused.items():
    fix = "pip install -e '.[tpu]'"
    if kind == 'nvidia':
      fix = "pip install -e '.[cuda]'; if it is installed: nvidia-smi"
    if platforms := os.environ.get('JAX_PLATFORMS'):
      fix = f'unset JAX_PLATFORMS (it is {platforms})'
    yield note(f'devices/{kind}', f'{path} exists, but JAX uses the CPU', fix)


def gl(_):
  """GL backends with their frames per second, and the one that is chosen."""
  if not is_installed('mujoco'):
    text = 'mujoco is not installed: no tasks of dmc and metaworld'
    yield note('gl', text, "pip install -e '.[dmc]'")
    return
  errors = {}
  for backend in _GL_LIBRARIES:
    if backend == 'glfw' and not os.environ.get('DISPLAY'):
      errors[backend] = 'not tried: there is no display'
      continue
    try:
      yield _rendering(backend, _probe('gl', MUJOCO_GL=backend))
    except probe.Failed as error:
      errors[backend] = str(error)
  some_work = len(errors) < len(_GL_LIBRARIES)
  for backend, error in errors.items():
    fix = 'none needed; to have it: ' if some_work else ''
    yield note(f'gl/{backend}', error, fix + _GL_LIBRARIES[backend])
  try:
    backend = _probe('gl_choice')['backend']
    yield ok('gl', f'environments are rendered with {backend}')
  except probe.Failed as error:
    fix = 'bash launch/setup.sh, or apt-get install libegl1 libgl1'
    if backend := os.environ.get('MUJOCO_GL'):
      fix = f'unset MUJOCO_GL (it is {backend}); {fix}'
    yield problem('gl', str(error), fix)


def _rendering(backend, found):
  text = f'{found["rate"]:.0f} frames/s of 64 x 64, by {found["driver"]}'
  slow = backend == 'egl' and found['driver'].lower().startswith(_SOFTWARE)
  if not slow or 'nvidia' not in machine.accelerator_files():
    return ok(f'gl/{backend}', text)
  fix = "install the GL part of the card's driver; in a container, start it"
  fix += ' with NVIDIA_DRIVER_CAPABILITIES=all'
  return note(f'gl/{backend}', f'{text}: the graphics card is not used', fix)


def suites(_):
  """Suites of tasks: one task of each is made, reset and stepped."""
  installed = {x: is_installed(package) for x, (package, *_) in SUITES.items()}
  for suite, (package, extra, task) in SUITES.items():
    name, fix = f'suites/{suite}', f"pip install -e '.[{extra}]'"
    if not installed[suite]:
      yield note(name, f'{package} is not installed: no {suite}_... tasks', fix)
      continue
    try:
      versions = _probe('suite', task)['versions']
      text = ', '.join(f'{key} {x}' for key, x in versions.items())
      yield ok(name, f'{task} steps ({text})')
    except probe.Failed as error:
      fix = f"first the fixes of 'gl' and 'packages', then {fix}"
      yield problem(name, f'{task}: {error}', fix)
  if not any(installed.values()):
    text = 'no suite is installed: there is nothing to learn'
    yield problem('suites', text, "pip install -e '.[dmc,metaworld]'")


def update(_):
  """A small update: compiled, repeated for a second, its metrics checked."""
  try:
    found = _probe('update')
  except probe.Failed as error:
    fix = "first the fixes of 'packages' and 'devices'; JAX_PLATFORMS=cpu shows"
    yield problem('update', str(error), f'{fix} whether it is the device')
    return
  fix = "try JAX_PLATFORMS=cpu; then pip install -e '.' in a fresh environment:"
  fix += ' bash launch/setup.sh'
  text = f'{found["rate"]:.0f} updates/s of the sizes of experiments/debug.py,'
  text += f' compiled in {found["compile_s"]:.1f} s (on a CPU with little'
  text += ' optimization); '
  if bad := ', '.join(found['bad']):
    yield problem('update', f'{text}not finite: {bad}', fix)
  else:
    yield ok('update', f'{text}all metrics are finite')
  error = found['conv_error']
  text = f'{found["form"]} is chosen; its two forms differ by {error:.0e}'
  if error <= _MAX_ERROR:  # False for NaN.
    yield ok('update/conv', text)
  else:
    yield problem('update/conv', text, fix)


def is_installed(package: str) -> bool:
  """Returns whether a package can be found; it is not imported."""
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
