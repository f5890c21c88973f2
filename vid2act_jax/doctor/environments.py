"""Checks of rendering and of the suites of tasks."""

import os
import time
from importlib.util import find_spec

from vid2act_jax.doctor.machine import accelerator_files
from vid2act_jax.doctor.results import note, ok, problem

_SCENE = """<mujoco><worldbody>
  <light pos="0 0 3"/>
  <geom type="plane" size="2 2 .1"/>
  <geom type="box" pos="0 0 .3" size=".3 .3 .3"/>
</worldbody></mujoco>"""


def render(backend: str, _):
  """Frames per second of a GL backend."""
  name = f'gl/{backend}'
  if not find_spec('mujoco'):
    return  # Reported by `gl`.
  if backend == 'glfw' and not os.environ.get('DISPLAY'):
    fix = 'needed if no other one works: a display, and libgl1'
    yield note(name, 'not tried: there is no display', fix)
    return
  os.environ['MUJOCO_GL'] = backend
  rate, driver = _render()
  text = f'{rate:.0f} frames/s of 64 x 64, by {driver}'
  slow = driver.lower().startswith(('llvmpipe', 'softpipe', 'swrast'))
  if slow and backend == 'egl' and 'nvidia' in accelerator_files():
    fix = "install the GL part of the card's driver; in a container, start it"
    fix += ' with NVIDIA_DRIVER_CAPABILITIES=all'
    yield note(name, f'{text}: the graphics card is not used', fix)
  else:
    yield ok(name, text)


def _render():
  """Returns frames per second and the name of the driver."""
  import mujoco
  from OpenGL import GL

  model = mujoco.MjModel.from_xml_string(_SCENE)
  data = mujoco.MjData(model)
  mujoco.mj_forward(model, data)
  with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    if not renderer.render().any():
      raise RuntimeError('it renders black images')
    driver = (GL.glGetString(GL.GL_RENDERER) or b'unknown').decode()
    frames, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 1:
      renderer.update_scene(data)
      renderer.render()
      frames += 1
  return frames / seconds, driver


def gl(_):
  """GL backends with their frames per second, and the one that is chosen."""
  if not find_spec('mujoco'):
    text = 'mujoco is not installed: no tasks of dmc and metaworld'
    yield note('gl', text, "pip install -e '.[dmc]'")
    return
  from vid2act_jax.envs import gl

  yield ok('gl', f'environments are rendered with {gl.select_backend()}')


def suite(name: str, task: str, _):
  """Makes, resets and steps a task of a suite."""
  import numpy as np

  from vid2act_jax import envs
  from vid2act_jax.envs import registry

  package = registry.SUITES[name].package
  if not find_spec(package):
    text = f'{package} is not installed: no {name}_... tasks'
    yield note(f'suites/{name}', text, f"pip install -e '.[{name}]'")
    return
  env = envs.make(task, envs.Settings(), seed=0)
  env.reset()
  obs = env.step(np.zeros(env.action_dim, np.float32))
  env.close()
  if obs['image'].shape != (64, 64, 3) or not obs['image'].any():
    raise RuntimeError(f'{task} renders no image')
  versions = (f'{k} {x}' for k, x in env.description['versions'].items())
  yield ok(f'suites/{name}', f'{task} steps ({", ".join(versions)})')


def suites(_):
  """Suites of tasks: one task of each is made, reset and stepped."""
  from vid2act_jax.envs.registry import SUITES

  if not any(x.package and find_spec(x.package) for x in SUITES.values()):
    text = 'no suite is installed: there is nothing to learn'
    yield problem('suites', text, "pip install -e '.[dmc,metaworld]'")
