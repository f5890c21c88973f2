"""Updates as both training loops make them: compiled, counted, watched."""

import json
import pathlib

import jax
import numpy as np

from vid2act_jax.data import files
from vid2act_jax.learner.update import multi_step
from vid2act_jax.types import UserError


class TrainStep:
  """The compiled step, for one update a call and for several."""

  def __init__(
    self,
    step,
    devices,
    specs,
    per_call: int,
    marks: tuple[int, ...],
    skip_limit: int,
    folder: pathlib.Path,
  ):
    """Compiles nothing yet.

    Args:
      step: the pure step.
      devices: a `sharding.Devices`.
      specs: how its batch is split.
      per_call: updates of a call, where so many are due.
      marks: periods in updates; no call goes beyond a multiple of one, so that
        what is told and saved does not depend on `per_call`. 0: never.
      skip_limit: updates in a row that may come out not finite; one more ends
        the run.
      folder: where to leave what is known of them then.
    """
    self._devices, self._specs = devices, specs
    self._per_call, self._marks = per_call, [m for m in marks if m]
    self._one = devices.jit(step, specs)
    self._several = devices.jit(multi_step(step), specs, lead=1)
    self._skip_limit, self._folder = skip_limit, folder
    self._skipped = 0  # In a row.
    self._unseen = None  # The last call's end, metrics and batch.

  def plan(self, done: int, due: int) -> int:
    """How many updates the next call makes: 1, or `per_call`."""
    room = [due - done, *(mark - done % mark for mark in self._marks)]
    return self._per_call if min(room) >= self._per_call else 1

  def put(self, batches: list):
    """Brings one call's batches of NumPy arrays to the devices."""
    if len(batches) == 1:
      return self._devices.put(batches[0], self._specs)
    joined = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    return self._devices.put(joined, self._specs, lead=1)

  def __call__(self, state, batch, key, done: int, count: int):
    """Makes a call's updates.

    Args:
      state: the LearnerState; donated.
      batch: of `put`.
      key: the root key.
      done: updates before.
      count: of `plan`.

    Returns:
      The new state, and metrics: with a leading [count] if it is not 1.

    Raises:
      UserError: too many updates in a row were not finite.
    """
    fn = self._one if count == 1 else self._several
    state, metrics = fn(state, batch, key)
    # Of the call before: it is done, and the device has something to do.
    self.look()
    self._unseen = done + count, metrics, batch
    return state, metrics

  def look(self) -> None:
    """Waits for the last call and looks whether it came out finite.

    Raises:
      UserError: as `__call__`.
    """
    if self._unseen is None:
      return
    (done, metrics, batch), self._unseen = self._unseen, None
    for skipped in np.atleast_1d(jax.device_get(metrics['skipped'])):
      self._skipped = self._skipped + 1 if skipped else 0
    if self._skipped > self._skip_limit:
      self._give_up(done, metrics, batch)

  def _give_up(self, done, metrics, batch):
    folder = files.make_folder(self._folder)
    arrays = {
      jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(
        leaf.addressable_data(0)
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    told = {k: np.asarray(v).tolist() for k, v in metrics.items()}
    bad = [k for k, v in told.items() if not np.isfinite(v).all()]
    path = folder / f'update-{done}.npz'
    files.atomic_write(path, lambda file: files.write_npz(file, arrays))
    text = json.dumps({'update': done, 'metrics': told}, indent=2)
    files.atomic_write(
      path.with_suffix('.json'), lambda file: file.write(text.encode())
    )
    raise UserError(
      f'{self._skipped} updates in a row were not finite, up to number {done}'
      f' ({", ".join(bad)}); the parameters are as before them. Its batch and'
      f' metrics are in {path} and .json beside it. Look at the rewards and'
      ' actions there, lower the learning rates (config.learner.optim), or'
      ' compute in float32 (config.learner.dtype)'
    )
