"""The frozen teacher's embeddings of frames: computed once, then kept.

An embedding of a frame never changes, as the teacher does not. Replay computes
it when an episode comes in, and samples it with the frames; those of the source
datasets also go to disk, for the next start.
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

TYPES = ('none', 'float16', 'float32')
_CHUNK = 50  # Frames at a time, so that one program serves all lengths.


class TeacherEncoder:
  """Embeds the frames of episodes under some labels of the teacher."""

  def __init__(self, agent, params, labels: np.ndarray, dtype: str):
    """Compiles nothing yet.

    Args:
      agent: an `Agent` with a teacher.
      params: the teacher's.
      labels: i32 [K], the domains.
      dtype: of the embeddings, what they are rounded to.
    """
    self._labels, self._params = labels, params
    self._embed = jax.jit(agent.embed_frames)
    shape = (len(labels), agent.teacher.encoder.embed_dim)
    self.column = store.Column(shape, dtype)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Frames u8 [T, H, W, 3] -> embeddings [T, K, E]."""
    out = np.empty((len(images), *self.column.shape), self.column.dtype)
    for start in range(0, len(images), _CHUNK):
      part = images[start : start + _CHUNK]
      rest = [(0, _CHUNK - len(part)), (0, 0), (0, 0), (0, 0)]
      embed = self._embed(self._params, np.pad(part, rest), self._labels)
      out[start : start + _CHUNK] = np.asarray(embed)[: len(part)]
    return out


def hash_teacher(params) -> str:
  """Of the encoder's parameters, which the embeddings depend on."""
  digest = hashlib.blake2b(digest_size=12)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params['encoder']):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


class CachedEncoder:
  """An `Embedder` of one label that keeps what it has computed on disk."""

  def __init__(self, embedder: TeacherEncoder, folder: pathlib.Path):
    """folder: of this teacher, this label and this type alone."""
    self._embedder, self._folder = embedder, folder
    self.column = store.Column(embedder.column.shape[1:], embedder.column.dtype)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Frames u8 [T, H, W, 3] -> embeddings [T, E].

    They are found by the frames themselves: a dataset that has changed gets
    new ones.
    """
    name = hashlib.blake2b(images, digest_size=12).hexdigest()
    path = self._folder / f'{name}.npz'
    # One that is damaged is made again: nothing is lost by it.
    with contextlib.suppress(UserError, KeyError):
      return files.read_npz(path)['embed']
    embed = self._embedder(images)[:, 0]
    files.make_folder(self._folder)
    files.atomic_write(
      path, lambda file: files.write_npz(file, {'embed': embed})
    )
    return embed


def target_column(agent, params, dtype: str) -> DerivedColumn | None:
  """What the online replay keeps: [N, E] a frame, under every label."""
  if dtype == 'none' or not agent.teacher:
    return None
  embedder = TeacherEncoder(agent, params, np.arange(agent.num_domains), dtype)
  return DerivedColumn(embedder.column, embedder, replaces_image=False)


def source_columns(
  agent, params, dtype: str, folder: pathlib.Path
) -> list[DerivedColumn | None]:
  """What the replay of each source keeps in its images' place: [E] a frame.

  Args:
    agent: an `Agent` with a teacher.
    params: the teacher's.
    dtype: one of `TYPES`.
    folder: where they are kept from one start to the next; those of other
      teachers, and of other types to compute or keep them in, lie apart.
  """
  if dtype == 'none':
    return [None] * agent.num_domains
  computed = jnp.dtype(agent.teacher.dtype).name
  name = f'{hash_teacher(params)}-{computed}-{dtype}'
  kept = [
    CachedEncoder(
      TeacherEncoder(agent, params, np.array([label]), dtype),
      folder / name / str(label),
    )
    for label in range(agent.num_domains)
  ]
  return [DerivedColumn(k.column, k, replaces_image=True) for k in kept]
