"""Profiling of a stage: seconds by section, and a JAX trace."""

import collections
import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Iterator

import jax

from vid2act_jax.data import files

PARTS = 'parts.json'  # Seconds of a stage by section, in its profile.
# JAX's events of tracing, lowering, and compiling or loading from the cache.
_COMPILING = '/jax/core/compile/'
_TRACED = range(5, 15)  # Updates of a stage, after the compilations.


class Profiler:
  """Adds up the time of named sections; on request, traces some updates.

  Compilation in any section counts as 'compiling'.

  JAX returns before the device is done. When profiling, the profiler waits for
  each update. Otherwise its time would count where its results are first used.
  This makes a run on an accelerator slower.
  """

  def __init__(self, folder: pathlib.Path | None = None):
    """folder: for JAX's trace of some updates; None: no profiling."""
    self._folder = folder
    self._totals = collections.defaultdict(float)
    self._stack: list[str] = []  # The open sections, the innermost last.
    self._last_time = time.perf_counter()
    self._updates = 0
    # Disjoint (start, end) since `_last_time`.
    self._compilations: list[tuple[float, float]] = []
    self._thread = threading.get_ident()
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  @contextlib.contextmanager
  def section(self, name: str) -> Iterator[None]:
    """Counts the time of a block under a name, without its inner sections."""
    self._accumulate()
    self._stack.append(name)
    try:
      yield
    finally:
      self._accumulate()
      self._stack.pop()

  def updated(self, results) -> None:
    """Call it after each update, in its section, with its results."""
    self._updates += 1
    if not self._folder:
      return
    jax.block_until_ready(results)
    if self._updates == _TRACED.start:
      jax.profiler.start_trace(self._folder)
    if self._updates == _TRACED.stop:
      jax.profiler.stop_trace()

  def close(self) -> None:
    """Stops listening to compilations; stops a running trace."""
    jax.monitoring.unregister_event_duration_listener(self._on_event)
    if self._folder and _TRACED.start <= self._updates < _TRACED.stop:
      jax.profiler.stop_trace()

  def seconds(self) -> dict[str, float]:
    """Returns the seconds of every section so far."""
    self._accumulate()
    return dict(self._totals)

  def table(self) -> str:
    """Formats the sections by their time, with their shares."""
    sections = self.seconds()
    total = sum(sections.values())
    lines = [
      f'  {name:12} {value:9.2f} s  {value / total:6.1%}'
      for name, value in sorted(sections.items(), key=lambda x: -x[1])
    ]
    return '\n'.join(lines)

  def _on_event(self, event, seconds, **_):
    # Compilation in other threads does not block this one.
    if event.startswith(_COMPILING) and threading.get_ident() == self._thread:
      end = time.perf_counter()
      begin = max(end - seconds, self._last_time)
      # A trace contains inner ones, whose events came before it.
      while self._compilations and self._compilations[-1][0] >= begin:
        self._compilations.pop()
      if self._compilations:
        begin = max(begin, self._compilations[-1][1])
      self._compilations.append((begin, end))

  def _accumulate(self):
    now = time.perf_counter()
    name = self._stack[-1] if self._stack else 'other'
    self._totals[name] += now - self._last_time
    for begin, end in self._compilations:
      self._totals[name] -= end - begin
      self._totals['compiling'] += end - begin
    self._compilations.clear()
    self._last_time = now


@contextlib.contextmanager
def open_profiler(
  workdir: pathlib.Path, stage: str, profile: bool
) -> Iterator[Profiler]:
  """Opens a stage's profiler; reports its results at the end.

  Args:
    workdir: the run's folder.
    stage: its name.
    profile: whether to write a trace and report. Only the first host does so.
  """
  folder = workdir / 'profile' / stage
  profile = profile and jax.process_index() == 0
  profiler = Profiler(folder if profile else None)
  try:
    yield profiler
  finally:
    profiler.close()
  if profile:
    text = json.dumps(profiler.seconds())
    (files.make_folder(folder) / PARTS).write_text(
      text + '\n', encoding='utf-8'
    )
    print(f'{stage}: where the time went\n{profiler.table()}')
    text = f'{stage}: this table and a trace of some updates are in {folder}'
    print(text, flush=True)
