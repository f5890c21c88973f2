"""Vectorized environments, in this process or in worker processes."""

import contextlib
from collections.abc import Iterator

import numpy as np

from vid2act_jax.envs import core, registry, workers
from vid2act_jax.envs.workers import Limits
from vid2act_jax.types import UserError


class VectorEnv:
  """A batch of environments of one task with automatic resets.

  Every episode has its own seed, derived from the environment's index and the
  episode's index. The seed and the actions of an episode are enough to restore
  its state (`snapshot`, `resume`).

  Worker processes are spawned, so a script that makes them needs the usual
  `if __name__ == '__main__'`. They are daemons and end with this process. A
  worker that dies or hangs is replaced: its environment starts a new episode.

  Attributes:
    num: number of environments.
    action_dim: A.
    description: the task and its settings, for a dataset's metadata.
    interface: the environments' own actions and images, an `Interface`.
    faults: messages about replaced workers; the reader clears the list.
  """

  def __init__(
    self,
    task: str,
    settings: core.Settings,
    num: int,
    seed: int,
    parallel: bool,
    first: int = 0,
    limits: Limits = workers.DEFAULT_LIMITS,
  ):
    """Makes the environments.

    Args:
      task: as in `make`.
      settings: as in `make`.
      num: number of environments, at least 1.
      seed: the seeds of all episodes are derived from it.
      parallel: whether to use worker processes; otherwise the environments are
        stepped one after the other in this process.
      first: index of the first environment; differs between hosts.
      limits: timeout and replacements of workers.

    Raises:
      UserError: as in `make`, also if it was raised in a worker.
    """
    if num < 1:
      raise UserError(f'{num} environments requested: must be at least 1.')
    self.num = num
    self.faults: list[str] = []
    self._workers = []
    self._seed, self._first_index, self._limits = seed, first, limits
    registry.prepare(task)
    worker_class = workers.Worker if parallel else workers.LocalWorker
    self._make = lambda index: worker_class(
      first + index, task, settings, limits
    )
    try:
      for index in range(num):
        self._workers.append(self._make(index))
      specs = [worker.receive() for worker in self._workers]
    except BaseException:
      self.close()
      raise
    self.action_dim, self.description, self.interface = specs[0]
    self._num_replaced = [0] * num  # Since the last complete episode.
    self._stream: tuple[int, ...] = ()
    self._pending = False
    self._reset_all()

  def begin(self, *stream: int) -> None:
    """Drops the current episodes; the next step resets every environment.

    Args:
      *stream: integers that are mixed into the seeds of all further episodes.
    """
    if self._pending:
      self.receive()
    self._stream = stream
    self._reset_all()

  def _reset_all(self):
    self._needs_reset = np.ones(self.num, bool)
    self._episode_ids = [-1] * self.num  # Index of each environment's episode.
    self._actions: list[list[np.ndarray]] = [[] for _ in range(self.num)]

  def snapshot(self) -> dict:
    """Returns the state of the environments, with the pending step.

    Returns:
      A snapshot for `resume`: `stream`, see `begin`; for each environment
      `episode`, the index of its episode, and `actions`, f32 [T, A], its
      actions in this episode.
    """
    empty = np.zeros((0, self.action_dim), np.float32)
    actions = [np.stack(taken) if taken else empty for taken in self._actions]
    return {
      'stream': list(self._stream),
      'episode': list(self._episode_ids),
      'actions': actions,
    }

  def resume(self, snapshot: dict) -> Iterator[tuple[int, dict, np.ndarray]]:
    """Restores the state of a snapshot in new environments.

    Simulators cannot be copied in general, but they are deterministic, so the
    episodes are replayed. After the iteration the snapshot's pending step is
    pending again.

    Args:
      snapshot: from a VectorEnv with the same task, settings, seed and number.

    Yields:
      The environment's index, an observation and the previous action [A] (zeros
      after a reset), for all observations received before the snapshot.
    """
    self._stream = tuple(snapshot['stream'])
    for index, worker in enumerate(self._workers):
      self._episode_ids[index] = snapshot['episode'][index]
      actions = snapshot['actions'][index]
      self._actions[index] = list(actions)
      worker.send(('reset', self._episode_seed(index)))
      prev_action = np.zeros(self.action_dim, np.float32)
      for action in actions:
        with self._close_on_error():
          yield index, worker.receive(), prev_action
        worker.send(('step', action))
        prev_action = action
    self._needs_reset[:] = False
    self._pending = True

  def _episode_seed(self, index):
    """Returns the seed of an environment's current episode."""
    parts = [self._seed, self._first_index + index, *self._stream]
    sequence = np.random.SeedSequence([*parts, self._episode_ids[index]])
    return int(sequence.generate_state(1)[0])

  def step(self, actions: np.ndarray | None) -> dict[str, np.ndarray]:
    """Calls `send`, then `receive`."""
    self.send(actions)
    return self.receive()

  def send(self, actions: np.ndarray | None) -> None:
    """Starts a step of every environment, or a reset if its episode ended.

    Worker processes step asynchronously.

    Args:
      actions: f32 [num, A]; row i is ignored if environment i resets. None is
        valid if all of them reset, as in the first call.

    Raises:
      ValueError: actions have the wrong shape, or are None during an episode.
      RuntimeError: as in `receive`.
    """
    actions = self._check_actions(actions)
    with self._close_on_error():
      for index in range(self.num):
        if self._needs_reset[index]:
          self._reset(index)
        else:
          self._actions[index].append(actions[index].copy())
          self._workers[index].send(('step', actions[index]))
    self._pending = True

  def _reset(self, index):
    self._episode_ids[index] += 1
    self._actions[index] = []
    self._workers[index].send(('reset', self._episode_seed(index)))

  def receive(self) -> dict[str, np.ndarray]:
    """Waits for the pending step.

    Returns:
      The observations of `Env`, stacked to [num, ...].

    Raises:
      RuntimeError: a worker raised an error (quoted in the message), or was
        replaced too often. The environments are closed in this case.
    """
    with self._close_on_error():
      rows = [self._receive(index) for index in range(self.num)]
    obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    self._needs_reset = obs['is_last'].copy()
    self._pending = False
    for index in np.flatnonzero(self._needs_reset):
      self._num_replaced[index] = 0
    return obs

  def _receive(self, index):
    """Returns one observation, of a new episode if the worker was replaced."""
    while True:
      try:
        return self._workers[index].receive()
      except workers.WorkerDied as error:
        self._replace(index, error)

  def _replace(self, index, error):
    self._num_replaced[index] += 1
    if self._num_replaced[index] > self._limits.max_replacements:
      raise RuntimeError(
        f'{error} It was replaced {self._limits.max_replacements} times'
        ' without a complete episode; fix the cause, or increase'
        ' config.env.replacements.'
      ) from error
    self.faults.append(
      f'{error} The worker is replaced; its episode is dropped.'
    )
    self._workers[index].close()
    self._workers[index] = self._make(index)
    try:
      self._workers[index].receive()
    except workers.WorkerDied as new_error:
      self._replace(index, new_error)
    else:
      self._reset(index)

  def close(self):
    """Closes the environments and their processes; may be called twice."""
    closed, self._workers = self._workers, []
    for worker in closed:
      worker.close()

  def __enter__(self) -> 'VectorEnv':
    return self

  def __exit__(self, *unused):
    self.close()

  @contextlib.contextmanager
  def _close_on_error(self):
    try:
      yield
    except BaseException:
      # Pending results would otherwise be read as those of the next step.
      self.close()
      raise

  def _check_actions(self, actions):
    if not self._workers:
      raise RuntimeError('the environments are closed.')
    if actions is None:
      if not self._needs_reset.all():
        raise ValueError('actions are None during an episode.')
      return None
    actions = np.asarray(actions, np.float32)
    expected = (self.num, self.action_dim)
    if actions.shape != expected:
      raise ValueError(
        f'actions must have shape {expected}, got {actions.shape}.'
      )
    return actions
