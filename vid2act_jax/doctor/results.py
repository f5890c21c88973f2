"""Results of checks."""

import dataclasses
import functools
import textwrap

from vid2act_jax import startup

STATUSES = ('ok', 'note', 'problem')


@dataclasses.dataclass(frozen=True)
class CheckResult:
  """One result; ValueError for an unknown status or a missing fix."""

  status: str  # 'ok', 'note' (it stops nothing) or 'problem'
  name: str  # '<check>' or '<check>/<part>'
  text: str  # what was found, in one line
  fix: str = ''  # what to type or to do; '' exactly if the status is 'ok'

  def __post_init__(self):
    if self.status not in STATUSES:
      raise ValueError(f'unknown status {self.status!r}')
    if bool(self.fix) == (self.status == 'ok'):
      raise ValueError(f'{self.name}: {self.status} with {self.fix!r}')

  def __str__(self):
    """Aligned; a fix is never broken, so that it can be copied."""
    head, margin = f'{self.status:<8}{self.name:<17} ', ' ' * 26
    options = {'subsequent_indent': margin, 'break_on_hyphens': False}
    lines = textwrap.wrap(head + self.text, 80, **options)
    return '\n'.join(lines + ([f'{margin}-> {self.fix}'] if self.fix else []))


ok, note, problem = (functools.partial(CheckResult, x) for x in STATUSES)


def grade(name, text, value, minimum, enough, need, fix) -> CheckResult:
  """'problem' below `minimum`, 'note' below `enough`; both say the `need`."""
  if value >= enough:
    return ok(name, text)
  return (note if value >= minimum else problem)(name, f'{text}; {need}', fix)


def describe(error: BaseException) -> str:
  """An error in one line, with its type unless it is written for users."""
  if type(error).__name__ == 'UserError':  # Its module imports JAX.
    return ' '.join(str(error).split())
  if text := startup.explain(error):
    return text
  lines = str(error).strip().splitlines()
  return ': '.join([type(error).__name__, *lines[:1]])[:300]
