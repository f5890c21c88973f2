"""Finds the shards and the records of an RLDS dataset in the folder of TFDS."""

import pathlib
import re
from typing import Any, NamedTuple

from vid2act_jax.data import files
from vid2act_jax.data.formats import core, notes, tfrecord
from vid2act_jax.types import UserError

FEATURES, INFO = 'features.json', 'dataset_info.json'
_SHARD = re.compile(
  r'.+-(?P<split>[^-]+)\.tfrecord(-(?P<index>\d+)-of-(?P<total>\d{1,6}))?'
)
_MAX_RECORDS = 2_000_000  # The largest datasets have some 100,000.


class Record(NamedTuple):
  """A record of a shard; with an error, a shard that is damaged from there."""

  path: pathlib.Path
  number: int
  offset: int = 0
  error: UserError | None = None


def find_root(folder: pathlib.Path) -> pathlib.Path:
  """The folder with `features.json`: this one, or the only one below it.

  Raises:
    UserError: there is none or there are several.
  """
  found = files.find_files(folder, FEATURES)
  roots = [path.parent for path in found if path.name == FEATURES]
  if folder in roots:
    return folder
  if len(roots) == 1:
    return roots[0]
  if roots:
    names = core.quote(root.relative_to(folder).as_posix() for root in roots)
    raise UserError(
      f'{folder}: holds several datasets or versions, {names}; pass the folder '
      'of one.'
    )
  raise UserError(
    f'{folder}: no {FEATURES} in it or its subfolders; pass the folder that '
    'TFDS has written, with the version as its name, such as 1.0.0.'
  )


def find_records(root: pathlib.Path) -> list[Record]:
  """The records of all shards, in the order of the shards' names.

  Raises:
    UserError: there are no shards, or a package is missing.
  """
  records = []
  for path in _find_shards(root):
    found: list[Record] = []
    try:
      with core.wrap_errors(path):
        for offset in tfrecord.find_records(path):
          found.append(Record(path, len(found), offset))
          if len(records) + len(found) > _MAX_RECORDS:
            raise ValueError('the dataset has too many records')
    except UserError as error:
      found.append(Record(path, len(found), error=error))
    records += found
  return records


def read_info(
  root: pathlib.Path, records: list[Record], metadata: dict[str, Any]
) -> None:
  """Reads the dataset's name; warns of missing shards and records.

  Args:
    root: of the dataset.
    records: which were found.
    metadata: of the source; gets the task and the warnings.
  """
  stated: dict[str, list[int]] = {}
  try:
    with core.wrap_errors(root / INFO):
      info = core.read_json(root / INFO)
      metadata['task'] = str(info['name'])
      for split in info.get('splits', ()):
        lengths = [int(length) for length in split.get('shardLengths', ())]
        stated[str(split['name'])] = lengths
  except UserError as error:
    notes.warn(metadata, f'missing shards may not be noticed: {error}')
  held: dict[str, dict[int, int]] = {}
  for record in records:
    match = _SHARD.fullmatch(record.path.name)
    shards = held.setdefault(match['split'], {})
    index = int(match['index'] or 0)
    shards[index] = shards.get(index, 0) + (record.error is None)
    # Without a stated length only the number of shards is known.
    stated.setdefault(match['split'], [-1] * int(match['total'] or 1))
  for split, lengths in stated.items():
    _compare(split, lengths, held.get(split, {}), metadata)


def _compare(split, lengths, held, metadata):
  missing = [i for i, n in enumerate(lengths) if n and i not in held]
  if missing:
    notes.warn(
      metadata,
      f'{len(missing)} of {len(lengths)} shards of the split {split!r} are '
      f'missing, the first is number {missing[0]}: their episodes are not '
      'imported',
    )
  for index, length in enumerate(lengths):
    if length >= 0 and held.get(index, length) != length:
      notes.warn(
        metadata,
        f'shard {index} of the split {split!r} holds {held[index]} episodes, '
        f'{INFO} says {length}',
      )


def _find_shards(root):
  listed = files.find_files(root, '')
  paths = [path for path in listed if _SHARD.fullmatch(path.name)]
  if paths:
    return paths
  others = re.findall(r'\.(\w+)-\d+-of-\d+$', '\n'.join(map(str, listed)), re.M)
  hint = 'restore them'
  if others:
    hint = (
      f'its shards are of the format {others[0]!r}; let TFDS write it with '
      "download_and_prepare(file_format='tfrecord')"
    )
  raise UserError(f'{root}: no *.tfrecord* in it; {hint}.')
