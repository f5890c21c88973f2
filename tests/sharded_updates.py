"""Ten updates on a number of devices, for test_sharding: arrays to a file.

  python -m tests.sharded_updates OUT.npz DEVICES HOW

HOW: 'one', 'shard_map', 'jit' or 'pmap'. Run with as many simulated devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from vid2act_jax import learner, sharding
from vid2act_jax.learner.update import multi_step
from vid2act_jax.types import Batch, FinetuneBatch

UPDATES, ROWS = 10, 8


def build(stage):
  """The stage's step and state, with real noise, and batches [K, ...]."""
  config = small.config()
  config.behavior.slow_period = 2
  config.kl.free = 0.0
  config.unroll = 1  # The gradient as on accelerators, parallel in time.
  if stage == 'pretrain':
    pretrainer = learner.build_pretrainer(config, (1, 3))
    batch = small.batch_of(UPDATES, 2, ROWS, 5, action_dim=3)
    return pretrainer.pretrain_step, small.state_of(pretrainer), batch
  config.scales.discount = 1.0
  agent = learner.build_agent(config, 2, (1, 3))
  target = small.batch_of(UPDATES, ROWS, 5, action_dim=2)
  sources = small.batch_of(UPDATES, 2, ROWS, 5, action_dim=3, seed=1)
  batch = FinetuneBatch(target, sources)
  return agent.finetune_step, small.state_of(agent), batch


def run(stage, how, num):
  """The state after the updates, and the last one's metrics."""
  step, state, batches = build(stage)
  specs = sharding.specs(Batch if stage == 'pretrain' else FinetuneBatch)
  key = jax.random.key(7)
  devices = sharding.Devices(num)
  if how == 'pmap':
    return _pmap(step, state, batches, key, specs, num)
  if how == 'several':
    call = devices.jit(multi_step(step), specs, lead=1)
    state = jax.device_put(state, devices.replicated)
    state, metrics = call(state, devices.put(batches, specs, 1), key)
    return state, jax.tree.map(lambda x: x[-1], metrics)
  # Under plain `jax.jit`, the compiler splits the work as the data is split.
  plain = jax.jit(step, donate_argnums=0)
  call = plain if how == 'jit' else devices.jit(step, specs)
  state = jax.device_put(state, devices.replicated)
  for index in range(UPDATES):
    batch = jax.tree.map(lambda x, i=index: np.asarray(x[i]), batches)
    state, metrics = call(state, devices.put(batch, specs), key)
  return state, metrics


def _pmap(step, state, batches, key, specs, num):
  mapped = jax.pmap(
    lambda state, batch: step(state, batch, key, sharding.AXIS),
    sharding.AXIS,
  )
  spread = lambda x: jnp.broadcast_to(x, (num, *x.shape))

  def cut(spec, tree):
    axis = list(spec).index(sharding.AXIS)

    def one(x):
      shape = (*x.shape[:axis], num, -1, *x.shape[axis + 1 :])
      return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(one, tree)

  is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
  state = jax.tree.map(spread, state)
  for index in range(UPDATES):
    batch = jax.tree.map(lambda x, i=index: x[i], batches)
    batch = jax.tree.map(cut, specs, batch, is_leaf=is_spec)
    state, metrics = mapped(state, batch)
  return jax.tree.map(lambda x: x[0], (state, metrics))


def main(out, num, *hows):
  """Runs, and writes parameters, moments and metrics by name."""
  arrays = {}
  for stage in ('pretrain', 'finetune'):
    for how in hows:
      state, metrics = jax.device_get(run(stage, how, int(num)))
      named = jax.tree_util.tree_leaves_with_path((state.params, metrics))
      for path, leaf in named:
        arrays[f'{stage}/{how}{jax.tree_util.keystr(path)}'] = leaf
  np.savez(out, **arrays)


if __name__ == '__main__':
  main(*sys.argv[1:])
