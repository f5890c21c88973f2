"""TFRecord files of tf.train.Example, without TensorFlow.

A record is its length (u64), a checksum of the length (u32), the data, and a
checksum of the data (u32), all little-endian. A checksum is a CRC-32C, rotated
by 15 bits, plus a constant.
"""

import functools
import os
import pathlib
import struct
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.data.formats import core

_HEADER = struct.Struct('<QI')
_CHECKSUM = struct.Struct('<I')
_MASK = 0xA282EAD8
_GROWTH = 16  # A parsed record takes at most so many times its bytes.
_GZIP = b'\x1f\x8b'


def find_records(path: pathlib.Path) -> Iterator[int]:
  """Yields the offset of each record, without reading the data.

  Raises:
    UserError: google_crc32c is not installed.
    OSError, ValueError: the file is damaged; the offsets before are valid.
  """
  size, offset = os.path.getsize(path), 0
  with open(path, 'rb') as file:
    if file.read(2) == _GZIP:
      raise ValueError('compressed with gzip; unpack it with gunzip')
    while offset < size:
      file.seek(offset)
      length = _read_length(file, size - offset)
      yield offset
      offset += _HEADER.size + length + _CHECKSUM.size


def read_record(path: pathlib.Path, offset: int) -> bytes:
  """Reads the data of a record and verifies its checksum.

  Raises:
    UserError: google_crc32c is not installed.
    OSError, ValueError: the file is damaged, or the record is too large.
  """
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    file.seek(offset)
    length = _read_length(file, size - offset)
    limits.check_size(_GROWTH * length, size)
    data = file.read(length)
    if _CHECKSUM.unpack(file.read(_CHECKSUM.size))[0] != checksum(data):
      raise ValueError(f'the record at byte {offset} has a wrong checksum')
  return data


def parse_example(data: bytes, names: Collection[str]) -> dict[str, Any]:
  """Parses a tf.train.Example.

  Args:
    data: of the record.
    names: of the features to convert; the others may be large.

  Returns:
    By name: i64 [N], f32 [N] or a list of bytes; None for an empty feature.

  Raises:
    google.protobuf.message.DecodeError: it is damaged.
  """
  features = _example_class().FromString(data).features.feature
  # Looking up a feature that is missing would add it.
  return {
    name: _to_values(features[name]) for name in names if name in features
  }


def checksum(data: bytes) -> int:
  """The masked CRC-32C of TFRecord files.

  Raises:
    UserError: google_crc32c is not installed.
  """
  crc = core.import_optional('google_crc32c').value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _read_length(file, available):
  """Reads a header; the data must fit into the available bytes."""
  header = file.read(_HEADER.size)
  if len(header) < _HEADER.size:
    raise ValueError('it is truncated')
  length, expected = _HEADER.unpack(header)
  if checksum(header[:8]) != expected:
    raise ValueError('it has a record with a wrong checksum, or no records')
  if length > available - _HEADER.size - _CHECKSUM.size:
    raise ValueError('it is truncated')
  return length


def _to_values(feature):
  kind = feature.WhichOneof('kind')
  if kind is None:
    return None
  values = getattr(feature, kind).value
  if kind == 'bytes_list':
    return list(values)
  return np.array(values, np.float32 if kind == 'float_list' else np.int64)


@functools.cache
def _example_class():
  """The message type tf.train.Example, in a pool of its own.

  In the common pool it would collide with that of other packages.
  """
  protobuf = core.import_optional('google.protobuf.descriptor_pb2')
  pools = core.import_optional('google.protobuf.descriptor_pool')
  factory = core.import_optional('google.protobuf.message_factory')
  package = 'tensorflow'
  file = protobuf.FileDescriptorProto(
    name='example.proto', package=package, syntax='proto3'
  )
  kind = protobuf.FieldDescriptorProto

  def add(parent, name, number, type, repeated=False, message=None):
    field = parent.field.add(name=name, number=number, type=type)
    field.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
    if message:
      field.type_name = f'.{package}.{message}'
    return field

  lists = (
    ('BytesList', kind.TYPE_BYTES),
    ('FloatList', kind.TYPE_FLOAT),
    ('Int64List', kind.TYPE_INT64),
  )
  for name, type in lists:
    add(file.message_type.add(name=name), 'value', 1, type, True)
  feature = file.message_type.add(name='Feature')
  feature.oneof_decl.add(name='kind')
  for number, (name, _) in enumerate(lists, 1):
    field = name.removesuffix('List').lower() + '_list'
    add(feature, field, number, kind.TYPE_MESSAGE, message=name).oneof_index = 0
  features = file.message_type.add(name='Features')
  entry = features.nested_type.add(name='FeatureEntry')
  entry.options.map_entry = True
  add(entry, 'key', 1, kind.TYPE_STRING)
  add(entry, 'value', 2, kind.TYPE_MESSAGE, message='Feature')
  message = 'Features.FeatureEntry'
  add(features, 'feature', 1, kind.TYPE_MESSAGE, True, message)
  example = file.message_type.add(name='Example')
  add(example, 'features', 1, kind.TYPE_MESSAGE, message='Features')
  pool = pools.DescriptorPool()
  pool.Add(file)
  return factory.GetMessageClass(
    pool.FindMessageTypeByName(f'{package}.Example')
  )
