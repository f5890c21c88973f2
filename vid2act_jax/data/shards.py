"""The online episodes of several hosts: a folder for each.

One process keeps its episodes in the replay folder itself; of several, each has
a folder in it. Started again with another number of processes, a run shares its
episodes out anew.
"""

import os
import pathlib
import shutil

from vid2act_jax.data import episodes as eps
from vid2act_jax.data import files
from vid2act_jax.types import UserError


def folder_of(root: pathlib.Path, process: int, processes: int) -> pathlib.Path:
  """The dataset folder of one of so many processes."""
  return root if processes == 1 else root / f'{process}-of-{processes}'


def reshard(
  root: pathlib.Path, processes: int, written: list[int]
) -> list[int]:
  """Sees to it that every process has its share, as of a checkpoint.

  Nothing of the former shares is lost: episodes are linked, not moved, and what
  they were linked from stays until `clean`, for older checkpoints know it.

  Args:
    root: the replay folder.
    processes: how many there are now.
    written: for every process that there was, the episodes it had written when
      the checkpoint was made; [] for a fresh start.

  Returns:
    The same of the processes there are now.

  Raises:
    UserError: an episode that the checkpoint knows is missing.
  """
  if len(written) in (0, processes):
    return written or [0] * processes
  known = []
  for process, total in enumerate(written):
    folder = folder_of(root, process, len(written))
    found = [f for f in eps.list_episodes(folder) if f.index < total]
    if total and [f.index for f in found] != list(
      range(found[0].index if found else 0, total)
    ):
      raise UserError(
        f'{folder}: this process has written {total} episodes, of which some'
        ' are missing; put them back, or start in a new --workdir.'
      )
    known += [(file.index, process, file) for file in found]
  known.sort()
  shares = [0] * processes
  for process in range(processes):
    # What an interrupted attempt has left.
    target = folder_of(root, process, processes) / eps.FOLDER
    shutil.rmtree(target, ignore_errors=True)
    files.make_folder(target)
  for number, (_, _, file) in enumerate(known):
    process, index = number % processes, number // processes
    target = folder_of(root, process, processes) / eps.FOLDER
    _link(file.path, target / f'{index:06d}-{file.length}.npz')
    shares[process] = index + 1
  return shares


def _link(source, target):
  try:
    os.link(source, target)
  except OSError:  # Not every file system has them.
    shutil.copy2(source, target)


def clean(root: pathlib.Path, processes: int) -> None:
  """Removes the shares of other numbers of processes."""
  if processes > 1:
    shutil.rmtree(root / eps.FOLDER, ignore_errors=True)
  for folder in root.glob('*-of-*'):
    if not folder.name.endswith(f'-of-{processes}'):
      shutil.rmtree(folder)
