"""Replay folders of several processes.

A single process stores its episodes in the replay folder itself. With several
processes, each has its own subfolder. A run that resumes with another number of
processes redistributes its episodes.
"""

import os
import pathlib
import shutil

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files, storage
from vid2act_jax.types import UserError


def folder_of(root: pathlib.Path, process: int, processes: int) -> pathlib.Path:
  """The dataset folder of process number `process` of `processes`."""
  return root if processes == 1 else root / f'{process}-of-{processes}'


def reshard(
  root: pathlib.Path, processes: int, written: list[int]
) -> list[int]:
  """Redistributes the episodes of a checkpoint over the current processes.

  Nothing is lost: episodes are linked, not moved. The old folders stay until
  `clean`, because older checkpoints refer to them.

  Args:
    root: the replay folder.
    processes: the current number of processes.
    written: for every earlier process, the number of episodes it had written
      when the checkpoint was saved; [] for a new run.

  Returns:
    The number of episodes of each current process.

  Raises:
    UserError: an episode that the checkpoint knows is missing.
  """
  if len(written) in (0, processes):
    return written or [0] * processes
  episodes = []
  for process, total in enumerate(written):
    folder = folder_of(root, process, len(written))
    found = [f for f in eps.list_episodes(folder) if f.index < total]
    if total and [f.index for f in found] != list(
      range(found[0].index if found else 0, total)
    ):
      raise UserError(
        f'{folder}: this process has written {total} episodes, but some are'
        ' missing; restore them, or start in a new --workdir.'
      )
    episodes += [(file.index, process, file) for file in found]
  episodes.sort()
  counts = [0] * processes
  for process in range(processes):
    # An interrupted call may have left files.
    target = folder_of(root, process, processes) / eps.FOLDER
    storage.remove_tree(target)
    files.make_folder(target)
  for number, (_, _, file) in enumerate(episodes):
    process, index = number % processes, number // processes
    target = folder_of(root, process, processes) / eps.FOLDER
    _link(file.path, target / f'{index:06d}-{file.length}.npz')
    counts[process] = index + 1
  return counts


def _link(source, target):
  try:
    os.link(source, target)
  except OSError:  # Not every file system has hard links.
    shutil.copy2(source, target)


def clean(root: pathlib.Path, processes: int) -> None:
  """Removes the folders of other numbers of processes."""
  if processes > 1:
    storage.remove_tree(root / eps.FOLDER)
  for folder in root.glob('*-of-*'):
    if not folder.name.endswith(f'-of-{processes}'):
      storage.remove_tree(folder)
