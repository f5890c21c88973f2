"""Writer of RLDS datasets, by the rules of TFDS, TFRecord and protobuf.

The bytes are made here, except for the checksums, which are TensorBoard's.
"""

import json
import struct

import numpy as np
from tensorboardX.record_writer import masked_crc32c

from tests.format_data import change, shift, to_png


def write_rlds(folder, episodes, shards=1, features=None, **changes):
  """Writes episodes as TFDS does; `changes` replace features of the second."""
  folder.mkdir(parents=True, exist_ok=True)
  lengths = []
  for shard in range(shards):
    part = range(shard, len(episodes), shards)
    lengths.append(str(len(part)))
    name = f'push-train.tfrecord-{shard:05d}-of-{shards:05d}'
    records = [
      encode_example(rlds_steps(episodes[i], **(changes if i == 1 else {})))
      for i in part
    ]
    (folder / name).write_bytes(b''.join(map(frame_record, records)))
  split = {'name': 'train', 'shardLengths': lengths, 'numBytes': '99'}
  info = {'name': 'push', 'fileFormat': 'tfrecord', 'splits': [split]}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  steps = rlds_features({**RLDS_FEATURES, **(features or {})})
  document = rlds_features({'episode_metadata': rlds_features({})})
  dataset = {'sequence': {'feature': steps, 'length': '-1'}}
  document['featuresDict']['features']['steps'] = dataset
  (folder / 'features.json').write_text(json.dumps(document))
  return folder


def tensor(dtype, *shape, **more):
  dimensions = {'dimensions': [str(n) for n in shape]} if shape else {}
  return {'tensor': {'shape': dimensions, 'dtype': dtype, **more}}


RLDS_FEATURES = {
  'observation/image': {
    'image': {
      'shape': {'dimensions': ['16', '16', '3']},
      'dtype': 'uint8',
      'encodingFormat': 'png',
    }
  },
  'observation/state': tensor('float64', 2),
  'action': tensor('float32', 2, encoding='none'),
  'reward': tensor('float32'),
  'discount': tensor('float32'),
  'language_instruction': {'text': {}},
  **{f'is_{k}': tensor('bool') for k in ('first', 'last', 'terminal')},
}


def rlds_features(flat):
  """A dictionary of features, nested at the slashes."""
  node = {'featuresDict': {'features': {}}}
  for name, feature in flat.items():
    inner = node
    *parents, leaf = name.split('/')
    for parent in parents:
      children = inner['featuresDict']['features']
      inner = children.setdefault(parent, {'featuresDict': {'features': {}}})
    inner['featuresDict']['features'][leaf] = feature
  return node


def rlds_steps(episode, **changes):
  """The features of an episode by name, flat as in a tf.train.Example."""
  length = len(episode['image'])
  steps = {
    'observation/image': [to_png(frame) for frame in episode['image']],
    'observation/state': np.arange(2 * length, dtype=np.float32),
    'action': shift(episode['action']).ravel(),
    'reward': shift(episode['reward']),
    'discount': np.ones(length, np.float32),
    'language_instruction': [b'push'] * length,
    **{k: episode[k].astype(int) for k in ('is_first', 'is_last')},
    'is_terminal': episode['is_terminal'].astype(int),
  }
  return {f'steps/{k}': v for k, v in change(steps, changes).items()}


def encode_example(features):
  """The bytes of a tf.train.Example."""
  entries = b''
  for name, values in features.items():
    if isinstance(values, list):  # Of bytes.
      number, data = 1, b''.join(encode_field(1, value) for value in values)
    elif values.dtype.kind == 'f':
      number, data = 2, encode_field(1, values.astype('<f4').tobytes())
    else:
      packed = b''.join(encode_varint(int(v) % (1 << 64)) for v in values)
      number, data = 3, encode_field(1, packed)
    feature = encode_field(number, data)
    entry = encode_field(1, name.encode()) + encode_field(2, feature)
    entries += encode_field(1, entry)
  return encode_field(1, entries)


def encode_field(number, data):
  """A field of protobuf that holds bytes."""
  return bytes([number << 3 | 2]) + encode_varint(len(data)) + data


def encode_varint(value):
  out = b''
  while value > 127:
    out, value = out + bytes([value & 127 | 128]), value >> 7
  return out + bytes([value])


def frame_record(data):
  """A record of a TFRecord file."""
  length = struct.pack('<Q', len(data))
  sums = [struct.pack('<I', masked_crc32c(part)) for part in (length, data)]
  return length + sums[0] + data + sums[1]
