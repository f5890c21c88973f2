"""The compiled train step of both loops, with a check for finite losses."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from vid2act_jax.data import files
from vid2act_jax.loops.schedule import Intervals
from vid2act_jax.types import UserError


class NotFinite(UserError):
  """Too many updates in a row were not finite."""


class TrainStep:
  """The compiled step, with one update a call or several."""

  def __init__(
    self,
    single_step: Callable,
    multi_step: Callable,
    key: jax.Array,
    per_call: int,
    intervals: Intervals,
    skip_limit: int,
    folder: pathlib.Path,
    arrays_fn: Callable = lambda batch: batch,
  ):
    """Takes the compiled functions.

    Args:
      single_step: (state, batch, key) -> state, metrics; donates the state.
      multi_step: the same of several updates, with a leading axis.
      key: root key of all updates; the step folds the update's number into it.
      per_call: number of updates a call, when at least that many are due.
      intervals: no call crosses a multiple of one, so that logs and checkpoints
        do not depend on `per_call`.
      skip_limit: updates in a row that may be not finite; one more ends the
        run.
      folder: for the batch and metrics of the last of them.
      arrays_fn: batch -> its arrays.
    """
    self._key, self._per_call = key, per_call
    self._intervals = [n for n in dataclasses.astuple(intervals) if n]
    self._single_step, self._multi_step = single_step, multi_step
    self._skip_limit, self._folder = skip_limit, folder
    self._arrays_fn = arrays_fn
    self._skipped = 0  # In a row.
    self._unchecked = None  # (updates done, metrics, batch) of the last call.

  def num_steps(self, done: int, due: int) -> int:
    """Returns the number of updates of the next call: 1, or `per_call`."""
    limits = [due - done, *(n - done % n for n in self._intervals)]
    return self._per_call if min(limits) >= self._per_call else 1

  def __call__(self, state, batch, done: int, count: int):
    """Makes `count` updates.

    Args:
      state: the LearnerState; donated.
      batch: on the devices, with a leading [count] if it is not 1.
      done: updates before this call.
      count: from `num_steps`.

    Returns:
      The new state, and metrics, with a leading [count] if it is not 1.

    Raises:
      NotFinite: too many updates in a row were not finite.
    """
    fn = self._single_step if count == 1 else self._multi_step
    state, metrics = fn(state, batch, self._key)
    # Checks the call before, so that the device works in the meantime.
    self.check_finite()
    self._unchecked = done + count, metrics, batch
    return state, metrics

  def check_finite(self) -> None:
    """Waits for the last call and checks that its updates were finite.

    Raises:
      NotFinite: as in `__call__`.
    """
    if self._unchecked is None:
      return
    (done, metrics, batch), self._unchecked = self._unchecked, None
    for skipped in np.atleast_1d(jax.device_get(metrics['skipped'])):
      self._skipped = self._skipped + 1 if skipped else 0
    if self._skipped > self._skip_limit:
      self._raise_not_finite(done, metrics, batch)

  def _raise_not_finite(self, done, metrics, batch):
    folder = files.make_folder(self._folder)
    arrays = {
      jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(
        leaf.addressable_data(0)
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(
        self._arrays_fn(batch)
      )
    }
    values = {k: np.asarray(v).tolist() for k, v in metrics.items()}
    bad = [k for k, v in values.items() if not np.isfinite(v).all()]
    path = folder / f'update-{done}.npz'
    files.atomic_write(path, lambda file: files.write_npz(file, arrays))
    text = json.dumps({'update': done, 'metrics': values}, indent=2)
    files.atomic_write(
      path.with_suffix('.json'), lambda file: file.write(text.encode())
    )
    raise NotFinite(
      f'{self._skipped} updates in a row were not finite, up to number {done}'
      f' ({", ".join(bad)}); they did not change the parameters. The last batch'
      f' is in {path}, its metrics in {path.with_suffix(".json").name}'
    )
