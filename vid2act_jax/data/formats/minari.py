"""Minari: T + 1 observations and T actions per episode, taken at the frames."""

import os
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np

from vid2act_jax.data import dataset, files
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import checks, convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.types import UserError

_SUCCESS = ('success', 'is_success')


def open_source(path: str, options: Options) -> 'Dataset':
  """Opens the folder of a dataset, or a local dataset by its id.

  Raises:
    UserError: there is no dataset, it has no image or several, its actions are
      not continuous, or minari is not installed.
  """
  return Dataset(path, options)


class Dataset:
  """The episodes of a Minari dataset."""

  def __init__(self, path: str, options: Options):
    minari, spaces = (
      core.import_optional('minari'),
      core.import_optional('gymnasium').spaces,
    )
    if options.align == 'led':
      raise UserError(
        f'{path}: Minari has one action less than frames, each taken at its '
        'frame; leave --align out.'
      )
    self._path, self._options = path, options
    self.metadata = {'alignment': 'at', 'dropped': []}
    with core.wrap_errors(path):
      self._dataset = _open(minari, path)
      self._image_key = self._select_image(
        self._dataset.observation_space, spaces
      )
      self._jpegs = self._find_jpegs()
      self._read_bounds(self._dataset.action_space, spaces)
      spec = self._dataset.env_spec
      task = self._dataset.storage.metadata.get('task', spec and spec.id)
      if task:
        self.metadata['task'] = str(task)

  def __len__(self) -> int:
    return len(self._dataset)

  def name(self, index: int) -> str:
    return f'episode {index}'

  def read(self, index: int) -> dict[str, np.ndarray]:
    where = f'{self._path}, {self.name(index)}'
    with core.wrap_errors(where):
      folder = pathlib.Path(self._dataset.storage.data_path)
      checks.check_minari_episode(folder, index, self._jpegs)
      return self._build(self._dataset[index], where)

  def close(self) -> None:
    pass

  def _find_jpegs(self):
    """Keys of the observations that are stored as JPEGs."""
    is_image = core.import_optional(
      'minari.dataset.minari_storage'
    ).is_image_space
    space = self._dataset.observation_space
    if not self._dataset.storage.jpeg_encoding:
      return ()
    if self._image_key is None:
      return ('observations',) if is_image(space) else ()
    return tuple(
      f'observations/{key}' for key, part in space.items() if is_image(part)
    )

  def _build(self, source, where):
    frames, state = source.observations, None
    if self._image_key is not None:
      frames, state = frames[self._image_key], frames.get('state')
    image = convert.prepare_images(frames, self._options, where)
    rows = len(source.rewards)
    if len(image) != rows + 1:
      raise UserError(
        f'{where}: has {len(image)} frames and {rows} steps, should have one '
        'more frame than steps; restore or remove it.'
      )
    steps = convert.Steps(
      action=source.actions,
      reward=source.rewards,
      is_terminal=source.terminations,
      state=None if state is None else convert.to_state(state, len(image)),
    )
    infos = dict(source.infos or {})
    success = next((infos.pop(k) for k in _SUCCESS if k in infos), None)
    # With infos of the resets there is one per frame, else one per action.
    per_frame = success is not None and len(success) == len(image)
    if not per_frame:
      steps.success = success
    episode = convert.build_episode(
      image, steps, self._options, self.metadata, where
    )
    if per_frame:
      episode['success'] = convert.to_bools(success, 'success', where)
    core.record_dropped(
      self.metadata, *(f'infos/{key}' for key in sorted(infos))
    )
    if state is not None and steps.state is None:
      core.record_dropped(self.metadata, 'state')
    return episode

  def _select_image(self, space, spaces):
    """Returns the key of the image; None if the observations are images."""
    wanted = self._options.image_key
    if not isinstance(space, spaces.Dict):
      if not _is_image(space):
        raise UserError(
          f'{self._path}: the observations are {space}, should have an RGB '
          'image of uint8; choose another dataset.'
        )
      return None
    images = [key for key, part in space.spaces.items() if _is_image(part)]
    if wanted is not None and wanted not in images:
      raise UserError(
        f'{self._path}: {wanted!r} is not one of its images; choose one of '
        f'{images} with --image-key.'
      )
    if wanted is None and len(images) != 1:
      raise UserError(
        f'{self._path}: the images are {images}, one is needed; choose with '
        '--image-key, or another dataset.'
      )
    key = images[0] if wanted is None else wanted
    core.record_dropped(
      self.metadata, *(k for k in space.spaces if k not in (key, 'state'))
    )
    return key

  def _read_bounds(self, space, spaces):
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
      raise UserError(
        f'{self._path}: the actions are {space}, should be a Box of one '
        'dimension; choose a dataset of continuous actions.'
      )
    if np.isfinite(space.low).all() and np.isfinite(space.high).all():
      self.metadata['action_low'] = space.low.tolist()
      self.metadata['action_high'] = space.high.tolist()
    else:
      core.reject_scaling(self._options, self._path)


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


def _open(minari, path):
  folder = pathlib.Path(path).expanduser()
  for data in (folder / 'data', folder):
    if (data / 'metadata.json').is_file():
      checks.check_minari(data)
      return minari.MinariDataset(data)
  if folder.exists():
    raise UserError(
      f'{path}: no metadata.json in it or in its data/; pass the folder of a '
      'Minari dataset, or the id of a local one.'
    )
  try:
    local = (
      core.import_optional('minari.storage').get_dataset_path(path) / 'data'
    )
    if local.is_dir():
      checks.check_minari(local)
    return minari.load_dataset(path)
  except FileNotFoundError as error:
    raise UserError(
      f'{path}: neither a folder nor a local Minari dataset; download it '
      f'with `minari download {path}`.'
    ) from error


def _is_image(space):
  shape = getattr(space, 'shape', None) or ()
  return (
    len(shape) == 3 and 3 in (shape[0], shape[2]) and space.dtype == np.uint8
  )
