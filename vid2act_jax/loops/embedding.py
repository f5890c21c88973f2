"""Cached embeddings of frames by the frozen teacher.

The teacher is frozen, so the embedding of a frame is constant. Replay computes
it when an episode is added, and samples it with the frames. Embeddings of the
source datasets are also cached on disk.
"""

import contextlib
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vid2act_jax.data import files, store
from vid2act_jax.data.replay import DerivedColumn
from vid2act_jax.types import UserError

DTYPES = ('none', 'float16', 'float32')
_CHUNK = 50  # Frames a call, so that it is compiled for one length only.


class TeacherEncoder:
  """Embeds frames with the teacher, under some of its labels."""

  def __init__(self, agent, params, labels: np.ndarray, dtype: str):
    """Prepares the jitted encoder; it compiles at the first call.

    Args:
      agent: an `Agent` with a teacher.
      params: the teacher's parameters.
      labels: i32 [K], the domains.
      dtype: that the embeddings are rounded to.
    """
    self._labels, self._params = labels, params
    self._embed = jax.jit(agent.embed_frames)
    shape = (len(labels), agent.teacher.encoder.embed_dim)
    self.column = store.Column(shape, dtype)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Frames u8 [T, H, W, 3] -> embeddings [T, K, E]."""
    out = np.empty((len(images), *self.column.shape), self.column.dtype)
    for start in range(0, len(images), _CHUNK):
      chunk = images[start : start + _CHUNK]
      padding = [(0, _CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)]
      embed = self._embed(self._params, np.pad(chunk, padding), self._labels)
      out[start : start + _CHUNK] = np.asarray(embed)[: len(chunk)]
    return out


def hash_teacher(params) -> str:
  """Hashes the encoder's parameters, which the embeddings depend on."""
  digest = hashlib.blake2b(digest_size=12)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params['encoder']):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


class CachedEncoder:
  """A `TeacherEncoder` of one label with a cache on disk."""

  def __init__(self, encoder: TeacherEncoder, folder: pathlib.Path):
    """folder: only for this teacher, label and dtype."""
    self._encoder, self._folder = encoder, folder
    self.column = store.Column(encoder.column.shape[1:], encoder.column.dtype)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Frames u8 [T, H, W, 3] -> embeddings [T, E].

    The cache is keyed by a hash of the frames: changed frames are recomputed.
    """
    name = hashlib.blake2b(images, digest_size=12).hexdigest()
    path = self._folder / f'{name}.npz'
    # A missing or damaged file is recomputed.
    with contextlib.suppress(UserError, KeyError):
      return files.read_npz(path)['embed']
    embed = self._encoder(images)[:, 0]
    files.make_folder(self._folder)
    files.atomic_write(
      path, lambda file: files.write_npz(file, {'embed': embed})
    )
    return embed


def target_column(agent, params, dtype: str) -> DerivedColumn | None:
  """Column of the online replay: [N, E] a frame, under every label."""
  if dtype == 'none' or not agent.teacher:
    return None
  encoder = TeacherEncoder(agent, params, np.arange(agent.num_domains), dtype)
  return DerivedColumn(encoder.column, encoder, replaces_image=False)


def source_columns(
  agent, params, dtype: str, folder: pathlib.Path
) -> list[DerivedColumn | None]:
  """Column of each source's replay, in place of the images: [E] a frame.

  Args:
    agent: an `Agent` with a teacher.
    params: the teacher's parameters.
    dtype: one of `DTYPES`.
    folder: of the cache; it has a sub-folder for each teacher, dtype of
      computation and dtype of the embeddings.
  """
  if dtype == 'none':
    return [None] * agent.num_domains
  computed = jnp.dtype(agent.teacher.compute.dtype).name
  name = f'{hash_teacher(params)}-{computed}-{dtype}'
  encoders = [
    CachedEncoder(
      TeacherEncoder(agent, params, np.array([label]), dtype),
      folder / name / str(label),
    )
    for label in range(agent.num_domains)
  ]
  return [DerivedColumn(e.column, e, replaces_image=True) for e in encoders]
