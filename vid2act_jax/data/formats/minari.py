"""Minari: T + 1 observations and T actions per episode, taken at the frames."""

import pathlib

import numpy as np

from vid2act_jax.data.formats import actions, checks, convert, core
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.frames import prepare_images
from vid2act_jax.data.formats.minari_export import export
from vid2act_jax.types import UserError

__all__ = ['Dataset', 'export', 'open_source']

_SUCCESS = ('success', 'is_success')
_IMAGES = ('image', 'pixels')  # Preferred, as for environments.


def open_source(path: str, options: Options) -> 'Dataset':
  """Opens the folder of a dataset, or a local dataset by its id.

  Raises:
    UserError: there is no dataset, it has no image or several, its actions are
      neither a Box nor a Discrete, or minari is not installed.
  """
  return Dataset(path, options)


class Dataset:
  """The episodes of a Minari dataset."""

  def __init__(self, path: str, options: Options):
    minari, spaces = (
      core.import_optional('minari'),
      core.import_optional('gymnasium').spaces,
    )
    if options.align == 'prev':
      raise UserError(
        f'{path}: Minari has one action less than frames, each taken at its '
        'frame; leave --align out.'
      )
    self._path, self._options = path, options
    self.metadata = {'alignment': 'next', 'dropped': []}
    with core.wrap_errors(path):
      self._dataset = _open(minari, path)
      self._image_key = self._select_image(
        self._dataset.observation_space, spaces
      )
      self._jpegs = self._find_jpegs()
      self._read_action_space(self._dataset.action_space, spaces)
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
      frames = frames[self._image_key]
    image = prepare_images(frames, self._options, where)
    if self._state_keys:
      state = [source.observations[key] for key in self._state_keys]
      state = convert.join(state, 'state', where)
      required = bool(self._options.names.state_key)
      state = convert.to_state(state, len(image), required, where)
      if state is None:
        core.record_dropped(self.metadata, 'state')
    rows = len(source.rewards)
    if len(image) != rows + 1:
      raise UserError(
        f'{where}: has {len(image)} frames and {rows} steps, should have one '
        'more frame than steps; restore or remove it.'
      )
    infos = dict(source.infos or {})
    steps = convert.Steps(
      action=self._select_actions(source.actions, where),
      reward=self._select_rewards(source.rewards, infos, where),
      is_terminal=source.terminations,
      state=state,
    )
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
    return episode

  def _select_actions(self, value, where):
    if not self._action_keys:
      return value
    return convert.join([value[k] for k in self._action_keys], 'action', where)

  def _select_rewards(self, rewards, infos, where):
    """The rewards, or the entry of the infos that the user has named."""
    key = self._options.names.reward_key
    if not key:
      return rewards
    core.require_keys({'reward_key': key}, infos, f'{where}, infos')
    values = np.asarray(infos.pop(key))
    # With infos of the resets there is one per frame, else one per action.
    return values[1:] if len(values) == len(rewards) + 1 else values

  def _select_image(self, space, spaces):
    """Returns the key of the image; None if the observations are images."""
    wanted = self._options.image_key
    state = self._options.names.state_key
    self._state_keys = core.split_keys(state)
    if not isinstance(space, spaces.Dict):
      core.require_keys({'state_key': state}, (), f'{self._path}, observations')
      if not _is_image(space):
        raise UserError(
          f'{self._path}: the observations are {space}, should have an RGB '
          'image of uint8; choose another dataset.'
        )
      return None
    core.require_keys({'state_key': state}, space.spaces, self._path)
    if 'state' in space.spaces and not state:
      self._state_keys = ('state',)
    images = [key for key, part in space.spaces.items() if _is_image(part)]
    if wanted is None and len(images) > 1:
      wanted = next((key for key in _IMAGES if key in images), None)
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
      self.metadata,
      *(k for k in space.spaces if k not in (key, *self._state_keys)),
    )
    return key

  def _read_action_space(self, space, spaces):
    """Reads the kind of the actions and their bounds, as environments do."""
    wanted = self._options.names.action_key
    self._action_keys = core.split_keys(wanted)
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    core.require_keys({'action_key': wanted}, parts, f'{self._path}, actions')
    chosen = [parts[key] for key in self._action_keys] or [space]
    if len(chosen) == 1 and isinstance(chosen[0], spaces.Discrete):
      core.reject_scaling(self._options, self._path)
      self.metadata['num_actions'] = int(chosen[0].n)
      self.metadata['first_action'] = int(chosen[0].start)
      return
    if not all(isinstance(part, spaces.Box) for part in chosen):
      hint = 'choose another dataset'
      if parts:
        hint = f'choose Boxes, or one Discrete, of {core.quote(parts)} with '
        hint += '--action-key, such as --action-key A,B'
      raise UserError(
        f'{self._path}: the actions are {space}, should be a Box or a '
        f'Discrete; {hint}.'
      )
    if not any(np.isfinite([p.low, p.high]).any() for p in chosen):
      core.reject_scaling(self._options, self._path)
    bounds = [actions.box_bounds(part.low, part.high) for part in chosen]
    low, high = (
      np.concatenate([b.ravel() for b in side])
      for side in zip(*bounds, strict=True)
    )
    self.metadata['action_low'] = low.tolist()
    self.metadata['action_high'] = high.tolist()


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
    len(shape) == 3
    and bool({1, 3} & {shape[0], shape[2]})  # Grey, or RGB.
    and space.dtype == np.uint8
  )
