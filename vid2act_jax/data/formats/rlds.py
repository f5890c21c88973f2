"""RLDS, such as Open X-Embodiment: TFRecord shards of TFDS.

A record is an episode. A step holds an observation, the action taken at it and
its reward; `is_terminal` is of the observation. Records are found by their
headers and read one at a time.
"""

import numpy as np

from vid2act_jax.data.formats import (
  convert,
  core,
  rlds_features,
  rlds_shards,
  tfrecord,
)
from vid2act_jax.data.formats.core import Options
from vid2act_jax.data.formats.frames import prepare_images
from vid2act_jax.types import UserError

_FLAGS = ('is_first', 'is_last', 'is_terminal')
_IMAGES = ('observation/image', 'observation/pixels')  # Preferred.
_ACTION, _REWARD, _STATE = 'action', 'reward', 'observation/state'


def open_source(path: str, options: Options) -> 'Folder':
  """Opens the folder of a dataset, or one above it.

  Raises:
    UserError: there is no dataset or several, its examples have no steps, no
      camera or several, or no actions of this name, or a package is missing.
  """
  return Folder(path, options)


class Folder:
  """The episodes of all splits of an RLDS dataset."""

  def __init__(self, path: str, options: Options):
    folder = core.find_folder(path, 'an RLDS dataset')
    core.import_optional('google_crc32c')
    self._root, self._options = rlds_shards.find_root(folder), options
    self.metadata = {'alignment': options.align or 'next', 'dropped': []}
    if self.metadata['alignment'] == 'next':
      core.record_dropped(self.metadata, core.DROPPED_LAST_ACTION)
    document = core.read_json(self._root / rlds_shards.FEATURES)
    with core.wrap_errors(self._root / rlds_shards.FEATURES):
      self._features = rlds_features.read_steps(document, self._root)
      self._select()
    self._records = rlds_shards.find_records(self._root)
    rlds_shards.read_info(self._root, self._records, self.metadata)
    if options.scale_actions:
      self._measure_actions()

  def __len__(self) -> int:
    return len(self._records)

  def name(self, index: int) -> str:
    record = self._records[index]
    path = record.path.relative_to(self._root).as_posix()
    return f'{path}[{record.number}]'

  def read(self, index: int) -> dict[str, np.ndarray]:
    record = self._records[index]
    if record.error:
      raise record.error
    where = f'{self._root}, {self.name(index)}'
    with core.wrap_errors(where):
      return self._build(self._parse(record), where)

  def close(self) -> None:
    pass

  def _parse(self, record):
    data = tfrecord.read_record(record.path, record.offset)
    return tfrecord.parse_example(data, self._used)

  def _build(self, example, where):
    values = lambda key: self._decode(example, key)
    if self._features[self._camera].kind == 'image':
      encoded = example.get(f'steps/{self._camera}') or ()
      frames = (rlds_features.decode_image(data, where) for data in encoded)
    else:
      frames = values(self._camera)
    image = prepare_images(frames, self._options, where)
    steps = convert.Steps(
      action=convert.join([*map(values, self._action)], 'action', where),
      reward=values(self._reward) if self._reward else None,
      state=self._read_state(values, len(image), where),
    )
    flags = {k: values(k) for k in _FLAGS if k in self._features}
    # Without any, the episode was cut short, or the flags were not set.
    if np.any(flags.get('is_first', 0)):
      steps.is_first = flags['is_first']
    if np.any(flags.get('is_last', 0)):
      steps.is_last = flags['is_last']
    if 'is_terminal' not in flags and 'discount' in self._features:
      steps.discount = values('discount')
    episode = convert.build_episode(
      image, steps, self._options, self.metadata, where
    )
    if 'is_terminal' in flags:
      # Of the frames, not of the actions.
      terminal = convert.to_bools(flags['is_terminal'], 'is_terminal', where)
      episode['is_terminal'] = terminal
      episode['discount'] = 1 - terminal.astype(np.float32)
    return episode

  def _decode(self, example, key):
    if f'steps/{key}' not in example:
      raise ValueError(f'it has no {key!r}')
    return rlds_features.decode(self._features[key], example[f'steps/{key}'])

  def _read_state(self, values, frames, where):
    if not self._state:
      return None
    state = convert.join([*map(values, self._state)], 'state', where)
    required = bool(self._options.names.state_key)
    return convert.to_state(state, frames, required, where)

  def _select(self):
    """Chooses the features to read, and records those that are dropped."""
    known = self._features
    numeric = [key for key, feature in known.items() if feature.is_numeric]
    keys = {
      option: ','.join(map(self._resolve, core.split_keys(name)))
      for option, name in vars(self._options.names).items()
    }
    keys['action_key'] = keys['action_key'] or _ACTION
    core.require_keys(keys, numeric, f'{self._root}, its steps')
    self._camera = self._select_camera()
    self._action = core.split_keys(keys['action_key'])
    self._reward = keys['reward_key'] or _REWARD
    if self._reward not in numeric:
      self._reward = None
      core.record_no_rewards(self.metadata)
    self._state = core.split_keys(keys['state_key'])
    if not self._state and _STATE in numeric:
      self._state = (_STATE,)
    num_actions = known[self._action[0]].num_classes
    if num_actions and len(self._action) == 1:
      self.metadata['num_actions'] = num_actions
    used = {self._camera, *self._action, self._reward, *self._state, *_FLAGS}
    if 'is_terminal' not in known:
      used.add('discount')
    core.record_dropped(self.metadata, *sorted(set(known) - used))
    self._used = [f'steps/{key}' for key in used if key in known]

  def _select_camera(self):
    images = [k for k, feature in self._features.items() if feature.is_image]
    preferred = [key for key in _IMAGES if key in images]
    wanted = self._options.image_key
    if wanted is None and (preferred or len(images) == 1):
      return (preferred or images)[0]
    if wanted is None or self._resolve(wanted) not in images:
      problem = 'one is needed' if wanted is None else f'{wanted!r} is not one'
      raise UserError(
        f'{self._root}: the images are {images}, {problem}; choose with '
        '--image-key.'
      )
    return self._resolve(wanted)

  def _resolve(self, key):
    """The name of a feature, which may be given without 'observation/'."""
    key = key.removeprefix('steps/')
    inner = f'observation/{key}'
    known = self._features
    return inner if key not in known and inner in known else key

  def _measure_actions(self):
    """Uses the smallest and largest actions as bounds; none are declared."""
    low, high = np.inf, -np.inf
    for record in self._records:
      try:
        with core.wrap_errors(record.path):
          if record.error:
            raise record.error
          example = self._parse(record)
          arrays = [self._decode(example, key) for key in self._action]
          action = convert.join(arrays, 'action', record.path)
          action = action.reshape(len(action), -1).astype(np.float64)
          low = np.fmin(low, action.min(0))
          high = np.fmax(high, action.max(0))
      except UserError:
        continue  # `read` reports it.
    if not (np.ndim(low) and np.isfinite([low, high]).all()):
      core.reject_scaling(self._options, self._root)
    self.metadata['action_low'] = low.tolist()
    self.metadata['action_high'] = high.tolist()
