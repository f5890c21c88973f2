"""What a check finds: rows, and the way they are collected and shown."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Iterator

STATUSES = ('ok', 'note', 'problem')
_NAME_WIDTH = 18
_STATUS_WIDTH = max(map(len, STATUSES)) + 1


@dataclasses.dataclass(frozen=True)
class Row:
  """One finding.

  name: '<check>' or '<check>/<what>'.
  status: 'ok'; 'note', something to know that stops nothing; or 'problem'.
  text: what was found, in one line.
  remedy: what to type or to do; '' exactly if all is well.

  Raises ValueError for an unknown status, or a remedy that is missing.
  """

  name: str
  status: str
  text: str
  remedy: str = ''

  def __post_init__(self):
    if self.status not in STATUSES:
      raise ValueError(f'unknown status {self.status!r}')
    if bool(self.remedy) == (self.status == 'ok'):
      raise ValueError(f'{self.name}: {self.status} with {self.remedy!r}')

  def __str__(self):
    """Aligned; a remedy is never broken, so that it can be copied."""
    head = f'{self.status:<{_STATUS_WIDTH}}{self.name:<{_NAME_WIDTH}}'
    lines = textwrap.wrap(
      self.text,
      80,
      initial_indent=head,
      subsequent_indent=' ' * len(head),
      break_on_hyphens=False,
    )
    if self.remedy:
      lines.append(f'{" " * len(head)}-> {self.remedy}')
    return '\n'.join(lines)


Check = Callable[[str], Iterable[Row]]


def collect(checks: dict[str, Check], folder: str) -> Iterator[Row]:
  """Runs checks one after the other; one that raises ends only itself.

  Args:
    checks: name -> (folder) -> rows.
    folder: where runs are to be kept.
  """
  for name, check in checks.items():
    try:
      yield from check(folder)
    except ImportError as error:
      yield Row(name, 'problem', first_line(error), "pip install -e '.[dmc]'")
    except Exception as error:  # Any: it is told, and the next check goes on.
      again = f'python -m vid2act_jax.doctor --only {name}'
      remedy = f'{again}; if it says the same, report this line'
      yield Row(name, 'problem', first_line(error), remedy)


def first_line(error: BaseException) -> str:
  """'<kind>: <first line>' of an error's message, at most 300 characters."""
  lines = str(error).strip().splitlines()
  kind = type(error).__name__
  return (f'{kind}: {lines[0]}' if lines else kind)[:300]
