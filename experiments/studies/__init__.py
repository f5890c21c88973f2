"""Studies, for `python -m experiments.grid`; what several of them need."""


def shifted(task: str, key: str, value) -> str:
  """A task's name with one more change to it (docs/shifted-tasks.md)."""
  return f'{task}{"," if "@" in task else "@"}{key}={value}'
