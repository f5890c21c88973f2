"""Tests of the batches that the training loops get."""

import jax
import numpy as np
import pytest

from tests.episode_data import fill
from vid2act_jax import sharding
from vid2act_jax.data.replay import Replay
from vid2act_jax.loops.batches import FinetuneBatches, PretrainBatches


@pytest.fixture
def replays(tmp_path):
  """Two sources, with 1 and 3 action dimensions."""
  out = []
  for dim in (1, 3):
    fill(tmp_path / str(dim), [9, 12], action_dim=dim)
    out.append(Replay(tmp_path / str(dim), 1e6, 0))
  return out


def assert_equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_several_batches_of_sources_are_stacked(replays):
  batches = PretrainBatches(replays, 4, 5, slice(None), sharding.Devices(1))
  one = batches.get(7, 1)
  assert one.reward.shape == (2, 4, 5) and one.action.shape == (2, 4, 5, 3)
  both = batches.get(7, 2)
  assert both.reward.shape == (2, 2, 4, 5)
  assert_equal(jax.tree.map(lambda x: x[0], both), one)
  assert_equal(jax.tree.map(lambda x: x[1], both), batches.get(8, 1))


def test_finetune_batches_are_kept_until_an_episode_ends(replays, monkeypatch):
  target, sampled = replays[0], []
  batches = FinetuneBatches(target, replays, 4, 5, sharding.Devices(1))
  sample = FinetuneBatches._sample

  def counted(self, index):
    sampled.append(index)
    return sample(self, index)

  monkeypatch.setattr(FinetuneBatches, '_sample', counted)
  first = batches.get(3, 2)
  assert first.target.reward.shape == (2, 4, 5)
  assert first.sources.reward.shape == (2, 2, 4, 5)
  assert batches.get(3, 2) is first and sampled == [3, 4]
  target.total_episodes += 1
  assert_equal(batches.get(3, 2), first)
  assert sampled == [3, 4, 3, 4]


def test_without_sources(replays):
  batch = FinetuneBatches(replays[0], (), 4, 5, sharding.Devices(1)).get(0, 1)
  assert batch.sources is None and batch.target.reward.shape == (4, 5)
