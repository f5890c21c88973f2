"""Writes datasets of Minari."""

import os
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np

from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import core
from vid2act_jax.types import UserError


def export(
  directory: str | os.PathLike,
  destination: str | os.PathLike,
  progress: Callable[[int, int], None],
) -> dict:
  """Writes a dataset as a Minari dataset of raw frames; see `formats`.

  About 6 MB per episode of 501 frames: Minari's HDF5 has only lossy
  compression. The export is atomic. A dataset without rewards is an error.
  """
  core.import_optional('minari')
  metadata = dataset.read_metadata(directory, True)
  if not dataset.has_rewards(metadata):
    raise UserError(
      f'{directory}: {dataset.REWARDS} is false in its {dataset.FILE}, and '
      'Minari needs rewards; export it with --format dreamer.'
    )
  task = metadata['task']
  listed = eps.list_episodes(directory)
  if not listed:
    raise UserError(f'{directory}: holds no episodes; collect some first.')
  target = pathlib.Path(destination)
  if target.is_file() or (target.is_dir() and any(target.iterdir())):
    raise UserError(f'{target}: already exists; choose a new folder.')
  unfinished = target.with_name(target.name + files.TEMPORARY)
  shutil.rmtree(unfinished, ignore_errors=True)
  files.make_folder(unfinished)
  try:
    writer = _Writer(unfinished / 'data', task, listed)
    for done, file in enumerate(listed, 1):
      writer.add(file.path)
      progress(done, len(listed))
    os.replace(unfinished, target)
  except OSError as error:
    raise UserError(
      f'{target}: cannot be written ({error}); free disk space or fix the '
      'permissions and run again.'
    ) from error
  return {'episodes': writer.written, 'lost': writer.lost}


class _Writer:
  """Writes episodes to a new Minari dataset; all must have the same shapes."""

  def __init__(self, folder, task, listed):
    minari, spaces = (
      core.import_optional('minari'),
      core.import_optional('gymnasium').spaces,
    )
    storages = core.import_optional('minari.dataset.minari_storage')
    self._buffer = core.import_optional('minari.data_collector').EpisodeBuffer
    self.written, self.lost = 0, []
    self._keys = ['image', 'action']
    num_with_state = sum(
      'state' in files.read_npz(f.path, ('state',)) for f in listed
    )
    if num_with_state == len(listed):
      self._keys.append('state')
    elif num_with_state:
      self.lost.append(
        f"'state': only {num_with_state} of {len(listed)} episodes have it"
      )
    self._shapes = self._get_shapes(_load(listed[0].path))
    observations = spaces.Box(0, 255, self._shapes['image'], np.uint8)
    if 'state' in self._shapes:
      state = spaces.Box(-np.inf, np.inf, self._shapes['state'], np.float32)
      observations = spaces.Dict({'image': observations, 'state': state})
    storage = storages.MinariStorage.new(
      folder,
      observation_space=observations,
      action_space=spaces.Box(-1, 1, self._shapes['action'], np.float32),
      data_format='hdf5',
      jpeg_encoding=False,
    )
    storage.update_metadata(
      {
        'dataset_id': re.sub(r'\W', '_', task) + '-v0',
        'minari_version': minari.__version__,
        'task': task,
      }
    )
    self._dataset = minari.MinariDataset(storage)

  def add(self, path):
    episode = _load(path)
    shapes = self._get_shapes(episode)
    if shapes != self._shapes:
      raise UserError(
        f'{path}: has the shapes {shapes}, the first episode {self._shapes}; '
        'move it to another folder.'
      )
    if len(episode['reward']) == 1:
      self.lost.append(f'{path.name}: one frame and no action')
      return
    terminal = episode['is_terminal']
    if (episode['discount'] != 1 - terminal).any():
      self.lost.append(f"{path.name}: 'discount', other than 0 at a terminal")
    observations = episode['image']
    if 'state' in shapes:
      observations = {'image': observations, 'state': episode['state']}
    success = episode.get('success')
    buffer = self._buffer(
      observations=observations,
      actions=episode['action'][1:],
      rewards=episode['reward'][1:],
      terminations=terminal[1:],
      truncations=(episode['is_last'] & ~terminal)[1:],
      infos=None if success is None else {'success': success},
    )
    self._dataset.update_dataset_from_buffer([buffer])
    self.written += 1

  def _get_shapes(self, episode):
    return {key: episode[key].shape[1:] for key in self._keys}


def _load(path):
  episode = eps.load(path)
  eps.validate(episode, path)
  return episode
