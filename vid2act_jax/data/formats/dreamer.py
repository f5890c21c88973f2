"""Folders of npz episodes of Dreamer and of the PyTorch code of Vid2Act.

A file's name ends in the episode's length: the number of transitions, T - 1, in
DreamerV2; the number of frames, T, in the PyTorch code.
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
    UserError: there is no such folder, or it holds no npz.
  """
  return Folder(path, options)


class Folder:
  """The npz episodes of a folder and its subfolders, sorted by name."""

  def __init__(self, path: str, options: Options):
    self._root = core.find_folder(path, 'npz episodes')
    core.reject_scaling(options, path)
    self._options = options
    self._image_key = options.image_key or 'image'
    self._paths = sorted(self._root.rglob('*.npz'))
    if not self._paths:
      raise UserError(
        f'{path}: no *.npz in it or its subfolders; pass the folder of the '
        'episodes.'
      )
    self.metadata = {'alignment': options.align or 'led', 'dropped': []}
    if self.metadata['alignment'] == 'at':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    if not any(map(_has_rewards, self._paths)):
      core.record_no_rewards(self.metadata)

  def __len__(self) -> int:
    return len(self._paths)

  def name(self, index: int) -> str:
    return self._paths[index].relative_to(self._root).as_posix()

  def read(self, index: int) -> dict[str, np.ndarray]:
    path = self._paths[index]
    with core.wrap_errors(path):
      keys = {*eps.SCHEMA} - {'image'} | {self._image_key}
      arrays = files.read_npz(path, keys)
      episode = self._build(arrays, path)
      with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix('.npy') for name in archive.namelist()]
      core.record_dropped(self.metadata, *sorted(set(names) - keys))
      return episode

  def close(self) -> None:
    pass

  def _build(self, arrays, path):
    rewards = dataset.has_rewards(self.metadata)
    _check_keys(arrays, path, self._image_key, rewards)
    frames = arrays.pop(self._image_key)
    image = convert.prepare_images(frames, self._options, path)
    match = _LENGTH.search(path.name)
    if not match or len(image) - int(match[1]) not in (0, 1):
      raise UserError(
        f'{path}: the name should end in the length, {len(image) - 1} or '
        f'{len(image)}, such as 20230101T000000-1a2b3c-{len(image)}.npz; the '
        'file is damaged or has another format.'
      )
    if 'state' in arrays:
      arrays['state'] = convert.to_state(arrays['state'], len(image))
      if arrays['state'] is None:
        core.record_dropped(self.metadata, 'state')
    steps = convert.Steps(**arrays)
    return convert.build_episode(
      image, steps, self._options, self.metadata, path
    )


def export(
  directory: str | os.PathLike,
  destination: str | os.PathLike,
  progress: Callable[[int, int], None],
) -> dict:
  """Writes a dataset's episodes as <task>-<index>-<T>.npz; see `formats`.

  All keys of the schema are kept: the PyTorch code accepts any keys. The zeros
  of a dataset without rewards are left out.
  """
  metadata = dataset.read_metadata(directory, True)
  task = re.sub(r'\W', '_', metadata['task'])
  rewards = dataset.has_rewards(metadata)
  lost = "'reward': the dataset has none, and neither have the files"
  folder = files.make_folder(pathlib.Path(destination))
  listed = eps.list_episodes(directory)
  for done, episode in enumerate(listed, 1):
    name = f'{task}-{episode.index:06d}-{episode.length}.npz'
    if not (folder / name).exists():
      _copy(episode.path, folder / name, rewards)
    progress(done, len(listed))
  return {'episodes': len(listed), 'lost': [] if rewards else [lost]}


def _copy(source, target, rewards):
  """Copies the bytes: the files of a dataset already have this format."""
  episode = eps.load(source)
  eps.validate(episode, source)
  if not rewards:
    del episode['reward']
    write = lambda file: files.write_npz(file, episode)
  else:
    write = lambda file: file.write(source.read_bytes())
  files.atomic_write(target, write)


def _has_rewards(path):
  """Whether an episode has rewards; `read` reports a damaged one."""
  try:
    return 'reward' in files.read_npz(path, ('reward',))
  except UserError:
    return False


def _check_keys(arrays, path, image_key, rewards):
  needed = (image_key, 'action', *(('reward',) if rewards else ()))
  missing = [key for key in needed if key not in arrays]
  if 'discount' not in arrays and 'is_terminal' not in arrays:
    missing.append('discount')
  if missing:
    raise UserError(
      f'{path}: missing {", ".join(map(repr, missing))}, has '
      f'{", ".join(map(repr, arrays)) or "no known keys"}; restore or '
      'remove it.'
    )
