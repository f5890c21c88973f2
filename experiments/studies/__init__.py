"""Studies for `python -m experiments.grid`, and a shared helper."""


def shifted(task: str, key: str, value) -> str:
  """Adds a modifier to a task's name (docs/shifted-tasks.md)."""
  return f'{task}{"," if "@" in task else "@"}{key}={value}'
