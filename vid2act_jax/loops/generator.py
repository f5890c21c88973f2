"""Training of the generator on the finished teacher."""

from collections.abc import Sequence

import jax
import numpy as np

from vid2act_jax.data.replay import Replay
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.learner.pretrain import Pretrainer
from vid2act_jax.types import Batch, Metrics, Params


def fit(
  pretrainer: Pretrainer,
  replays: Sequence[Replay],
  size: int,
  length: int,
  frames: int,
  key: jax.Array,
  params: Params,
) -> tuple[Params, Metrics]:
  """Samples source sequences, observes them, and fits the generator.

  It depends on the teacher, the datasets and the key alone: after a stop it
  starts again. Every host computes the same.

  Args:
    pretrainer: with a generator.
    replays: of the N sources.
    size: sequences of each source that are observed at a time.
    length: L, frames per sequence.
    frames: of each source, at least.
    key: for the noise.
    params: of the teacher, on one device.

  Returns:
    The generator's parameters, and metrics.
  """
  observe_key, fit_key = jax.random.split(key)
  observe = jax.jit(pretrainer.observe_actions)
  parts = []
  for index in range(-(-frames // (size * (length - 1)))):
    # Streams that the teacher's batches do not use.
    rows = sample_sources(
      replays, index, size, length, first_stream=len(replays) + 1
    )
    part = observe(
      params, Batch(**rows), jax.random.fold_in(observe_key, index)
    )
    parts.append(jax.tree.map(np.asarray, part))
  feat, action = (np.concatenate(x, 1) for x in zip(*parts, strict=True))
  return jax.jit(pretrainer.fit_generator)(feat, action, fit_key)
