"""Where the time of a stage goes."""

import collections
import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator

import jax

# JAX's events of tracing, of lowering, and of compiling or loading what has
# been compiled.
_COMPILING = '/jax/core/compile/'
_TRACED = range(5, 15)  # Updates of a stage: behind the compilations.


class Profiler:
  """Adds up the time of named parts; on request, traces some updates.

  Whatever part compiles, its compiling counts as 'compiling'.

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
    self._compiled: list[tuple[float, float]] = []  # Apart, since `_since`.
    self._thread = threading.get_ident()
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts what happens inside, but for other parts, under a name."""
    self._count()
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
    """Hears of no more compiling; ends a trace that has begun."""
    jax.monitoring.unregister_event_duration_listener(self._hear)
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

  def _hear(self, event, seconds, **_):
    # Other threads compile beside what is counted here.
    if event.startswith(_COMPILING) and threading.get_ident() == self._thread:
      end = time.perf_counter()
      begin = max(end - seconds, self._since)
      # A trace has others in it, which have been told before it.
      while self._compiled and self._compiled[-1][0] >= begin:
        self._compiled.pop()
      if self._compiled:
        begin = max(begin, self._compiled[-1][1])
      self._compiled.append((begin, end))

  def _count(self):
    now = time.perf_counter()
    name = self._open[-1] if self._open else 'other'
    self._totals[name] += now - self._since
    for begin, end in self._compiled:
      self._totals[name] -= end - begin
      self._totals['compiling'] += end - begin
    self._compiled.clear()
    self._since = now
