"""The members of a `VectorEnv`: here, or in a process of their own.

A member is made, and then answers: first with (action_dim, description), then
to every command, ('reset', seed) or ('step', action), with an observation.
"""

import contextlib
import dataclasses
import math
import multiprocessing
import multiprocessing.util
import signal
import traceback

import numpy as np

from vid2act_jax.envs import registry
from vid2act_jax.types import UserError

_CLOSING_SECONDS = 5  # Before a worker that does not end is killed.
_MAKING_SECONDS = 300  # For an environment to be made.
_ORPHAN_SECONDS = 60  # That a worker lives on after SIGTERM.


class WorkerDied(RuntimeError):
  """A worker process died, or took too long."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """How much of workers is borne.

  seconds: a worker may take for a step or a reset before it is replaced.
  replacements: of one worker without an episode ended between; one more ends
    the run.
  """

  seconds: float = 120.0
  replacements: int = 5


DEFAULT_LIMITS = Limits()


class LocalWorker:
  """A member in this process; same interface as `Worker`."""

  def __init__(self, index, task, settings, limits):
    del index, limits
    self._env = registry.make(task, settings, 0)
    self._answer = self._env.action_dim, self._env.description

  def send(self, command):
    self._answer = _advance(self._env, *command)

  def receive(self):
    return self._answer

  def close(self):
    self._env.close()


class Worker:
  """A member in a process of its own."""

  def __init__(self, index, task, settings, limits):
    context = multiprocessing.get_context('spawn')
    self._seconds = limits.seconds
    self._made = False
    self._name = f'environment worker {index} ({task})'
    self._pipe, theirs = context.Pipe()
    # Frames come through shared memory: a pipe would copy them twice.
    shape = (settings.size, settings.size, 3)
    memory = context.RawArray('B', math.prod(shape))
    self._frame = np.frombuffer(memory, np.uint8).reshape(shape)
    self._process = context.Process(
      target=_serve, args=(theirs, memory, task, settings), daemon=True
    )
    self._process.start()
    # Else the worker's death would leave the pipe open, and us waiting.
    theirs.close()
    # At exit, before daemons are ended by a signal that workers outlive.
    multiprocessing.util.Finalize(self, self._pipe.close, exitpriority=10)

  def send(self, command):
    # One that is dead is found to be so when it should answer.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      self._pipe.send(command)

  def receive(self):
    # To be made takes long in its own way: suites are imported.
    seconds = self._seconds if self._made else _MAKING_SECONDS
    try:
      if not self._pipe.poll(seconds):
        raise WorkerDied(
          f'{self._name} did not answer for {seconds:g} s (config.env.timeout).'
        )
      self._made = True
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
    self._process.join(timeout=_CLOSING_SECONDS)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _death(self):
    self._process.join(timeout=5)
    code = self._process.exitcode
    hint = ' (killed, perhaps for want of memory: use fewer environments)'
    return WorkerDied(
      f'{self._name} died with exit code {code}'
      f'{hint if code == -signal.SIGKILL else ""}.'
    )


def _serve(pipe, memory, task, settings):
  """A worker's life: make the environment, then answer until told to end."""
  # They reach the whole group; the parent decides what they mean, and needs
  # its environments until it has done so.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_ORPHAN_SECONDS))
  env = None
  try:
    env = registry.make(task, settings, 0)
    pipe.send(('facts', (env.action_dim, env.description)))
    while True:
      command = pipe.recv()
      if command[0] == 'close':
        break
      obs = _advance(env, *command)
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


def _advance(env, command, argument):
  """'reset' with a seed, or 'step' with an action."""
  return env.reset(argument) if command == 'reset' else env.step(argument)
