"""Workers of a `VectorEnv`, in this process or in a subprocess.

A worker first sends its spec (action_dim, description, interface), then an
observation for every command, ('reset', seed) or ('step', action).
"""

import contextlib
import dataclasses
import math
import multiprocessing
import multiprocessing.util
import signal
import traceback
import warnings

import numpy as np

from vid2act_jax.envs import core, registry
from vid2act_jax.types import UserError

# Seconds.
_CLOSE_TIMEOUT = 5  # Then a worker that has not ended is killed.
_START_TIMEOUT = 300  # To make an environment.
_ORPHAN_TIMEOUT = 60  # From SIGTERM to the end of the worker.


class WorkerDied(RuntimeError):
  """A worker process died or timed out."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """Fault tolerance of worker processes.

  timeout: seconds for a step or a reset; then the worker is replaced.
  max_replacements: of one worker without a complete episode; one more ends the
    run.
  """

  timeout: float = 120.0
  max_replacements: int = 5


DEFAULT_LIMITS = Limits()


class LocalWorker:
  """A worker in this process; same interface as `Worker`."""

  def __init__(self, index, task, settings, limits):
    del index, limits
    self._env = registry.make(task, settings, 0)
    self._result = _spec(self._env)

  def send(self, command):
    self._result = _execute(self._env, *command)

  def receive(self):
    return self._result

  def close(self):
    self._env.close()


class Worker:
  """A worker in a subprocess."""

  def __init__(self, index, task, settings, limits):
    context = multiprocessing.get_context('spawn')
    self._timeout = limits.timeout
    self._started = False
    self._name = f'environment worker {index} ({task})'
    self._pipe, child_pipe = context.Pipe()
    # Frames use shared memory: a pipe would copy them twice.
    shape = (settings.size, settings.size, 3)
    memory = context.RawArray('B', math.prod(shape))
    self._frame = np.frombuffer(memory, np.uint8).reshape(shape)
    quiet = index > 0  # The environments of all workers would warn alike.
    self._process = context.Process(
      target=_run_worker,
      args=(child_pipe, memory, task, settings, quiet),
      daemon=True,
    )
    self._process.start()
    # Otherwise the pipe stays open when the worker dies, and `receive` blocks.
    child_pipe.close()
    # At exit, before multiprocessing sends SIGTERM, which workers ignore.
    multiprocessing.util.Finalize(self, self._pipe.close, exitpriority=10)

  def send(self, command):
    # `receive` reports a dead worker.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      self._pipe.send(command)

  def receive(self):
    # The first message takes longer: suites are imported.
    timeout = self._timeout if self._started else _START_TIMEOUT
    try:
      if not self._pipe.poll(timeout):
        raise WorkerDied(
          f'{self._name} timed out after {timeout:g} s (config.env.timeout).'
        )
      self._started = True
      kind, content = self._pipe.recv()
    except (EOFError, ConnectionResetError) as error:
      raise self._died_error() from error
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
      pass  # The worker has already died.
    self._pipe.close()
    self._process.join(timeout=_CLOSE_TIMEOUT)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _died_error(self):
    self._process.join(timeout=5)
    code = self._process.exitcode
    hint = ' (killed, possibly out of memory: free some)'
    return WorkerDied(
      f'{self._name} died with exit code {code}'
      f'{hint if code == -signal.SIGKILL else ""}.'
    )


def _run_worker(pipe, memory, task, settings, quiet):
  """The worker's main loop: makes the environment and executes commands."""
  # These signals reach the whole process group. The parent handles them and
  # needs its environments meanwhile.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_ORPHAN_TIMEOUT))
  if quiet:
    warnings.simplefilter('ignore', core.EnvWarning)
  env = None
  try:
    env = registry.make(task, settings, 0)
    pipe.send(('spec', _spec(env)))
    while True:
      command = pipe.recv()
      if command[0] == 'close':
        break
      obs = _execute(env, *command)
      frame = obs.pop('image')
      np.frombuffer(memory, np.uint8)[:] = frame.ravel()
      pipe.send(('observation', obs))
  except UserError as error:
    pipe.send(('user_error', str(error)))
  except (EOFError, BrokenPipeError, ConnectionResetError):
    pass  # The parent has ended.
  except Exception:
    pipe.send(('error', traceback.format_exc()))
  finally:
    if env is not None:
      env.close()
    pipe.close()


def _spec(env):
  return env.action_dim, env.description, env.interface


def _execute(env, command, argument):
  """Executes a command: 'reset' with a seed or 'step' with an action."""
  return env.reset(argument) if command == 'reset' else env.step(argument)
