"""Environment frames a second on one core, by suite and render quality.

  python -m benchmarks.envs
  python -m benchmarks.envs --tasks dmc_walker_walk --seconds 5

For each task and quality: agent steps a second of `Env` as training uses it
(`frames`), the same without drawing (`physics`), drawing alone (`drawing`),
MuJoCo's renderer alone drawing one state at the same size and quality
(`renderer`), and physics and renderer by turns with nothing else (`turns`), all
in one process on one core, a few calls of each in a row and then of the next,
so that the machine's moods meet all of them. `share` is what the environment
reaches of the frames that the renderer and the physics by themselves would
allow, `share_of_turns` of those that they allow by turns, when each finds its
data out of the processor's caches.
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
_CALLS = 4  # In a row: moods last for tens of milliseconds and more.


def rates(parts, seconds: float) -> dict[str, float]:
  """Calls a second of each function, over about so long each."""
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
  """The figures of one task."""
  repeat = 1 if task.startswith('metaworld') else 2
  settings = envs.Settings(action_repeat=repeat, quality=quality)
  env = envs.make(task, settings, 0)
  # Not before the environment has chosen how to render.
  from vid2act_jax.envs import render

  # Below `Env`, for what it is made of.
  simulator = env._simulator
  camera, action = simulator._camera, np.full(env.action_dim, 0.1)
  over = {'env': True, 'simulator': True}  # Whose episode.
  costly = render.COSTLY if quality == 'fast' else ()

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
    for flag in costly:
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
  """Measures and tells."""
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
  measure.tell({**figures, **measure.machine()})


if __name__ == '__main__':
  main()
