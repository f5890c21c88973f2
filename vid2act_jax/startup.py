"""What every command does first: robust output, and errors in one sentence.

Libraries fail with tracebacks on wrong environment variables, some of them as
they are imported. Commands therefore call `install` before other imports; this
module imports no package.
"""

import io
import os
import sys
import traceback
from types import TracebackType

# Variables of libraries that are used here, by the start of their names.
_PREFIXES = (
  'CUDA_',
  'EGL_',
  'JAX_',
  'LIBGL_',
  'MPL',
  'MUJOCO_',
  'NCCL_',
  'PYOPENGL_',
  'SDL_',
  'TPU_',
  'WANDB_',
  'XLA_',
)
_LIBRARY_ERRORS = (
  AssertionError,
  ImportError,
  KeyError,
  OSError,
  RuntimeError,
  ValueError,
)


class Output(io.TextIOWrapper):
  """Standard output or error that never ends a command.

  Characters outside its encoding are escaped. When nobody reads it any more
  (`| head`), or the disk of its file is full, the rest is dropped.
  """

  def write(self, text: str) -> int:
    """Writes text; returns its length."""
    try:
      return super().write(text)
    except OSError:
      self._drop()
      return len(text)

  def flush(self) -> None:
    """Writes what is buffered."""
    try:
      super().flush()
    except OSError:
      self._drop()

  def _drop(self):
    """Sends the rest, and what is still buffered, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self.fileno())
    os.close(null)


def install() -> None:
  """Replaces the standard streams, and the printing of uncaught errors."""
  for name in 'stdout', 'stderr':
    stream = getattr(sys, name)
    if isinstance(stream, io.TextIOWrapper) and type(stream) is not Output:
      robust = Output(
        stream.buffer,
        stream.encoding,
        'backslashreplace',
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
      )
      setattr(sys, name, robust)
  sys.excepthook = _print_error


def _print_error(
  kind: type[BaseException],
  error: BaseException,
  trace: TracebackType | None,
) -> None:
  if text := explain(error):
    print(f'error: {text}', file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)


def explain(error: BaseException) -> str | None:
  """Returns a sentence on an error of the surroundings; None for others.

  The surroundings: environment variables, home and temporary folders, disks.
  """
  message = ' '.join(str(error).split())[:400]
  if not isinstance(error, _LIBRARY_ERRORS):
    return None
  if message.startswith('Could not determine home directory'):
    return (
      'a path starts with ~, but HOME is not set and this user has no home'
      ' folder; set HOME, or write the path out'
    )
  if 'No usable temporary directory' in message:
    return (
      f'TMPDIR={os.environ.get("TMPDIR", "")}: no temporary folder can be'
      ' written; set TMPDIR to one'
    )
  if name := _variable_at_fault(error, message):
    return (
      f'{name}={os.environ[name]}: {message or "not found on this machine"};'
      ' correct this environment variable, or unset it'
    )
  return _explain_disk(error) if isinstance(error, OSError) else None


def _variable_at_fault(error, message):
  """The name of the environment variable that a library rejects, or None."""
  names = [x for x in os.environ if x.startswith(_PREFIXES)]
  if type(error).__name__ == 'JaxRuntimeError':  # Its advice names variables.
    names = []
  for name in sorted(names, key=len, reverse=True):
    if name.lower() in message.lower():
      return name
  if 'Key backend' in message and 'MPLBACKEND' in os.environ:
    return 'MPLBACKEND'
  frames = traceback.extract_tb(error.__traceback__)
  if any('jax/_src/xla_bridge.py' in x.filename for x in frames):
    return 'JAX_PLATFORMS' if os.environ.get('JAX_PLATFORMS') else None
  return None


def _explain_disk(error):
  """A sentence on a file that cannot be read or written, or None."""
  from vid2act_jax.data import storage  # Standard library alone.

  if error.errno not in storage.FAILURES:
    return None
  path = f'{error.filename}: ' if error.filename else ''
  return f'{path}{error.strerror}; {storage.hint(error)}, and start again'
