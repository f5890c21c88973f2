"""What is in a dataset, in words and in a picture."""

import os
import pathlib

import numpy as np
from PIL import Image

from vid2act_jax.data import dataset, files, quarantine, store
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

_BINS = 10
_BAR = 40  # Characters of the longest bar.
_SHEET_EPISODES = 12
_SHEET_FRAMES = 10
_GAP = 2  # Pixels.


def inspect(directory: str | os.PathLike) -> dict:
  """Gathers a dataset's facts, reading everything but the frames.

  Args:
    directory: the dataset folder.

  Returns:
    metadata: as written; returns, lengths: of the episodes; action_low,
    action_high: f32 [A], least and largest; successes: count, None where the
    task has no success; bytes_held, bytes_on_disk; problems: list of words.

  Raises:
    UserError: there is no dataset.
  """
  about = dataset.read_metadata(directory, partial=True)
  known = eps.list_episodes(directory)
  lengths, returns, lows, highs, success, problems = [], [], [], [], [], []
  for file in known:
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
  problems += _problems(directory, about, known)
  columns = store.frame_columns(about['size'], about['action_dim'])
  return {
    'metadata': about,
    'returns': np.array(returns),
    'lengths': np.array(lengths, int),
    'action_low': np.min(lows, 0) if lows else np.zeros(0, np.float32),
    'action_high': np.max(highs, 0) if highs else np.zeros(0, np.float32),
    'successes': sum(success) if success else None,
    'bytes_held': sum(lengths) * store.record_bytes(columns),
    'bytes_on_disk': sum(file.path.stat().st_size for file in known),
    'problems': problems,
  }


def describe(facts: dict) -> str:
  """The facts of `inspect` as text of some lines."""
  about, lengths = facts['metadata'], facts['lengths']
  how = about['collected']
  lines = [
    f'task       {about["task"]}',
    f'made by    {how["method"]}'
    + (f', {how["policy"]}' if how.get('policy') else '')
    + (f', {how["format"]} from {how["source"]}' if 'source' in how else ''),
    f'episodes   {len(lengths)}'
    + ('' if about['complete'] else ', unfinished'),
    f'frames     {lengths.sum()}, {about["size"]}x{about["size"]}, action '
    f'repeat {about["action_repeat"] or "unknown"}',
    f'memory     {facts["bytes_held"] / 1e9:.3g} GB held for sampling, '
    f'{facts["bytes_on_disk"] / 1e9:.3g} GB on disk',
  ]
  if len(lengths):
    lines.append(
      f'lengths    {lengths.min()} to {lengths.max()} frames, '
      f'median {np.median(lengths):g}'
    )
    ranges = zip(facts['action_low'], facts['action_high'], strict=True)
    lines.append(
      f'actions    {about["action_dim"]}: '
      + ', '.join(f'{low:.2f} to {high:.2f}' for low, high in ranges)
    )
    if facts['successes'] is not None:
      lines.append(
        f'success    {facts["successes"]} of {len(lengths)} episodes'
      )
    lines += ['', 'returns', *_histogram(facts['returns'])]
  lines += ['', *[f'problem: {text}' for text in facts['problems']]]
  return '\n'.join(lines).rstrip() + '\n'


def contact_sheet(directory: str | os.PathLike, path: pathlib.Path) -> None:
  """Writes a picture of episodes, from the worst return to the best.

  Args:
    directory: the dataset folder.
    path: of the PNG: a row an episode, frames from its first to its last.

  Raises:
    UserError: there are no episodes, or the picture cannot be written.
  """
  known = eps.list_episodes(directory)
  if not known:
    raise UserError(f'{directory}: no episodes to draw; {dataset.GET}.')
  ranked = []
  for file in known:
    try:
      ranked.append((eps.load_summary(file.path)['return'], file))
    except UserError:
      continue  # `inspect` tells of it.
  ranked.sort(key=lambda pair: pair[0])
  rows = []
  for at in _spread(len(ranked), _SHEET_EPISODES):
    frames = eps.load(ranked[at][1].path)['image']
    picked = frames[_spread(len(frames), _SHEET_FRAMES, repeat=True)]
    pad = ((0, 0), (0, _GAP), (0, _GAP), (0, 0))
    row = np.pad(picked, pad, constant_values=255)
    rows.append(row.transpose(1, 0, 2, 3).reshape(row.shape[1], -1, 3))
  picture = Image.fromarray(np.concatenate(rows))
  files.atomic_write(path, lambda file: picture.save(file, 'png'))


def _problems(directory, about, known):
  """What a user should know before training on it."""
  out = []
  if not about['complete']:
    out.append(f'unfinished; {dataset.AGAIN}')
  elif about['episodes'] != len(known):
    out.append(
      f'{dataset.FILE} promises {about["episodes"]} episodes, there are '
      f'{len(known)}'
    )
  aside = quarantine.reasons(directory)
  if aside:
    name, reason = next(iter(aside.items()))
    out.append(f'{len(aside)} in quarantine, the first: {name}: {reason}')
  return out


def _histogram(values):
  counts, edges = np.histogram(values, _BINS)
  for count, low, high in zip(counts, edges, edges[1:], strict=False):
    bar = '#' * round(_BAR * count / counts.max())
    yield f'{low:12.4g} to {high:<12.4g} {count:6d} {bar}'


def _spread(count, most, repeat=False):
  """Up to `most` indices spread over `count`, the ends among them."""
  wanted = most if repeat else min(count, most)
  return np.linspace(0, count - 1, wanted).round().astype(int)
