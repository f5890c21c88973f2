"""Several environments stepped together, here or in worker processes."""

import contextlib
from collections.abc import Iterator

import numpy as np

from vid2act_jax.envs import core, registry, workers
from vid2act_jax.envs.workers import Limits
from vid2act_jax.types import UserError


class VectorEnv:
  """A batch of environments of one task that reset themselves.

  Every episode has a seed of its own, by the environment's number and its own:
  with the actions since its beginning, it can be brought back to where it was
  (`snapshot`, `resume`).

  Worker processes are spawned, so a script that makes them needs the usual
  `if __name__ == '__main__'`. They are daemons and end with this process. One
  that dies or hangs is replaced: its environment begins a new episode.

  Attributes:
    num: how many environments.
    action_dim: A.
    description: the task and how it is shown, for a dataset's metadata.
    faults: what was told of workers that were replaced; to be emptied by
      whoever reads it.
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
      num: how many, at least 1.
      seed: the seed that those of all episodes are derived from.
      parallel: in worker processes; else one after the other, here.
      first: the number of the first, where other hosts have others.
      limits: of workers.

    Raises:
      UserError: as in `make`, also when a worker found it.
    """
    if num < 1:
      raise UserError(f'{num} environments asked for; it must be at least 1.')
    self.num = num
    self.faults: list[str] = []
    self._members = []
    self._seed, self._first, self._limits = seed, first, limits
    registry.prepare(task)
    kind = workers.Worker if parallel else workers.LocalWorker
    self._make = lambda index: kind(first + index, task, settings, limits)
    try:
      for index in range(num):
        self._members.append(self._make(index))
      facts = [member.receive() for member in self._members]
    except BaseException:
      self.close()
      raise
    self.action_dim, self.description = facts[0]
    self._replaced = [0] * num  # Since an episode ended there.
    self._stream: tuple[int, ...] = ()
    self._pending = False
    self._start_over()

  def begin(self, *stream: int) -> None:
    """Drops the episodes under way; the next step resets every environment.

    Args:
      *stream: numbers that the seeds of the episodes from here on depend on.
    """
    if self._pending:
      self.receive()
    self._stream = stream
    self._start_over()

  def _start_over(self):
    self._fresh = np.ones(self.num, bool)
    self._episode = [-1] * self.num  # Each one's number.
    self._given: list[list[np.ndarray]] = [[] for _ in range(self.num)]

  def snapshot(self) -> dict:
    """Where the environments are, with the step that has been begun.

    Returns:
      What `resume` takes: `stream`, as of `begin`; of each environment
      `episode`, its number; and `actions`, f32 [T, A], those given since.
    """
    empty = np.zeros((0, self.action_dim), np.float32)
    actions = [np.stack(given) if given else empty for given in self._given]
    return {
      'stream': list(self._stream),
      'episode': list(self._episode),
      'actions': actions,
    }

  def resume(self, snapshot: dict) -> Iterator[tuple[int, dict, np.ndarray]]:
    """Brings new environments to where the snapshot's were.

    Simulators cannot be copied in general, but they do the same again. When
    the iteration has ended, the step that had been begun is begun.

    Args:
      snapshot: of a VectorEnv of the same task, settings, seed and number.

    Yields:
      The environment's number, an observation and the action [A] that led
      there (zeros at a reset), for all that had been received.
    """
    self._stream = tuple(snapshot['stream'])
    for index, member in enumerate(self._members):
      self._episode[index] = snapshot['episode'][index]
      actions = snapshot['actions'][index]
      self._given[index] = list(actions)
      member.send(('reset', self._episode_seed(index)))
      led = np.zeros(self.action_dim, np.float32)
      for action in actions:
        with self._closing_on_error():
          yield index, member.receive(), led
        member.send(('step', action))
        led = action
    self._fresh[:] = False
    self._pending = True

  def _episode_seed(self, index):
    """Of the episode under way, which nothing else has an influence on."""
    parts = [self._seed, self._first + index, *self._stream]
    sequence = np.random.SeedSequence([*parts, self._episode[index]])
    return int(sequence.generate_state(1)[0])

  def step(self, actions: np.ndarray | None) -> dict[str, np.ndarray]:
    """`send` and `receive` at once."""
    self.send(actions)
    return self.receive()

  def send(self, actions: np.ndarray | None) -> None:
    """Begins a step of every environment, or a reset if its episode ended.

    Worker processes step while this one does other things.

    Args:
      actions: f32 [num, A]; row i is ignored when environment i resets, and
        all may be None when every one does, as in the first call.

    Raises:
      ValueError: actions of another shape, or None in mid-episode.
      RuntimeError: as `receive`.
    """
    actions = self._checked(actions)
    with self._closing_on_error():
      for index in range(self.num):
        if self._fresh[index]:
          self._reset(index)
        else:
          self._given[index].append(actions[index].copy())
          self._members[index].send(('step', actions[index]))
    self._pending = True

  def _reset(self, index):
    self._episode[index] += 1
    self._given[index] = []
    self._members[index].send(('reset', self._episode_seed(index)))

  def receive(self) -> dict[str, np.ndarray]:
    """What the step that was begun has led to.

    Returns:
      The observations of `Env`, stacked to [num, ...].

    Raises:
      RuntimeError: a worker raised an error (quoted in the message), or had to
        be replaced too often. The environments are closed then.
    """
    with self._closing_on_error():
      rows = [self._receive(index) for index in range(self.num)]
    obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    self._fresh = obs['is_last'].copy()
    self._pending = False
    for index in np.flatnonzero(self._fresh):
      self._replaced[index] = 0
    return obs

  def _receive(self, index):
    """One environment's observation; of a new episode if it was lost."""
    while True:
      try:
        return self._members[index].receive()
      except workers.WorkerDied as error:
        self._replace(index, error)

  def _replace(self, index, error):
    self._replaced[index] += 1
    if self._replaced[index] > self._limits.replacements:
      raise RuntimeError(
        f'{error} It had been replaced {self._limits.replacements} times'
        ' without an episode ended between; look for the cause, or raise'
        ' config.env.replacements.'
      ) from error
    self.faults.append(f'{error} It is replaced, its episode is dropped.')
    self._members[index].close()
    self._members[index] = self._make(index)
    try:
      self._members[index].receive()
    except workers.WorkerDied as again:
      self._replace(index, again)
    else:
      self._reset(index)

  def close(self):
    """Ends the environments and their processes; twice is fine."""
    members, self._members = self._members, []
    for member in members:
      member.close()

  def __enter__(self) -> 'VectorEnv':
    return self

  def __exit__(self, *unused):
    self.close()

  @contextlib.contextmanager
  def _closing_on_error(self):
    try:
      yield
    except BaseException:
      # The others' answers would be taken for those of the next step.
      self.close()
      raise

  def _checked(self, actions):
    if not self._members:
      raise RuntimeError('the environments are closed.')
    if actions is None:
      if not self._fresh.all():
        raise ValueError('actions are missing: episodes are under way.')
      return None
    actions = np.asarray(actions, np.float32)
    wanted = (self.num, self.action_dim)
    if actions.shape != wanted:
      raise ValueError(f'actions have shape {wanted}, got {actions.shape}.')
    return actions
