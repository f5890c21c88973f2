"""Imports datasets of other programs."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable

from vid2act_jax.data import dataset, files, formats, limits, quarantine
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import notes
from vid2act_jax.types import UserError

_INDEX_FILE = 'imported.jsonl'
# They let more episodes pass and do not change those that passed before, so
# that an import can go on with them.
_WIDENING = ('clip_actions', 'count_frames')


def import_dataset(
  format: str,
  source: str,
  directory: str | os.PathLike,
  options: formats.Options,
  task: str = '',
  action_repeat: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> dict:
  """Imports a dataset, episode by episode; resumes when called again.

  `imported.jsonl` maps the source's episodes to their indices in the dataset.
  An invalid episode is skipped, with the reason in quarantine. The next import
  tries it again, and adds episodes that are new in the source.

  Args:
    format: one of `formats.FORMATS`.
    source: path or, for some formats, name of the dataset; only read.
    directory: the dataset folder.
    options: how to read the source.
    task: the task's name; '': as in the source, or the folder's name.
    action_repeat: env steps per action; None: unknown.
    progress: called with the number of episodes done and their total.

  Returns:
    The metadata; `collected` has 'left_out', the number of skipped episodes.

  Raises:
    UserError: the source cannot be opened or has no valid episode, or the
      folder holds another import, is locked, or cannot be written.
  """
  if action_repeat is not None and action_repeat < 1:
    raise UserError(
      f'--action-repeat is {action_repeat}: pass a number of at least 1, or '
      'leave it out if it is not known.'
    )
  folder = pathlib.Path(directory)
  provenance = {
    'method': 'import',
    'format': format,
    'source': str(source),
    'options': {k: v for k, v in options.to_dict().items() if v},
  }
  with (
    contextlib.closing(
      formats.open_source(format, source, options)
    ) as episodes,
    files.lock(folder),
  ):
    rewards = dataset.has_rewards(episodes.metadata)
    earlier = _read_earlier(folder, provenance, rewards)
    sizes = earlier and (earlier['size'], earlier['action_dim'])
    if earlier:
      notes.merge(episodes.metadata, earlier['collected'].get('about'))
    eps.clean(folder)
    known = {'action_repeat': action_repeat, 'camera': options.image_key or ''}
    known |= {} if rewards else {dataset.REWARDS: False}
    known |= {'quality': '', 'flips': list(options.flips), 'versions': {}}

    def write_metadata(
      sizes, complete, left_out=0, source_metadata=None, summaries=None
    ):
      return dataset.write_metadata(
        folder,
        task or episodes.metadata.get('task') or folder.resolve().name,
        {**provenance, 'left_out': left_out, 'about': source_metadata},
        {**known, 'size': sizes[0], 'action_dim': sizes[1]},
        complete,
        summaries,
      )

    on_first = lambda sizes: write_metadata(sizes, False, summaries=[])
    sizes, left_out = _import_episodes(
      episodes, folder, source, sizes, on_first, progress
    )
    if not sizes:
      reasons = quarantine.read_reasons(folder)
      reason = next(iter(reasons.values()), 'it is empty')
      error = UserError(f'{source}: has no valid episode ({reason})')
      raise formats.explain(format, source, error)
    return write_metadata(sizes, True, left_out, episodes.metadata)


def _read_earlier(folder, provenance, rewards):
  """The metadata of an earlier run of this import; None if there is none.

  Raises:
    UserError: the folder holds another dataset.
  """
  if dataset.is_new(folder):
    return None
  metadata = dataset.read_metadata(folder, partial=True)
  previous = metadata['collected']
  # Through JSON, which turns tuples into lists.
  expected = json.loads(json.dumps(provenance))
  found = {key: previous.get(key) for key in expected}
  if _identity(found) != _identity(expected):
    raise UserError(
      f'{folder}: holds another dataset ({previous.get("method")}, '
      f'{previous.get("source")}), or one imported with other options; choose '
      'another folder.'
    )
  if rewards and not dataset.has_rewards(metadata):
    raise UserError(
      f'{folder}: {dataset.REWARDS} is false in its {dataset.FILE}, but now '
      'the source has rewards; import it into another folder.'
    )
  return metadata


def _identity(provenance):
  options = provenance['options']
  if isinstance(options, dict):  # A dataset's metadata are not trusted.
    options = {k: v for k, v in options.items() if k not in _WIDENING}
  return {**provenance, 'options': options}


def _import_episodes(episodes, folder, source, sizes, on_first, progress):
  """Imports the missing episodes.

  Returns:
    (size, A), None if there is no valid episode, and the skipped count.
  """
  present = {file.index for file in eps.list_episodes(folder)}
  indices = _read_indices(folder)
  from_disk, left_out = pathlib.Path(source).exists(), 0
  for number in range(len(episodes)):
    name = episodes.name(number)
    if indices.get(name) not in present:
      counts = dict(episodes.metadata.get('counts', {}))
      try:
        episode = episodes.read(number)
        eps.validate(episode, f'{source}, {name}', *(sizes or ()))
      except UserError as error:
        if from_disk and not pathlib.Path(source).exists():
          raise UserError(
            f'{source}: disappeared at {name}; restore it and import again; '
            'episodes already imported are kept.'
          ) from error
        episodes.metadata['counts'] = counts  # Without this episode.
        quarantine.write_reason(folder, name, str(error))
        left_out += 1
      else:
        if not sizes:
          sizes = episode['image'].shape[1], episode['action'].shape[1]
          on_first(sizes)
        if name not in indices:
          indices[name] = len(indices)
          # Before the episode: every episode on disk has an entry.
          _append_index(folder, name, indices[name])
        eps.save(folder, indices[name], episode)
        notes.look_at_frames(episodes.metadata, episode['image'])
        quarantine.remove_reason(folder, name)
    if progress:
      progress(number + 1, len(episodes))
  return sizes, left_out


def _read_indices(folder):
  """Indices in the dataset by name in the source."""
  path = folder / _INDEX_FILE
  try:
    text = limits.read_text(path) if path.exists() else ''
    whole = text[: text.rfind('\n') + 1]
    if whole != text:  # The process was killed in the middle of a line.
      files.atomic_write(path, lambda file: file.write(whole.encode()))
    rows = [limits.parse_json(line) for line in whole.splitlines()]
    return {row['name']: row['index'] for row in rows}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{path}: damaged ({error}); import into another folder.'
    ) from error


def _append_index(folder, name, index):
  line = json.dumps({'index': index, 'name': name})
  files.append_line(folder / _INDEX_FILE, line, durable=True)
