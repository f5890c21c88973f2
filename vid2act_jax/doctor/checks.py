"""All checks; each runs in its own process, because it may crash or hang."""

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vid2act_jax.doctor import environments, machine, packages, variables
from vid2act_jax.doctor.results import CheckResult, describe

_ANSWER = '\nANSWER '  # Libraries may print, too.


class Check(NamedTuple):
  """A check, and the result if it raises, crashes or hangs."""

  find: Callable[[str], Iterable[CheckResult]]  # from the folder for runs
  limit: float = 60  # seconds: a cold disk is slow, a broken driver hangs
  fix: str = ''
  status: str = 'problem'


def _gl(backend, fix):
  render = functools.partial(environments.render, backend)
  return Check(render, 45, f'needed if no other one works: {fix}', 'note')


def _suite(name, task):
  fix = f"the fixes of 'gl' and 'packages', then pip install -e '.[{name}]'"
  return Check(functools.partial(environments.suite, name, task), 180, fix)


def _update(_):
  """A small update: compiled, repeated for a second, its metrics checked."""
  from vid2act_jax.doctor import update  # It imports JAX.

  yield from update.update()


_DEVICES_FIX = "JAX_PLATFORMS=cpu, or fix the driver, or pip install -e '.'"
_GL_FIX = 'unset MUJOCO_GL if it is set; bash launch/setup.sh, or apt-get'
_GL_FIX += ' install libegl1 libgl1'
_UPDATE_FIX = "the fixes of 'packages' and 'devices', or JAX_PLATFORMS=cpu"
CHECKS = {
  'packages': Check(packages.packages),
  'variables': Check(variables.variables),
  'devices': Check(machine.devices, 120, _DEVICES_FIX),
  'memory': Check(machine.memory),
  'allocator': Check(machine.allocator),
  'disk': Check(machine.disk),
  'gl/egl': _gl('egl', 'apt-get install libegl1 libgl1'),
  'gl/osmesa': _gl('osmesa', 'apt-get install libosmesa6'),
  'gl/glfw': _gl('glfw', 'a display, and apt-get install libgl1'),
  'gl': Check(environments.gl, 240, _GL_FIX),  # Each backend for a minute.
  'suites/dmc': _suite('dmc', 'dmc_cartpole_balance'),
  'suites/metaworld': _suite('metaworld', 'metaworld_reach'),
  'suites/gym': _suite('gym', 'gym_Pendulum-v1'),
  'suites': Check(environments.suites),
  'update': Check(_update, 400, _UPDATE_FIX),
}


def find(name: str, folder: str) -> list[CheckResult]:
  """Runs a check in this process; if it raises, that is its last result."""
  found = []
  try:
    for result in CHECKS[name].find(folder):
      found.append(result)
  except Exception as error:  # Any: it is reported.
    found.append(_failure(name, describe(error)))
  return found


def run(name: str, folder: str) -> list[CheckResult]:
  """Runs a check in its own process."""
  limit = CHECKS[name].limit
  # Another program may have the accelerator's memory.
  env = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  command = [sys.executable, '-m', __name__, name, folder]
  pipes = {'capture_output': True, 'stdin': subprocess.DEVNULL}
  pipes |= {'text': True, 'errors': 'replace'}
  try:
    done = subprocess.run(command, timeout=limit, env=env, **pipes)
  except subprocess.TimeoutExpired:
    text = f'no answer within {limit:g} s'
  else:
    _, found, answer = done.stdout.rpartition(_ANSWER)
    if found and not done.returncode:  # It may also crash when it exits.
      return [CheckResult(*row) for row in json.loads(answer)]
    text = f'exit status {done.returncode} without an answer'
    if done.returncode < 0:
      text = f'killed by {signal.Signals(-done.returncode).name}'
    text = ': '.join([text, *done.stderr.strip().splitlines()[-1:]])[:300]
  return [_failure(name, text)]


def _failure(name, text):
  check = CHECKS[name]
  fix = f"pip install -e '.[dmc]'; if --only {name} fails again, report it"
  variable = re.search(r'^(\w+)=|\b(XLA_FLAGS)\b', text)
  if variable and (found := variable[1] or variable[2]) in os.environ:
    return CheckResult(
      check.status, name, text, f'unset {found}, or correct it'
    )
  return CheckResult(check.status, name, text, check.fix or fix)


if __name__ == '__main__':
  rows = [dataclasses.astuple(row) for row in find(*sys.argv[1:])]
  print(_ANSWER + json.dumps(rows), flush=True)
