"""One update of several seeds against that of one.

  python -m benchmarks.seeds
  python -m benchmarks.seeds --preset learning_check --seeds 1 8 --repeats 20

The seeds make one vectorized call, or one call after another, as in training
(`seeds.vectorizes`); --vectorized makes one on any device. Every update has
another batch than the one before, so that no number of seeds finds its own in a
cache, and the numbers take turns. Prints one line of JSON and a table: seconds
of all updates together, the ratio to the first number of seeds, and the peak
memory, which grows along the list.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp

from benchmarks import measure, update
from experiments import learning_check
from vid2act_jax import learner
from vid2act_jax.loops import seed_calls, seeds

PRESETS = {**update.PRESETS, 'learning_check': learning_check}
_ACTIONS = 6
_BATCHES = 8  # Of each seed, one after another.
_QUEUED = 10  # Calls dispatched without waiting, on accelerators.


def make_call(agent, batches: tuple, vectorized: bool):
  """A function without arguments that updates every seed once.

  Args:
    agent: an `Agent`.
    batches: of each seed, several that take turns.
    vectorized: whether it is a single call.
  """
  num = len(batches)
  keys = tuple(jax.random.key(i) for i in range(num))
  init = jax.jit(lambda key: agent.init(key, agent.teacher.init(key)))
  turns = itertools.cycle(zip(*batches, strict=True))
  if vectorized:
    states = jax.jit(jax.vmap(init))(jnp.stack(keys))
    step = seed_calls.join_update(agent.finetune_step, num)
    rest = keys, jnp.full(num, True)
  else:
    states, step = list(map(init, keys)), agent.finetune_step
  step = jax.jit(step, donate_argnums=0)

  def call_together():
    nonlocal states
    states, metrics = step(states, next(turns), rest)
    return metrics

  def call_one_after_another():
    metrics = []
    for i, batch in enumerate(next(turns)):
      results = jax.block_until_ready(step(states[i], batch, keys[i]))
      states[i] = results[0]
      metrics.append(results[1])
    return metrics

  return call_together if vectorized else call_one_after_another


def measure_seeds(args) -> dict:
  """Times the update of every number of seeds."""
  config = PRESETS[args.preset].get_config()
  config.learner.dtype = args.dtype
  agent = learner.build_agent(
    config.learner, _ACTIONS, (_ACTIONS,) * args.domains
  )
  vectorized = args.vectorized or seeds.vectorizes(config)
  queued = _QUEUED if vectorized else 1
  shape = config.finetune.batch, config.finetune.length
  figures, functions = {}, []
  for num in args.seeds:
    batches = tuple(
      [update.make_batch(agent, *shape, 'float16') for _ in range(_BATCHES)]
      for _ in range(num)
    )
    call = make_call(agent, batches, vectorized)

    def calls(call=call):
      for _ in range(queued):
        out = call()
      return out

    functions.append(calls)
    jax.block_until_ready(calls())  # Compiles.
    figures[f'seeds_{num}_peak_bytes'] = measure.peak_memory()
  times = measure.interleaved_seconds(functions, args.repeats)
  for num, seconds in zip(args.seeds, times, strict=True):
    figures[f'seeds_{num}_s'] = seconds / queued
    figures[f'seeds_{num}_ratio'] = seconds / times[0]
  return figures


def parse(arguments=None):
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--preset', choices=PRESETS, default='full')
  parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 4])
  parser.add_argument('--domains', type=int, default=4)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument(
    '--vectorized', action='store_true', help='one call, also on a CPU'
  )
  return parser.parse_args(arguments)


def main():
  """Command line."""
  args = parse()
  figures = measure_seeds(args)
  measure.report({**vars(args), **figures, **measure.machine()})


if __name__ == '__main__':
  main()
