"""Other people's datasets become datasets of this project."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable

from vid2act_jax.data import dataset, files, formats, limits, quarantine
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

_INDICES = 'imported.jsonl'


def import_dataset(
  format: str,
  source: str,
  directory: str | os.PathLike,
  options: formats.Options,
  task: str = '',
  action_repeat: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> dict:
  """Imports a dataset, episode by episode; run again, it goes on.

  `imported.jsonl` tells which episode of the source became which one here. One
  that will not do is left out, with the reason in quarantine, and tried again
  by the next import, as are those that the source has got since.

  Args:
    format: one of `formats.FORMATS`.
    source: its path or, for some formats, name; never written to.
    directory: the dataset folder.
    options: how the source is read.
    task: its task's name; '': what the source says, or the folder's name.
    action_repeat: env steps an action took; None: not known.
    progress: called with the episodes done and all of them.

  Returns:
    The metadata, with 'left_out', a count, in `collected`.

  Raises:
    UserError: the source cannot be opened or has no episode that will do, the
      folder is of another import, in use, or cannot be written.
  """
  folder = pathlib.Path(directory)
  how = {
    'method': 'import',
    'format': format,
    'source': str(source),
    'options': {key: value for key, value in vars(options).items() if value},
  }
  with (
    contextlib.closing(
      formats.open_source(format, source, options)
    ) as episodes,
    files.lock(folder),
  ):
    sizes = _sizes_before(folder, how)
    eps.clean(folder)
    known = {'action_repeat': action_repeat, 'camera': options.image_key or ''}
    known |= {'quality': '', 'flips': list(options.flips), 'versions': {}}

    def describe(sizes, complete, left_out=0, about=None, summaries=None):
      return dataset.write_metadata(
        folder,
        task or episodes.about.get('task') or folder.resolve().name,
        {**how, 'left_out': left_out, 'about': about},
        {**known, 'size': sizes[0], 'action_dim': sizes[1]},
        complete,
        summaries,
      )

    start = lambda sizes: describe(sizes, False, summaries=[])
    sizes, left_out = _copy(episodes, folder, source, sizes, start, progress)
    return describe(sizes, True, left_out, episodes.about)


def _sizes_before(folder, how):
  """(size, A) of what is there of the same import; None: nothing is.

  Raises:
    UserError: something else is there.
  """
  if dataset.is_new(folder):
    return None
  about = dataset.read_metadata(folder, partial=True)
  before = about['collected']
  # As JSON has it: tuples have become lists.
  same = json.loads(json.dumps(how))
  if {key: before.get(key) for key in same} != same:
    raise UserError(
      f'{folder}: holds another dataset ({before.get("method")}, '
      f'{before.get("source")}), or one imported with other options; choose '
      'another folder.'
    )
  return about['size'], about['action_dim']


def _copy(episodes, folder, source, sizes, start, progress):
  """Imports what is missing; returns (size, A) and how many will not do."""
  present = {file.index for file in eps.list_episodes(folder)}
  indices = _read_indices(folder)
  from_disk, left_out = pathlib.Path(source).exists(), 0
  for number in range(len(episodes)):
    name = episodes.name(number)
    if indices.get(name) not in present:
      try:
        episode = episodes.read(number)
        eps.validate(episode, f'{source}, {name}', *(sizes or ()))
      except UserError as error:
        if from_disk and not pathlib.Path(source).exists():
          raise UserError(
            f'{source}: vanished at {name}; bring it back and import again, '
            'what is there already is kept.'
          ) from error
        quarantine.record(folder, name, str(error))
        left_out += 1
      else:
        if not sizes:
          sizes = episode['image'].shape[1], episode['action'].shape[1]
          start(sizes)
        if name not in indices:
          indices[name] = len(indices)
          # Before the episode: one that is there is always known.
          _append_index(folder, name, indices[name])
        eps.save(folder, indices[name], episode)
        quarantine.forget(folder, name)
    if progress:
      progress(number + 1, len(episodes))
  if not sizes:
    why = next(iter(quarantine.reasons(folder).values()), 'it is empty')
    raise UserError(f'{source}: no episode of it will do ({why})')
  return sizes, left_out


def _read_indices(folder):
  """Our index of every episode of the source, by its name there."""
  path = folder / _INDICES
  try:
    text = limits.read_text(path) if path.exists() else ''
    whole = text[: text.rfind('\n') + 1]
    if whole != text:  # Its writer was killed in the middle of a line.
      files.atomic_write(path, lambda file: file.write(whole.encode()))
    rows = [limits.parse_json(line) for line in whole.splitlines()]
    return {row['name']: row['index'] for row in rows}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path}: damaged ({error}); import into another folder.'
    ) from error


def _append_index(folder, name, index):
  path = folder / _INDICES
  try:
    with open(path, 'a') as file:
      file.write(json.dumps({'index': index, 'name': name}) + '\n')
      file.flush()
      os.fsync(file.fileno())
  except OSError as error:
    raise UserError(
      f'{path}: cannot be written ({error.strerror}); make room and import '
      'again, what is there already is kept.'
    ) from error
