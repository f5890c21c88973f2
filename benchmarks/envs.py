"""Environment frames per second on one core, by task and render quality.

  python -m benchmarks.envs
  python -m benchmarks.envs --tasks dmc_walker_walk --seconds 5

For each task and quality it measures rates per second: agent steps of `Env` as
in training (`frames`), the same without rendering (`physics`), rendering alone
(`drawing`), MuJoCo's renderer alone on one state at the same size and quality
(`renderer`), and physics and renderer alternately (`turns`). All run in one
process on one core. A few calls of each alternate with those of the others, so
that changes of the machine's speed affect all of them. `share` is the rate of
the environment relative to the rate that the renderer and the physics by
themselves allow. `share_of_turns` is relative to that of both alternately, when
each evicts the other's data from the caches.
"""

import argparse
import os
import time

import numpy as np

from benchmarks import measure
from vid2act_jax import envs

TASKS = (
  'dmc_cartpole_swingup',
  'dmc_walker_walk',
  'dmc_quadruped_walk',
  'metaworld_drawer_open',
)
_CALLS = 4  # In a row; the speed changes over tens of milliseconds or more.


def rates(parts, seconds: float) -> dict[str, float]:
  """Calls per second of each function, measured for about `seconds` each."""
  taken, rounds = dict.fromkeys(parts, 0.0), 0
  while sum(taken.values()) < seconds * len(parts):
    for name, fn in parts.items():
      started = time.perf_counter()
      for _ in range(_CALLS):
        fn()
      taken[name] += time.perf_counter() - started
    rounds += 1
  return {name: rounds * _CALLS / total for name, total in taken.items()}


def measure_task(task: str, quality: str, seconds: float) -> dict:
  """Measures one task."""
  repeat = 1 if task.startswith('metaworld') else 2
  settings = envs.Settings(action_repeat=repeat, quality=quality)
  env = envs.make(task, settings, 0)
  # Imported after the environment has selected the GL backend.
  from vid2act_jax.envs import render

  # Private attributes, to measure the parts of `Env`.
  simulator = env._simulator
  camera, action = simulator._camera, np.full(env.action_dim, 0.1)
  over = {'env': True, 'simulator': True}  # Whether the episode is over.
  expensive = render.EXPENSIVE_FLAGS if quality == 'fast' else ()

  def frame():
    obs = env.reset() if any(over.values()) else env.step(action)
    over['env'] = over['simulator'] = obs['is_last']

  def physics():
    if over['simulator']:
      simulator.reset()
    for _ in range(repeat):
      outcome = simulator.step(action)
      over['simulator'] = outcome.terminal or outcome.truncated
      if over['simulator']:
        break

  def renderer():
    camera._renderer.update_scene(data, camera.index)
    for flag in expensive:
      camera._renderer.scene.flags[flag] = False
    camera._renderer.render()

  def turns():
    physics()
    renderer()

  frame()
  if hasattr(simulator, '_physics'):
    data = simulator._physics.data.ptr
  else:
    data = simulator._env.data
  parts = {
    'frames': frame,
    'physics': physics,
    'drawing': simulator.image,
    'renderer': renderer,
    'turns': turns,
  }
  figures = rates(parts, seconds)
  env.close()
  alone = 1 / (1 / figures['renderer'] + 1 / figures['physics'])
  return {
    **figures,
    'share': figures['frames'] / alone,
    'share_of_turns': figures['frames'] / figures['turns'],
  }


def main():
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--tasks', nargs='+', default=TASKS)
  parser.add_argument('--seconds', type=float, default=5.0)
  args = parser.parse_args()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  figures = {}
  for task in args.tasks:
    for quality in ('standard', 'fast'):
      found = measure_task(task, quality, args.seconds)
      figures |= {f'{task}/{quality}/{k}': v for k, v in found.items()}
  measure.report({**figures, **measure.machine()})


if __name__ == '__main__':
  main()
