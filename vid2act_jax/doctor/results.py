"""Results of checks, and how they are collected."""

import dataclasses
import functools
import textwrap
from collections.abc import Callable, Iterable, Iterator

STATUSES = ('ok', 'note', 'problem')


@dataclasses.dataclass(frozen=True)
class CheckResult:
  """One result of a check.

  status: 'ok'; 'note', something to know that stops nothing; or 'problem'.
  name: '<check>' or '<check>/<part>'.
  text: what was found, in one line.
  fix: what to type or to do; '' exactly if the status is 'ok'.

  Raises ValueError for an unknown status, or a missing fix.
  """

  status: str
  name: str
  text: str
  fix: str = ''

  def __post_init__(self):
    if self.status not in STATUSES:
      raise ValueError(f'unknown status {self.status!r}')
    if bool(self.fix) == (self.status == 'ok'):
      raise ValueError(f'{self.name}: {self.status} with {self.fix!r}')

  def __str__(self):
    """Aligned; a fix is never broken, so that it can be copied."""
    head, margin = f'{self.status:<8}{self.name:<18}', ' ' * 26
    options = {'subsequent_indent': margin, 'break_on_hyphens': False}
    lines = textwrap.wrap(head + self.text, 80, **options)
    return '\n'.join(lines + ([f'{margin}-> {self.fix}'] if self.fix else []))


ok, note, problem = (functools.partial(CheckResult, x) for x in STATUSES)


def collect(
  checks: dict[str, Callable[[str], Iterable[CheckResult]]], folder: str
) -> Iterator[CheckResult]:
  """Runs checks (folder) -> results; one that raises ends only itself."""
  for name, check in checks.items():
    try:
      yield from check(folder)
    except ImportError as error:
      yield problem(name, first_line(error), "pip install -e '.[dmc]'")
    except Exception as error:  # Any: it is reported, the next check runs.
      fix = f'python -m vid2act_jax.doctor --only {name}; if it fails again,'
      yield problem(name, first_line(error), f'{fix} report this line')


def first_line(error: BaseException) -> str:
  """'<type>: <first line>' of an error's message, at most 300 characters."""
  lines = str(error).strip().splitlines()
  return ': '.join([type(error).__name__, *lines[:1]])[:300]
