"""Trials in processes of their own: what they try may crash or hang.

  python -m vid2act_jax.doctor.trial NAME [ARGUMENT]

A trial's last line is a JSON object: what it found, or {"error": ...}.
"""

import json
import os
import signal
import subprocess
import sys
import time

from vid2act_jax.doctor import rows

_SCENE = """
<mujoco>
  <visual><global offwidth="64" offheight="64"/></visual>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="2 2 .1" rgba=".3 .5 .3 1"/>
    <geom type="box" pos="0 0 .3" size=".3 .3 .3" rgba=".8 .2 .2 1"/>
    <camera pos="0 -2 1.5" xyaxes="1 0 0 0 .6 .8"/>
  </worldbody>
</mujoco>
"""
_MEASURED = 1.0  # seconds


class Failed(Exception):
  """A trial came to nothing; the message is the reason, in one line."""


def run(name: str, *arguments: str, limit: float, **variables: str) -> dict:
  """Runs a trial in a process of its own.

  Args:
    name: one of `TRIALS`.
    *arguments: of the trial.
    limit: seconds after which it is killed.
    **variables: of its environment, beside this process's.

  Returns:
    What it found.

  Raises:
    Failed: it raised, crashed, or gave no answer in time.
  """
  try:
    done = subprocess.run(
      _command(name, *arguments),
      capture_output=True,
      text=True,
      errors='replace',
      timeout=limit,
      stdin=subprocess.DEVNULL,
      env={**os.environ, **variables},
    )
  except subprocess.TimeoutExpired:
    raise Failed(f'no answer within {limit:g} s') from None
  answer = _answer(done.stdout)
  if 'error' in answer:
    raise Failed(answer['error'])
  if done.returncode or not answer:  # A crash on the way out is one, too.
    raise Failed(_death(done))
  return answer


def _command(name, *arguments):
  return [sys.executable, '-m', __name__, name, *arguments]


def _answer(output):
  # Libraries may print, too: also on the line before, without an end.
  last = output.rstrip().rpartition('\n')[2]
  if not last.startswith('{'):
    return {}
  try:
    return json.loads(last)
  except ValueError:
    return {}


def _death(done):
  if done.returncode < 0:
    how = f'it died of {signal.Signals(-done.returncode).name}'
  else:
    how = f'it ended with status {done.returncode} and without an answer'
  said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
  return f'{how}: {said[-1][:200]}' if said else how


def _devices():
  import jax

  devices = jax.devices()
  first = jax.local_devices()[0]
  memory = (first.memory_stats() or {}).get('bytes_limit', 0)
  return {
    'backend': jax.default_backend(),
    'kind': first.device_kind,
    'count': len(devices),
    'bytes': memory,  # of one device, as much as JAX may take; 0: not told
    'processes': jax.process_count(),
  }


def _gl():
  import mujoco
  from OpenGL import GL

  model = mujoco.MjModel.from_xml_string(_SCENE)
  data = mujoco.MjData(model)
  mujoco.mj_forward(model, data)
  with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data, 0)
    if not renderer.render().any():
      raise RuntimeError('it renders black pictures')
    driver = (GL.glGetString(GL.GL_RENDERER) or b'unknown').decode()
    frames, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _MEASURED:
      renderer.update_scene(data, 0)
      renderer.render()
      frames += 1
  return {'rate': frames / seconds, 'driver': driver}


def _gl_choice():
  from vid2act_jax.envs import gl

  return {'backend': gl.select_backend()}


def _suite(task):
  import numpy as np

  from vid2act_jax import envs

  env = envs.make(task, envs.Settings(), seed=0)
  env.reset()
  obs = env.step(np.zeros(env.action_dim, np.float32))
  env.close()
  if obs['image'].shape != (64, 64, 3) or not obs['image'].any():
    raise RuntimeError(f'{task} shows no picture')
  return {'versions': env.description['versions']}


def _update():
  from vid2act_jax.doctor import update

  return {**update.measure(_MEASURED), 'conv_error': update.conv_error()}


TRIALS = {
  'devices': _devices,
  'gl': _gl,
  'gl_choice': _gl_choice,
  'suite': _suite,
  'update': _update,
}


def _main(name, *arguments):
  try:
    answer = TRIALS[name](*arguments)
  except Exception as error:  # Any: it is told to the process that asked.
    # Those for users name no kind. Their class may not be importable here.
    kind = type(error).__name__
    whole = ' '.join(str(error).split())
    told = whole if kind == 'UserError' else rows.first_line(error)
    answer = {'error': told}
  print('\n' + json.dumps(answer), flush=True)


if __name__ == '__main__':
  _main(*sys.argv[1:])
