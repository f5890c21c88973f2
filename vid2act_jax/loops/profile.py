"""Where the time of a stage goes."""

import collections
import contextlib
import pathlib
import time
from collections.abc import Iterator

import jax

_COMPILED = ('acting', 'updating', 'predicting')
_TRACED = range(5, 15)  # Updates of a stage: behind the compilations.


class Profiler:
  """Adds up the time of named parts; on request, traces some updates.

  JAX returns before the device is done. When profiling, each update is waited
  for, so that its time is told as its own and not as that of whatever asks for
  its results; this makes a run on an accelerator slower.
  """

  def __init__(self, folder: pathlib.Path | None = None):
    """folder: for JAX's trace of some updates; None: no profiling."""
    self._folder = folder
    self._totals = collections.defaultdict(float)
    self._open: list[str] = []  # Parts within parts.
    self._since = time.perf_counter()
    self._updates = 0

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts what happens inside, but for other parts, under a name.

    The first time of what is compiled then counts as 'compiling'.
    """
    self._count()
    if name in _COMPILED and name not in self._totals:
      self._totals[name] = 0.0
      name = 'compiling'
    self._open.append(name)
    try:
      yield
    finally:
      self._count()
      self._open.pop()

  def updated(self, results) -> None:
    """To be called after each update, within its part, with its results."""
    self._updates += 1
    if not self._folder:
      return
    jax.block_until_ready(results)
    if self._updates == _TRACED.start:
      jax.profiler.start_trace(self._folder)
    if self._updates == _TRACED.stop:
      jax.profiler.stop_trace()

  def close(self) -> None:
    """Ends a trace that the stage was too short for."""
    if self._folder and _TRACED.start <= self._updates < _TRACED.stop:
      jax.profiler.stop_trace()

  def seconds(self) -> dict[str, float]:
    """Of every part, since the beginning."""
    self._count()
    return dict(self._totals)

  def table(self) -> str:
    """The parts by their time, with their shares."""
    parts = self.seconds()
    whole = sum(parts.values())
    lines = [
      f'  {name:12} {value:9.2f} s  {value / whole:6.1%}'
      for name, value in sorted(parts.items(), key=lambda x: -x[1])
    ]
    return '\n'.join(lines)

  def _count(self):
    now = time.perf_counter()
    self._totals[self._open[-1] if self._open else 'other'] += now - self._since
    self._since = now
