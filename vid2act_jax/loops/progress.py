"""Progress of a stage: a live line, or plain lines for log files."""

import contextlib
import contextvars
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import rich.console
import rich.progress

_PLAIN_SECONDS = 10.0  # Between two plain progress lines.
_RATE_SECONDS = 60.0  # The window of the mean rate.


# Of the runs in this process: 'seed 3: ', or nothing if there is only one.
LABEL: contextvars.ContextVar[str] = contextvars.ContextVar('LABEL', default='')


def report(text: str) -> None:
  """Prints a line, with the label of the run."""
  print(f'{LABEL.get()}{text}', flush=True)


class Estimate(NamedTuple):
  """Times of a stage, in seconds."""

  compiling: float  # so far
  remaining: float | None  # without compiling; None: not known yet


class Estimator:
  """Estimates the remaining time of a stage from the time of its parts.

  Parts are kinds of work, such as updates, each with sections of the profiler.
  While one that is still to be done has not begun, nothing is known.
  """

  def __init__(
    self,
    profiler,
    sections: Mapping[str, Sequence[str]],
    first: Mapping[str, int],
  ):
    """Starts to count.

    Args:
      profiler: of the stage.
      sections: of each kind of work.
      first: units of it that earlier starts have done.
    """
    self._profiler, self._sections, self._first = profiler, sections, first

  def __call__(
    self, done: Mapping[str, int], total: Mapping[str, int]
  ) -> Estimate:
    """done, total: units of each kind of work."""
    seconds, remaining = self._profiler.seconds(), 0.0
    for kind, sections in self._sections.items():
      units, left = done[kind] - self._first[kind], total[kind] - done[kind]
      if left > 0:
        spent = sum(seconds.get(name, 0.0) for name in sections)
        remaining += left * spent / units if units else math.inf
    known = math.isfinite(remaining)
    compiling = seconds.get('compiling', 0.0)
    return Estimate(compiling, remaining if known else None)


@contextlib.contextmanager
def announce_compilation(
  message: Callable[[str], None], what: str, cached: bool = True
) -> Iterator[None]:
  """Says that the block compiles `what`, and how long it took.

  Args:
    message: prints a line.
    what: is compiled.
    cached: whether the next start finds it compiled.
  """
  hint = '; it is cached for the next start' if cached else ''
  message(f'compiling {what}{hint}')
  start = time.monotonic()
  yield
  message(f'compiled {what} in {duration(time.monotonic() - start)}')


class ProgressLine:
  """A live line on a terminal; elsewhere a plain line every few seconds."""

  def __init__(self, stage):
    self._stage = stage
    self._console = rich.console.Console()
    # Lines of several runs cannot all be live.
    self._is_live = self._console.is_terminal and not LABEL.get()
    self._bar = None
    self._history = []  # (seconds, step), about one a second.
    self._last_plain = -math.inf, -1  # (seconds, step), of a plain line.

  def show(self, step, total, unit, text, estimate=None):
    """Shows the progress.

    Args:
      step: int, of `total`.
      total: int.
      unit: str, of both.
      text: {name: value}, shown after it.
      estimate: an `Estimate`; None: all steps take the same time.
    """
    rate = self._rate(step, estimate.compiling if estimate else 0)
    if estimate:
      seconds = estimate.remaining
    else:
      seconds = max(0, total - step) / rate if rate else None
    if not (self._is_live or self._is_due(step, total)):
      return
    line = _describe(step, total, unit, rate, seconds, text)
    if self._is_live:
      self._draw(step, total, line)
    else:
      self._last_plain = time.monotonic(), step
      report(f'{self._stage}  {line}')

  def message(self, text):
    """Prints a separate line, above the live line if there is one."""
    if self._is_live:
      self._console.print(text, markup=False, highlight=False)
    else:
      report(text)

  def close(self):
    """Stops the live line and leaves its last state on the terminal."""
    if self._bar is not None:
      self._bar.stop()
      self._bar = None

  def _draw(self, step, total, line):
    if self._bar is None:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('[bold]{task.description}'),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn('{task.fields[line]}', markup=False),
        console=self._console,
        refresh_per_second=4,
      )
      self._task = self._bar.add_task(self._stage, line=line)
      self._bar.start()
    self._bar.update(self._task, completed=step, total=total, line=line)

  def _is_due(self, step, total):
    seconds, last_step = self._last_plain
    ended = step >= total and step != last_step
    return ended or time.monotonic() - seconds >= _PLAIN_SECONDS

  def _rate(self, step, compiling):
    """Steps a second over the last minute, or None if not known yet."""
    now = time.monotonic() - compiling
    if self._history and step < self._history[-1][1]:
      self._history = []  # Another stage or task has begun.
    if not self._history or now - self._history[-1][0] >= 1.0:
      self._history.append((now, step))
    while len(self._history) > 2 and now - self._history[1][0] > _RATE_SECONDS:
      self._history.pop(0)
    seconds, done = self._history[0]
    return (step - done) / (now - seconds) if step > done else None


def _describe(step, total, unit, rate, seconds, text):
  """'1,200/5,000 updates  24%  31.2/s  2m02s left  last return 12.3'."""
  parts = [f'{step:,}/{total:,} {unit}']
  if total > 0:
    parts.append(f'{100 * step / total:.0f}%')
  if rate is not None:
    parts.append(f'{rate:.1f}/s' if rate >= 1 else f'{1 / rate:.1f} s each')
  if seconds is not None:
    parts.append(f'{duration(seconds)} left')
  for key, value in text.items():
    value = f'{value:.4g}' if isinstance(value, float) else value
    parts.append(f'{key.replace("_", " ")} {value}')
  return '  '.join(parts)


def duration(seconds: float) -> str:
  """Formats seconds as '2h05m', '3m20s' or '7s'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'
