"""Folders of npz episodes of Dreamer and of the PyTorch code of Vid2Act.

A file's name may end in the episode's length: the number of transitions, T - 1,
in DreamerV2; the number of frames, T, in the PyTorch code.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Callable

import numpy as np

from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import convert, core, notes
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.frames import prepare_images
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
    self._names = _Names(options)
    self._paths = files.find_files(self._root, '.npz')
    if not self._paths:
      raise UserError(
        f'{path}: no *.npz in it or its subfolders; pass the folder of the '
        'episodes.'
      )
    self.metadata = {'alignment': options.align or 'prev', 'dropped': []}
    if self.metadata['alignment'] == 'next':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    reward_key = options.names.reward_key or 'reward'
    if not any(_has_array(p, reward_key) for p in self._paths):
      if options.names.reward_key:
        raise UserError(
          f'{path}: no episode has {reward_key!r}; choose another array with '
          '--reward-key, or leave it out.'
        )
      core.record_no_rewards(self.metadata)

  def __len__(self) -> int:
    return len(self._paths)

  def name(self, index: int) -> str:
    return self._paths[index].relative_to(self._root).as_posix()

  def read(self, index: int) -> dict[str, np.ndarray]:
    path = self._paths[index]
    with core.wrap_errors(path):
      arrays = files.read_npz(path, self._names.all)
      episode = self._build(arrays, path)
      names = _list_arrays(path)
      core.record_dropped(self.metadata, *sorted(set(names) - self._names.all))
      return episode

  def close(self) -> None:
    pass

  def _build(self, arrays, path):
    self._check_keys(arrays, path)
    names = self._names
    steps = {key: arrays[key] for key in names.others if key in arrays}
    steps['action'] = convert.join(
      [arrays[key] for key in names.action], 'action', path
    )
    steps['reward'] = arrays.get(names.reward)
    frames = arrays[names.image]
    image = prepare_images(frames, self._options, path)
    match = _LENGTH.search(path.name)
    if match and len(image) - int(match[1]) not in (0, 1):
      raise UserError(
        f'{path}: the number in the name should be the length, '
        f'{len(image) - 1} or '
        f'{len(image)}, such as 20230101T000000-1a2b3c-{len(image)}.npz; the '
        'file is damaged or has another format.'
      )
    if all(key in arrays for key in names.state):
      steps['state'] = convert.to_state(
        convert.join([arrays[key] for key in names.state], 'state', path),
        len(image),
        bool(self._options.names.state_key),
        path,
      )
      if steps['state'] is None:
        core.record_dropped(self.metadata, 'state')
    return convert.build_episode(
      image, convert.Steps(**steps), self._options, self.metadata, path
    )

  def _check_keys(self, arrays, path):
    names = self._names
    needed = [names.image, *names.action]
    needed += [names.reward] if dataset.has_rewards(self.metadata) else []
    needed += names.state if self._options.names.state_key else []
    missing = [key for key in needed if key not in arrays]
    if 'discount' not in arrays and 'is_terminal' not in arrays:
      notes.warn(self.metadata, notes.NO_ENDS)
    if missing:
      raise UserError(
        f'{path}: missing {core.quote(missing)}, has '
        f'{core.quote(_list_arrays(path))}; choose other arrays with '
        '--image-key, --action-key, --reward-key or --state-key, or restore '
        'or remove it.'
      )


class _Names:
  """The names of the arrays in the files."""

  def __init__(self, options):
    self.image = options.image_key or 'image'
    self.action = core.split_keys(options.names.action_key) or ('action',)
    self.reward = options.names.reward_key or 'reward'
    self.state = core.split_keys(options.names.state_key) or ('state',)
    self.others = {*eps.SCHEMA} - {'image', 'action', 'reward', 'state'}
    named = {self.image, *self.action, self.reward, *self.state}
    self.all = self.others | named


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


def _has_array(path, key):
  """Whether an episode has an array; `read` reports a damaged one."""
  try:
    return key in files.read_npz(path, (key,))
  except UserError:
    return False


def _list_arrays(path):
  with zipfile.ZipFile(path) as archive:
    return [name.removesuffix('.npy') for name in archive.namelist()]
