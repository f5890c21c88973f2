"""Cached embeddings of the frozen teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.episode_data import fill, make_episode
from vid2act_jax import learner
from vid2act_jax.data.replay import Replay, ReplayOptions
from vid2act_jax.learner import teachers
from vid2act_jax.loops import embedding


@pytest.fixture(scope='module')
def setup():
  return small.setup()


def add_embeddings(setup, dtype):
  """The setup's batch with embeddings in place of the sources' images."""
  batch, state = setup.batch, setup.state
  model, params = setup.agent.teacher, state.teacher
  target = teachers.embed_all(setup.agent, params, batch.target.image)
  sources = jnp.stack(
    [
      model.embed(params, image, jnp.full(len(image), label))
      for label, image in enumerate(batch.sources.image)
    ]
  )
  return batch.replace(
    sources=batch.sources.replace(image=None),
    target_embed=jnp.moveaxis(target, 0, 2).astype(dtype),
    source_embed=sources.astype(dtype),
  )


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), (None, 2e-3)])
def test_update_with_embeddings_is_the_same(setup, dtype, tolerance):
  """Up to the rounding of the embeddings."""
  batch = add_embeddings(setup, dtype or 'float16')
  step = small.jit(setup.agent.finetune_step)
  left, left_metrics = setup.step(setup.state, setup.batch, small.KEY)
  right, right_metrics = step(setup.state, batch, small.KEY)
  small.assert_close(left_metrics, right_metrics, tolerance)
  small.assert_close(left.params, right.params, tolerance)
  # The update does use them: other embeddings give another update.
  other = batch.replace(target_embed=batch.target_embed + 1)
  other, _ = step(setup.state, other, small.KEY)
  assert small.differ(other.params['model'], right.params['model'])


class TestTeacherEncoder:
  @pytest.mark.parametrize('length', [3, 50, 120])
  def test_any_length(self, setup, length):
    images = np.random.default_rng(0).integers(
      0, 256, (length, 64, 64, 3), np.uint8
    )
    labels = np.arange(setup.agent.num_domains)
    encoder = embedding.TeacherEncoder(
      setup.agent, setup.state.teacher, labels, 'float32'
    )
    embed = encoder(images)
    assert embed.shape == (length, *encoder.column.shape)
    expected = teachers.embed_all(
      setup.agent, setup.state.teacher, images[None]
    )
    for label in labels:
      np.testing.assert_allclose(
        embed[:, label], expected[label, 0], rtol=1e-5, atol=1e-6
      )

  def test_cached_on_disk(self, setup, tmp_path):
    computed = []

    class Counting(embedding.TeacherEncoder):
      def __call__(self, images):
        computed.append(len(images))
        return super().__call__(images)

    def open_cache():
      encoder = Counting(
        setup.agent, setup.state.teacher, np.array([1]), 'float16'
      )
      return embedding.CachedEncoder(encoder, tmp_path)

    images = make_episode(7, size=64)['image']
    first = open_cache()(images)
    assert first.shape[0] == 7 and first.dtype == np.float16
    np.testing.assert_array_equal(open_cache()(images), first)
    assert computed == [7]
    assert not np.array_equal(open_cache()(images[::-1].copy()), first)
    assert computed == [7, 7]
    # Damaged files are recomputed.
    for path in tmp_path.iterdir():
      path.write_bytes(path.read_bytes()[:30])
    np.testing.assert_array_equal(open_cache()(images), first)
    assert computed == [7, 7, 7]

  def test_another_teacher_has_its_own_cache(self, setup, tmp_path):
    other = jax.tree.map(lambda x: x + 0.1, setup.state.teacher)
    columns = [
      embedding.source_columns(setup.agent, params, 'float16', tmp_path)
      for params in (setup.state.teacher, other)
    ]
    images = make_episode(3, size=64)['image']
    values = [column[0].compute(images) for column in columns]
    assert not np.array_equal(*values)
    assert len(list(tmp_path.iterdir())) == 2

  def test_no_embeddings(self, setup, tmp_path):
    assert embedding.target_column(setup.agent, None, 'none') is None
    variant = learner.parse('dreamerv2')
    agent = learner.build_agent(small.config(), 2, (), variant=variant)
    assert embedding.target_column(agent, None, 'float16') is None
    columns = embedding.source_columns(setup.agent, None, 'none', tmp_path)
    assert columns == [None, None]


def test_replay_samples_embeddings_with_their_frames(setup, tmp_path):
  fill(tmp_path, [6, 9, 7], size=64)
  teacher = setup.state.teacher
  target = embedding.target_column(setup.agent, teacher, 'float32')
  replay = Replay(tmp_path, 1e6, 0, ReplayOptions(embed=target))
  # Embeddings do not count towards the bound.
  assert replay.frame_bytes == Replay(tmp_path, 1e6, 0).frame_bytes
  batch = replay.sample(0, 5, 4)
  n, width = target.column.shape
  assert batch['embed'].shape == (5, 4, n, width)
  expected = teachers.embed_all(setup.agent, teacher, batch['image'])
  np.testing.assert_allclose(
    np.moveaxis(batch['embed'], 2, 0), expected, rtol=1e-5, atol=1e-6
  )
  source = embedding.source_columns(
    setup.agent, teacher, 'float32', tmp_path / 'cache'
  )[1]
  # Without images, ten times as many frames fit.
  small_replay = Replay(tmp_path, 1e6, 0, ReplayOptions(embed=source))
  assert small_replay.frame_bytes < replay.frame_bytes / 10
  rows = small_replay.sample(0, 5, 4)
  assert 'image' not in rows
  np.testing.assert_allclose(rows['embed'], expected[1], rtol=1e-5, atol=1e-6)
