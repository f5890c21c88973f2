"""Folders of npz episodes, as Dreamer and the PyTorch code of Vid2Act write.

A file's name ends in its length: of the transitions, T - 1, in DreamerV2; of
the frames, T, in the PyTorch code.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Callable

import numpy as np

from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

_LENGTH = re.compile(r'-(\d+)\.npz$')


def open_source(path: str, options: Options) -> 'Folder':
  """Opens a folder of episodes.

  Raises:
    UserError: there is none, or it holds no npz.
  """
  return Folder(path, options)


class Folder:
  """The npz episodes of a folder and those below it, by name."""

  def __init__(self, path: str, options: Options):
    self._root = core.find_folder(path, 'npz episodes')
    core.refuse_scaling(options, path)
    self._options = options
    self._image_key = options.image_key or 'image'
    self._paths = sorted(self._root.rglob('*.npz'))
    if not self._paths:
      raise UserError(
        f'{path}: no *.npz in it or below; give the folder of the episodes.'
      )
    self.about = {'alignment': options.align or 'led', 'dropped': []}
    if self.about['alignment'] == 'at':
      core.drop(self.about, core.LAST_ACTION)

  def __len__(self) -> int:
    return len(self._paths)

  def name(self, index: int) -> str:
    return self._paths[index].relative_to(self._root).as_posix()

  def read(self, index: int) -> dict[str, np.ndarray]:
    path = self._paths[index]
    with core.guard(path):
      known = {*eps.SCHEMA} - {'image'} | {self._image_key}
      arrays = files.read_npz(path, known)
      episode = self._build(arrays, path)
      with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix('.npy') for name in archive.namelist()]
      core.drop(self.about, *sorted(set(keys) - known))
      return episode

  def close(self) -> None:
    pass

  def _build(self, arrays, path):
    _check_keys(arrays, path, self._image_key)
    frames = arrays.pop(self._image_key)
    image = convert.prepare(frames, self._options, path)
    match = _LENGTH.search(path.name)
    if not match or len(image) - int(match[1]) not in (0, 1):
      raise UserError(
        f'{path}: the name should end in the length, {len(image) - 1} or '
        f'{len(image)}, as in 20230101T000000-1a2b3c-{len(image)}.npz; the '
        'file is damaged, or of another program.'
      )
    if 'state' in arrays:
      arrays['state'] = convert.fit_state(arrays['state'], len(image))
      if arrays['state'] is None:
        core.drop(self.about, 'state')
    steps = convert.Steps(image, **arrays)
    return convert.build(steps, self._options, self.about, path)


def export(
  directory: str | os.PathLike,
  destination: str | os.PathLike,
  progress: Callable[[int, int], None],
) -> dict:
  """Writes a dataset's episodes as <task>-<index>-<T>.npz; see `formats`.

  All our keys are kept: the PyTorch code batches whatever keys episodes have.
  """
  task = re.sub(r'\W', '_', dataset.read_metadata(directory, True)['task'])
  folder = files.make_folder(pathlib.Path(destination))
  listed = eps.list_episodes(directory)
  for done, episode in enumerate(listed, 1):
    name = f'{task}-{episode.index:06d}-{episode.length}.npz'
    if not (folder / name).exists():
      _copy(episode.path, folder / name)
    progress(done, len(listed))
  return {'episodes': len(listed), 'lost': []}


def _copy(source, target):
  """The bytes as they are: what we write is of this format already."""
  eps.validate(eps.load(source), source)
  files.atomic_write(target, lambda file: file.write(source.read_bytes()))


def _check_keys(arrays, path, image_key):
  missing = [k for k in (image_key, 'action', 'reward') if k not in arrays]
  if 'discount' not in arrays and 'is_terminal' not in arrays:
    missing.append('discount')
  if missing:
    raise UserError(
      f'{path}: missing {", ".join(map(repr, missing))}, has '
      f'{", ".join(map(repr, arrays)) or "nothing of an episode"}; restore or '
      'remove it.'
    )
