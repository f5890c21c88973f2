"""Tests of replays in device memory: the same batches as on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.episode_data import fill, play
from vid2act_jax import sharding
from vid2act_jax.data.replay import DerivedColumn, Replay, ReplayOptions
from vid2act_jax.data.store import Column
from vid2act_jax.loops import device_replay, seed_calls
from vid2act_jax.loops.batches import (
  FinetuneBatches,
  PretrainBatches,
  Rehearsal,
)
from vid2act_jax.types import DeviceBatch, UserError

LENGTH = 5


def embed_column(shape, replaces_image):
  """Embeddings that are made of a frame's first pixel."""
  width = int(np.prod(shape))

  def compute(images):
    rows = images[:, 0, 0, :1].astype(np.float16) + np.arange(width)
    return rows.astype(np.float16).reshape(-1, *shape)

  return DerivedColumn(Column(shape, 'float16'), compute, replaces_image)


@pytest.fixture
def folders(tmp_path):
  """Two source datasets, with 1 and 3 action dimensions."""
  return [
    fill(tmp_path / f'source_{dim}', [9, 150, 12], action_dim=dim)
    for dim in (1, 3)
  ]


@pytest.fixture
def sources(folders):
  """Their replays, as embeddings."""
  options = ReplayOptions(embed=embed_column((4,), True))
  return [Replay(folder, 1e6, i, options) for i, folder in enumerate(folders)]


def open_target(folder, frames, **options):
  """An online replay for a number of frames."""
  embed = embed_column((2, 3), False)
  options = ReplayOptions(2, 4, embed=embed, **options)
  probe = Replay(folder / 'probe', 1e6, 0, options, owner=True)
  return Replay(
    folder / 'target', frames * probe.frame_bytes, 7, options, owner=True
  )


def open_batches(target, sources, records=1_000):
  """Batches from the host and from the device."""
  devices = sharding.Devices(1)
  images = [Replay(source.directory, 1e6, 3) for source in sources]
  rehearsal = Rehearsal(images, 2)
  known = lambda replays: [(r, r.num_frames) for r in replays]
  on_device = device_replay.DeviceReplays(
    {
      'target': [(target, records)],
      'sources': known(sources),
      'rehearsal': known(images),
    },
    functools.partial(device_replay.load_finetune, length=LENGTH),
    devices,
  )
  args = target, sources, 6, LENGTH, devices, rehearsal
  return FinetuneBatches(*args), FinetuneBatches(*args, on_device)


def assert_same_batches(host, device, index, count=1):
  expected = host.get(index, count)
  batch = device.get(index, count)
  assert isinstance(batch, DeviceBatch)
  small.assert_equal(device.arrays(batch), expected)


@pytest.mark.parametrize('cross_episodes', [False, True])
def test_batches_are_those_of_the_host(tmp_path, sources, cross_episodes):
  target = open_target(tmp_path, 500, cross_episodes=cross_episodes)
  play(target, [20, 7])
  host, device = open_batches(target, sources)
  assert_same_batches(host, device, 3)
  assert_same_batches(host, device, 4, count=3)
  play(target, [140, 11], first=2)  # More than a block.
  assert_same_batches(host, device, 5)


def test_the_oldest_episodes_are_overwritten(tmp_path, sources):
  target = open_target(tmp_path, 60)
  host, device = open_batches(target, sources)
  for number in range(9):
    play(target, [17 + number], first=number)
    assert_same_batches(host, device, number)
  assert target.num_episodes < 4


def test_arrays_of_a_batch_can_be_read_after_later_writes(tmp_path, sources):
  target = open_target(tmp_path, 500)
  play(target, [20])
  host, device = open_batches(target, sources)
  expected, batch = host.get(0, 1), device.get(0, 1)
  play(target, [9], first=1)
  small.assert_equal(device.arrays(batch), expected)


def test_the_copy_grows_if_episodes_are_shorter_than_expected(
  tmp_path, sources
):
  target = open_target(tmp_path, 500)
  host, device = open_batches(target, sources, records=30)
  for number in range(4):
    play(target, [20], first=number)
    assert_same_batches(host, device, number)


def test_batches_of_pretraining(folders):
  replays = [Replay(folder, 1e6, 1) for folder in folders]
  kinds = {'sources': [(replay, replay.num_frames) for replay in replays]}
  load = functools.partial(device_replay.load_pretrain, length=LENGTH)
  args = replays, 4, LENGTH, slice(1, 3), sharding.Devices(1)
  on_device = device_replay.DeviceReplays(kinds, load, args[-1])
  host, device = PretrainBatches(*args), PretrainBatches(*args, on_device)
  assert_same_batches(host, device, 2)
  assert_same_batches(host, device, 3, count=2)


def test_joined_seeds_gather_from_their_own_replays(tmp_path, sources):
  """The replays differ in size, so they cannot be stacked; batches can."""
  batches = []
  for seed in range(2):
    target = open_target(tmp_path / str(seed), 500)
    play(target, [20 + seed, 9])
    _, device = open_batches(target, sources, records=100 + seed)
    batches.append(device)
  raw = tuple(b.get(seed, 1) for seed, b in enumerate(batches))
  load = functools.partial(device_replay.load_finetune, length=LENGTH)
  mean = lambda state, batch, key: (
    state + batch.target.image.astype(jnp.float32).mean(),
    batch.source_embed,
  )
  prepare = lambda batch, key: (load(batch), key)
  joined = jax.jit(seed_calls.join(mean, 2, prepare))
  results = joined(jnp.arange(2.0), raw, (0, 0))
  for seed, result in enumerate(results):
    arrays = batches[seed].arrays(raw[seed])
    assert np.isclose(result[0], seed + arrays.target.image.mean())
    small.assert_equal(result[1], arrays.source_embed)


def test_replays_that_do_not_fit_stay_on_the_host(sources):
  kinds = {'sources': [(source, source.num_frames) for source in sources]}
  devices, messages = sharding.Devices(1), []
  opened = functools.partial(
    device_replay.open_replays,
    kinds,
    lambda x: x,
    devices=devices,
    report=messages.append,
  )
  assert opened(1e9) is not None and opened(0) is None and not messages
  assert opened(1e3) is None
  assert 'config.replay.device_gb' in messages[0]


def test_device_memory_for_replays():
  devices = sharding.Devices(1)
  size = device_replay.capacity_bytes
  assert size(-1, devices, 1) == 0  # A CPU.
  assert size(2.5, devices, 4) == 2.5e9
  devices.process_count = 2
  assert size(-1, devices, 1) == 0
  with pytest.raises(UserError, match='2 hosts'):
    size(1, devices, 1)
