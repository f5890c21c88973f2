"""Probes that run in their own processes, because they may crash or hang.

  python -m vid2act_jax.doctor.probe NAME [ARGUMENT]

The last line of the output is a JSON object: the result, or {"error": ...}.
"""

import json
import os
import signal
import subprocess
import sys
import time

from vid2act_jax.doctor.results import first_line

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
  """A probe failed; the message is the reason, in one line."""


def run(name: str, *arguments: str, limit: float, **variables: str) -> dict:
  """Runs a probe in its own process.

  Args:
    name: one of `PROBES`.
    *arguments: of the probe.
    limit: seconds after which it is killed.
    **variables: of its environment, in addition to this process's.

  Returns:
    Its result.

  Raises:
    Failed: it raised, crashed, or gave no answer in time.
  """
  pipes = {'capture_output': True, 'stdin': subprocess.DEVNULL}
  pipes |= {'text': True, 'errors': 'replace'}
  command, env = _command(name, *arguments), {**os.environ, **variables}
  try:
    done = subprocess.run(command, timeout=limit, env=env, **pipes)
  except subprocess.TimeoutExpired:
    raise Failed(f'no answer within {limit:g} s') from None
  try:
    # Libraries may print, too: also on the line before, without an end.
    answer = json.loads(done.stdout.rstrip().rpartition('\n')[2])
  except ValueError:
    answer = None
  answer = answer if isinstance(answer, dict) else {}
  if 'error' in answer:
    raise Failed(answer['error'])
  if done.returncode or not answer:  # It may also crash when it exits.
    raise Failed(_describe_exit(done))
  return answer


def _command(name, *arguments):
  return [sys.executable, '-m', __name__, name, *arguments]


def _describe_exit(done):
  text = f'exit status {done.returncode} without an answer'
  if done.returncode < 0:
    text = f'killed by {signal.Signals(-done.returncode).name}'
  lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
  return ': '.join([text, *(line[:200] for line in lines[-1:])])


def _devices():
  import jax

  memory = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)
  return {
    'backend': jax.default_backend(),
    'kind': jax.local_devices()[0].device_kind,
    'count': jax.device_count(),
    'bytes': memory,  # of one device, as much as JAX may take; 0: unknown
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
      raise RuntimeError('it renders black images')
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
    raise RuntimeError(f'{task} renders no image')
  return {'versions': env.description['versions']}


def _update():
  from vid2act_jax.doctor import update

  return {**update.measure(_MEASURED), 'conv_error': update.conv_error()}


PROBES = {
  'devices': _devices,
  'gl': _gl,
  'gl_choice': _gl_choice,
  'suite': _suite,
  'update': _update,
}


def _main(name, *arguments):
  try:
    answer = PROBES[name](*arguments)
  except Exception as error:  # Any: it is the answer.
    # Errors for users have no type in front. The class may not be importable.
    is_for_users = type(error).__name__ == 'UserError'
    text = ' '.join(str(error).split()) if is_for_users else first_line(error)
    answer = {'error': text}
  print('\n' + json.dumps(answer), flush=True)


if __name__ == '__main__':
  _main(*sys.argv[1:])
