"""Statistics and a contact sheet of a dataset."""

import os
import pathlib

import numpy as np
from PIL import Image

from vid2act_jax.data import dataset, files, quarantine, store
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.formats import notes
from vid2act_jax.types import UserError

_BINS = 10
_BAR = 40  # Characters of the longest bar.
_SHEET_EPISODES = 12
_SHEET_FRAMES = 10
_GAP = 2  # Pixels.


def inspect(directory: str | os.PathLike) -> dict:
  """Computes statistics of a dataset without reading its frames.

  Args:
    directory: the dataset folder.

  Returns:
    metadata: see `dataset.read_metadata`; returns, lengths: of the episodes,
    returns None if there are no rewards; action_low, action_high: f32 [A],
    smallest and largest; successes: count, None if the task has no success
    flag; bytes_held, bytes_on_disk; problems: list of messages.

  Raises:
    UserError: there is no dataset.
  """
  metadata = dataset.read_metadata(directory, partial=True)
  listed = eps.list_episodes(directory)
  lengths, returns, lows, highs, success, problems = [], [], [], [], [], []
  for file in listed:
    try:
      arrays = files.read_npz(file.path, ('reward', 'action', 'success'))
      summary = eps.summarize(arrays)
      lows.append(arrays['action'].min(0))
      highs.append(arrays['action'].max(0))
    except (UserError, KeyError, ValueError) as error:
      problems.append(f'{file.path.name}: cannot be read ({error})')
      continue
    lengths.append(file.length)
    returns.append(summary['return'])
    success += [summary['success']] if 'success' in summary else []
  problems += _find_problems(directory, metadata, listed)
  columns = store.frame_columns(metadata['size'], metadata['action_dim'])
  return {
    'metadata': metadata,
    'returns': np.array(returns) if dataset.has_rewards(metadata) else None,
    'lengths': np.array(lengths, int),
    'action_low': np.min(lows, 0) if lows else np.zeros(0, np.float32),
    'action_high': np.max(highs, 0) if highs else np.zeros(0, np.float32),
    'successes': sum(success) if success else None,
    'bytes_held': sum(lengths) * store.record_bytes(columns),
    'bytes_on_disk': sum(_size(file.path) for file in listed),
    'problems': problems,
  }


def _size(path):
  """Bytes of a file; 0 for a link whose target is missing, a problem."""
  return path.stat().st_size if path.exists() else 0


def describe(info: dict) -> str:
  """Formats the output of `inspect` as lines of text."""
  metadata, lengths = info['metadata'], info['lengths']
  provenance = metadata['collected']
  lines = [
    f'task       {metadata["task"]}',
    f'made by    {provenance["method"]}'
    + (f', {provenance["policy"]}' if provenance.get('policy') else '')
    + (
      f', {provenance["format"]} from {provenance["source"]}'
      if 'source' in provenance
      else ''
    ),
    f'episodes   {len(lengths)}'
    + ('' if metadata['complete'] else ', unfinished'),
    f'frames     {lengths.sum()}, {metadata["size"]}x{metadata["size"]}, '
    f'action repeat {metadata["action_repeat"] or "unknown"}',
    f'memory     {info["bytes_held"] / 1e9:.3g} GB held for sampling, '
    f'{info["bytes_on_disk"] / 1e9:.3g} GB on disk',
  ]
  if len(lengths):
    lines.append(
      f'lengths    {lengths.min()} to {lengths.max()} frames, '
      f'median {np.median(lengths):g}'
    )
    ranges = zip(info['action_low'], info['action_high'], strict=True)
    lines.append(
      f'actions    {metadata["action_dim"]}: '
      + ', '.join(f'{low:.2f} to {high:.2f}' for low, high in ranges)
    )
    if info['successes'] is not None:
      lines.append(f'success    {info["successes"]} of {len(lengths)} episodes')
    if info['returns'] is None:
      lines.append('returns    no rewards')
    else:
      lines += ['', 'returns', *_histogram(info['returns'])]
  lines += ['', *[f'problem: {text}' for text in info['problems']]]
  return '\n'.join(lines).rstrip() + '\n'


def contact_sheet(directory: str | os.PathLike, path: pathlib.Path) -> None:
  """Writes an image of episodes, sorted from the lowest return to the highest.

  Without rewards they are in the order of their indices.

  Args:
    directory: the dataset folder.
    path: of the PNG: one row per episode, from its first frame to its last.

  Raises:
    UserError: there are no episodes, or the image cannot be written.
  """
  listed = eps.list_episodes(directory)
  if not listed:
    raise UserError(f'{directory}: no episodes to draw; {dataset.CREATE_HINT}.')
  ranked = []
  for file in listed:
    try:
      ranked.append((eps.load_summary(file.path)['return'], file))
    except UserError:
      continue  # `inspect` reports it.
  ranked.sort(key=lambda pair: pair[0])
  rows = []
  for index in _spaced_indices(len(ranked), _SHEET_EPISODES):
    frames = eps.load(ranked[index][1].path)['image']
    picked = frames[_spaced_indices(len(frames), _SHEET_FRAMES, repeat=True)]
    pad = ((0, 0), (0, _GAP), (0, _GAP), (0, 0))
    row = np.pad(picked, pad, constant_values=255)
    rows.append(row.transpose(1, 0, 2, 3).reshape(row.shape[1], -1, 3))
  sheet = Image.fromarray(np.concatenate(rows))
  files.atomic_write(path, lambda file: sheet.save(file, 'png'))


def _find_problems(directory, metadata, listed):
  """Messages that a user should see before training on the dataset."""
  out = []
  if not metadata['complete']:
    out.append(f'unfinished; {dataset.RERUN_HINT}')
  elif metadata['episodes'] != len(listed):
    out.append(
      f'{dataset.FILE} says {metadata["episodes"]} episodes, there are '
      f'{len(listed)}'
    )
  out += notes.describe(metadata['collected'].get('about'))
  reasons = quarantine.read_reasons(directory)
  if reasons:
    name, reason = next(iter(reasons.items()))
    out.append(f'{len(reasons)} in quarantine, the first: {name}: {reason}')
  return out


def _histogram(values):
  counts, edges = np.histogram(values, _BINS)
  for count, low, high in zip(counts, edges, edges[1:], strict=False):
    bar = '#' * round(_BAR * count / counts.max())
    yield f'{low:12.4g} to {high:<12.4g} {count:6d} {bar}'


def _spaced_indices(count, limit, repeat=False):
  """Up to `limit` indices evenly spaced in [0, count - 1], both included."""
  num = limit if repeat else min(count, limit)
  return np.linspace(0, count - 1, num).round().astype(int)
