"""Several environments stepped together, here or in worker processes."""

import contextlib
import math
import multiprocessing
import signal
import traceback

import numpy as np

from vid2act_jax.envs import core, registry
from vid2act_jax.types import UserError


class VectorEnv:
  """A batch of environments of one task that reset themselves.

  Worker processes are spawned, so a script that makes them needs the usual
  `if __name__ == '__main__'`. They are daemons and end with this process.

  Attributes:
    num: how many environments.
    action_dim: A.
    description: the task and how it is shown, for a dataset's metadata.
  """

  def __init__(
    self,
    task: str,
    settings: core.Settings,
    num: int,
    seed: int,
    parallel: bool,
  ):
    """Makes the environments, each with a seed of its own.

    Args:
      task: as in `make`.
      settings: as in `make`.
      num: how many, at least 1.
      seed: the seed all of theirs are derived from.
      parallel: in worker processes; else one after the other, here.

    Raises:
      UserError: as in `make`, also when a worker found it.
    """
    if num < 1:
      raise UserError(f'{num} environments asked for; it must be at least 1.')
    self.num = num
    self._members = []
    registry.prepare(task)
    kind = _Worker if parallel else _Here
    try:
      for index in range(num):
        sequence = np.random.SeedSequence([seed, index])
        own = int(sequence.generate_state(1)[0])
        self._members.append(kind(index, task, settings, own))
      facts = [member.receive() for member in self._members]
    except BaseException:
      self.close()
      raise
    self.action_dim, self.description = facts[0]
    self._fresh = np.ones(num, bool)

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
      for index, member in enumerate(self._members):
        member.send(None if self._fresh[index] else actions[index])

  def receive(self) -> dict[str, np.ndarray]:
    """What the step that was begun has led to.

    Returns:
      The observations of `Env`, stacked to [num, ...].

    Raises:
      RuntimeError: a worker died, or raised an error (quoted in the message).
        The environments are closed then.
    """
    with self._closing_on_error():
      rows = [member.receive() for member in self._members]
    obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    self._fresh = obs['is_last'].copy()
    return obs

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


class _Here:
  """A member in this process; same interface as `_Worker`."""

  def __init__(self, index, task, settings, seed):
    del index
    self._env = registry.make(task, settings, seed)
    self._answer = self._env.action_dim, self._env.description

  def send(self, action):
    self._answer = _advance(self._env, action)

  def receive(self):
    return self._answer

  def close(self):
    self._env.close()


class _Worker:
  """A member in a process of its own."""

  def __init__(self, index, task, settings, seed):
    context = multiprocessing.get_context('spawn')
    self._name = f'environment worker {index} ({task})'
    self._pipe, theirs = context.Pipe()
    # Frames come through shared memory: a pipe would copy them twice.
    shape = (settings.size, settings.size, 3)
    memory = context.RawArray('B', math.prod(shape))
    self._frame = np.frombuffer(memory, np.uint8).reshape(shape)
    self._process = context.Process(
      target=_serve, args=(theirs, memory, task, settings, seed), daemon=True
    )
    self._process.start()
    # Else the worker's death would leave the pipe open, and us waiting.
    theirs.close()

  def send(self, action):
    try:
      self._pipe.send(('step', action))
    except (BrokenPipeError, ConnectionResetError) as error:
      raise self._death() from error

  def receive(self):
    try:
      kind, content = self._pipe.recv()
    except (EOFError, ConnectionResetError) as error:
      raise self._death() from error
    if kind == 'user_error':
      raise UserError(content)
    if kind == 'error':
      raise RuntimeError(f'{self._name} failed:\n{content}')
    if kind == 'observation':
      content['image'] = self._frame
    return content

  def close(self):
    try:
      self._pipe.send(('close', None))
    except OSError:
      pass  # It is dead already, which is what we want.
    self._pipe.close()
    self._process.join(timeout=5)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _death(self):
    self._process.join(timeout=5)
    code = self._process.exitcode
    hint = ' (killed, perhaps for want of memory: use fewer environments)'
    return RuntimeError(
      f'{self._name} died with exit code {code}'
      f'{hint if code == -signal.SIGKILL else ""}.'
    )


def _serve(pipe, memory, task, settings, seed):
  """A worker's life: make the environment, then answer until told to end."""
  # Ctrl-C reaches the whole group; the parent decides what it means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  env = None
  try:
    env = registry.make(task, settings, seed)
    pipe.send(('facts', (env.action_dim, env.description)))
    while True:
      command, action = pipe.recv()
      if command == 'close':
        break
      obs = _advance(env, action)
      frame = obs.pop('image')
      np.frombuffer(memory, np.uint8)[:] = frame.ravel()
      pipe.send(('observation', obs))
  except UserError as error:
    pipe.send(('user_error', str(error)))
  except (EOFError, BrokenPipeError, ConnectionResetError):
    pass  # The parent is gone, and nobody is left to tell.
  except Exception:
    pipe.send(('error', traceback.format_exc()))
  finally:
    if env is not None:
      env.close()
    pipe.close()


def _advance(env, action):
  return env.reset() if action is None else env.step(action)
