"""Writes arrays of ten updates on several devices, for test_sharding.

  python -m tests.sharded_updates OUT.npz STAGE METHOD DEVICES

STAGE: 'pretrain', 'finetune' or 'guided', a finetuning with rehearsal and a
prior of the actor. METHOD: 'shard_map', 'multi_step', 'jit' or
'pmap'. Needs that many simulated devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from vid2act_jax import learner, sharding
from vid2act_jax.learner.update import multi_step
from vid2act_jax.types import Batch, FinetuneBatch

UPDATES, ROWS = 10, 4


def build(stage):
  """The stage's step and state, with random noise, and batches [K, ...]."""
  config = small.config()
  config.behavior.slow_period = 2
  config.kl.free = 0.0
  config.unroll = 1  # The parallel gradient of accelerators.
  if stage == 'pretrain':
    pretrainer = learner.build_pretrainer(config, (1, 3))
    batch = small.batch_of(UPDATES, 2, ROWS, 5, action_dim=3)
    return pretrainer.pretrain_step, small.state_of(pretrainer), batch
  config.scales.discount = 1.0
  if stage == 'guided':
    fields = {'states': 'prior', 'guidance': 'prior', 'prior_scale': 100.0}
    variant = learner.parse('vid2act_guided', ('a', 'b'), fields)
    agent = learner.build_agent(
      config, 2, (1, 3), variant=variant, num_updates=2 * UPDATES
    )
    target = small.batch_of(UPDATES, ROWS, 5, action_dim=2)
    sources = small.batch_of(UPDATES, 2, ROWS, 5, action_dim=3, seed=1)
    batch = FinetuneBatch(target, None, rehearsal=sources)
    return agent.finetune_step, small.state_of(agent), batch
  agent = learner.build_agent(config, 2, (1, 3))
  target = small.batch_of(UPDATES, ROWS, 5, action_dim=2)
  sources = small.batch_of(UPDATES, 2, ROWS, 5, action_dim=3, seed=1)
  batch = FinetuneBatch(target, sources)
  return agent.finetune_step, small.state_of(agent), batch


def run(stage, method, num):
  """The state after the updates, and the metrics of the last one."""
  step, state, batches = build(stage)
  specs = sharding.specs(Batch if stage == 'pretrain' else FinetuneBatch)
  key = jax.random.key(7)
  devices = sharding.Devices(num)
  if method == 'pmap':
    return _pmap(step, state, batches, key, specs, num)
  if method == 'multi_step':
    call = devices.jit(multi_step(step), specs, leading_axes=1)
    state = jax.device_put(state, devices.replicated)
    state, metrics = call(state, devices.device_put(batches, specs, 1), key)
    return state, jax.tree.map(lambda x: x[-1], metrics)
  # Under plain `jax.jit`, the compiler partitions the step like the batch.
  plain = jax.jit(step, donate_argnums=0)
  call = plain if method == 'jit' else devices.jit(step, specs)
  state = jax.device_put(state, devices.replicated)
  for index in range(UPDATES):
    batch = jax.tree.map(lambda x, i=index: np.asarray(x[i]), batches)
    state, metrics = call(state, devices.device_put(batch, specs), key)
  return state, metrics


def _pmap(step, state, batches, key, specs, num):
  mapped = jax.pmap(
    lambda state, batch: step(state, batch, key, sharding.AXIS),
    sharding.AXIS,
  )
  replicate = lambda x: jnp.broadcast_to(x, (num, *x.shape))

  def shard(spec, tree):
    axis = list(spec).index(sharding.AXIS)

    def shard_array(x):
      shape = (*x.shape[:axis], num, -1, *x.shape[axis + 1 :])
      return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(shard_array, tree)

  is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
  state = jax.tree.map(replicate, state)
  for index in range(UPDATES):
    batch = jax.tree.map(lambda x, i=index: x[i], batches)
    batch = jax.tree.map(shard, specs, batch, is_leaf=is_spec)
    state, metrics = mapped(state, batch)
  return jax.tree.map(lambda x: x[0], (state, metrics))


def main(out, stage, method, num):
  """Runs the updates and writes parameters and metrics by name."""
  state, metrics = jax.device_get(run(stage, method, int(num)))
  named = jax.tree_util.tree_leaves_with_path((state.params, metrics))
  np.savez(out, **{jax.tree_util.keystr(path): leaf for path, leaf in named})


if __name__ == '__main__':
  main(*sys.argv[1:])
