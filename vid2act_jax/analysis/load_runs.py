"""Finds run folders and loads them as far as they can be read.

A run may be unfinished, damaged, or written by other code. What is wrong with
it is listed in `Run.problems`; everything else is used.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from vid2act_jax.data import dataset, limits
from vid2act_jax.loops import config_keys, logger, runs

DIAGNOSIS = 'diagnosis.json'
_DEPTH = 3  # Folder levels below a given one: study/point/run.
_MAX_LINE = 1 << 20  # Bytes; a row takes some thousand.
_MAX_FILE = 256 << 20  # Bytes; a run of 500k steps logs some MB.
# Numbers beyond these are damage: sums of them would overflow.
_MAX_STEP, _MAX_VALUE = 1e12, 1e15
_MAX_ITEMS, _MAX_LEVELS = 1000, 8  # Of lists and objects in a diagnosis.


@dataclasses.dataclass
class Run:
  """A loaded run; what is unknown is None or empty."""

  path: pathlib.Path
  metrics: pd.DataFrame  # See `metric_table`.
  config: dict  # {dotted key: value}.
  diagnosis: dict  # Written by `diagnose`; its numbers are finite floats.
  commit: str  # Of the last start; 'unknown'.
  machine: str  # Of the last start; 'unknown'.
  problems: list[str]  # A sentence each.

  @property
  def task(self) -> str | None:
    """The target task."""
    return printable(self.config.get('task'))

  @property
  def variant(self) -> str | None:
    """The variant."""
    return printable(self.config.get('variant'))

  @property
  def seed(self) -> int | None:
    """The seed."""
    seed = self.config.get('seed')
    return seed if type(seed) is int else None

  @property
  def sources(self) -> list[str]:
    """Names of the source tasks."""
    sources = self.config.get('sources')
    sources = map(printable, sources if isinstance(sources, list) else ())
    return [name for name in sources if name]

  def series(self, key: str, stage: str = 'finetune') -> pd.Series:
    """Returns a key's finite values by ascending step."""
    return series(self.metrics, stage, key)


def metric_table(rows: list[dict]) -> pd.DataFrame:
  """Returns logged rows in long form: stage, step, time, key and value.

  A row's step is also one of its values, so that no row is lost.
  """
  table = pd.DataFrame(
    (
      (row['stage'], row['step'], row.get('time'), key, value)
      for row in rows
      for key, value in row.items()
      if key not in ('stage', 'time')
    ),
    columns=['stage', 'step', 'time', 'key', 'value'],
  )
  return table.astype({'step': float, 'time': float, 'value': float})


def series(metrics: pd.DataFrame, stage: str, key: str) -> pd.Series:
  """Returns a key's finite values by ascending step."""
  found = metrics[(metrics.stage == stage) & (metrics.key == key)]
  found = found[np.isfinite(found.value)]
  return found.set_index('step').value.sort_index(kind='stable')


def find(folders: list[pathlib.Path]) -> tuple[list[pathlib.Path], list[str]]:
  """Returns the runs at most three levels below folders, and what was wrong."""
  found, problems = {}, []
  for folder in folders:
    if not folder.is_dir():
      problems.append(f'{folder}: there is no such folder')
      continue
    paths = _search(folder, _DEPTH, problems)
    if not paths:
      problems.append(f'{folder}: no run in it, nor {_DEPTH} levels below')
    for path in paths:  # A linked run counts once.
      found.setdefault(path.resolve(), path)
  return list(found.values()), problems


def _search(folder, depth, problems):
  if any((folder / x).is_file() for x in (logger.METRICS, runs.STARTS)):
    return [folder]
  # Agents that collected a dataset lie in its folder; they are not compared.
  if depth == 0 or (folder / dataset.FILE).is_file():
    return []
  try:
    inside = sorted(folder.iterdir())
    lost = [x for x in inside if x.is_symlink() and not x.exists()]
    inner = [x for x in inside if x.is_dir() and not _leads_back(x)]
  except OSError as error:
    problems.append(f'{folder}: cannot be read ({error.strerror})')
    return []
  problems += [f'{x}: links to {x.readlink()}, which is missing' for x in lost]
  inner = [x for x in inner if x.name != 'agent' and x.name[0] != '.']
  return [run for x in inner for run in _search(x, depth - 1, problems)]


def _leads_back(folder):
  """Whether it is a link to a folder that it lies in."""
  parent = folder.parent.resolve()
  return folder.is_symlink() and folder.resolve() in (parent, *parent.parents)


def load(path: pathlib.Path) -> Run:
  """Loads a run's folder; never fails, but lists `problems`."""
  problems: list[str] = []
  metrics = metric_table(_load_rows(path / logger.METRICS, problems))
  config = _load_object(path / runs.CONFIG, problems, 'its task is unknown')
  config = config_keys.leaves(config) if config else {}
  diagnosis = {}
  if (path / DIAGNOSIS).exists():
    hint = 'make it again by python -m vid2act_jax.analysis diagnose'
    diagnosis = _clean(_load_object(path / DIAGNOSIS, problems, hint))
  starts = [x for x in _lines(path / runs.STARTS, []) if isinstance(x, dict)]
  known = lambda key: [
    printable(x.get(key)) or 'unknown' for x in starts or [{}]
  ]
  commits = known('commit')
  if len({*commits}) > 1:
    problems.append(f'resumed with other code: {", ".join(sorted({*commits}))}')
  run = Run(
    path=path,
    metrics=metrics,
    config=config,
    diagnosis=diagnosis,
    commit=commits[-1],
    machine=known('machine')[-1],
    problems=problems,
  )
  required = ('task', 'variant', 'seed') if config else ()
  if missing := [key for key in required if getattr(run, key) is None]:
    problems.append(f'config.json lacks its {" and ".join(missing)}')
  steps = run.series('eval/return').index
  goal = config.get('finetune.env_steps')
  # A run without finetuning is perhaps only a teacher.
  if (metrics.stage == 'finetune').any() and not len(steps):
    problems.append('finetuning logged no evaluation')
  elif len(steps) and is_number(goal) and steps[-1] < goal:
    text = f'evaluated up to {steps[-1]:.0f} of {goal:.0f} env steps'
    problems.append(f'unfinished: {text}')
  return run


def _load_rows(path, problems):
  if not path.exists():
    problems.append('no metrics.jsonl')
    return []
  rows, damaged, ignored = [], 0, 0
  for record in _lines(path, problems):
    record = record if isinstance(record, dict) else {}
    step, stage = record.get('step'), record.pop('stage', None)
    known = isinstance(stage, str) and is_number(step)
    if not known or not 0 <= step <= _MAX_STEP:
      damaged += 1
      continue
    row = {'stage': printable(stage)}
    for key, value in record.items():
      if value is None or value != value or is_number(value):
        row[printable(key) or ''] = math.nan if value is None else float(value)
      else:
        ignored += 1
    rows.append(row)
  if damaged:
    problems.append(f'metrics.jsonl: {damaged} lines are no rows, left out')
  if ignored:
    problems.append(f'metrics.jsonl: {ignored} values are no numbers, left out')
  return rows


def _lines(path, problems) -> Iterator:
  """Yields the JSON value of each line; None for a damaged one.

  The last line is skipped if it is torn, as a killed run leaves it.
  """
  try:
    with open(path, 'rb') as file:
      while line := file.readline(_MAX_LINE):
        if file.tell() > _MAX_FILE:
          problems.append(f'{path.name}: too long, its end was not read')
          return
        try:
          yield limits.parse_json(line.decode())
        except ValueError:
          if line.endswith(b'\n') or len(line) == _MAX_LINE:
            yield None
  except OSError as error:
    problems.append(f'{path.name} cannot be read ({error.strerror})')


def _load_object(path, problems, consequence):
  try:
    value = limits.read_json(path)
    if not isinstance(value, dict):
      raise ValueError('no JSON object')
    return value
  except FileNotFoundError:
    problems.append(f'no {path.name}: {consequence}')
  except (OSError, ValueError) as error:
    reason = str(error).split('\n')[0][:100]
    problems.append(f'{path.name} is damaged ({reason}): {consequence}')
  return {}


def _clean(value, levels=_MAX_LEVELS):
  """Replaces what no report can use by None, within lists and objects too."""
  if isinstance(value, dict) and levels:
    items = list(value.items())[:_MAX_ITEMS]
    return {printable(key): _clean(x, levels - 1) for key, x in items}
  if isinstance(value, list) and levels and len(value) <= _MAX_ITEMS:
    return [_clean(x, levels - 1) for x in value]
  return float(value) if is_number(value) else printable(value)


def is_number(value) -> bool:
  """Returns whether a value is a number of a sound size."""
  good = isinstance(value, int | float) and not isinstance(value, bool)
  return good and abs(value) <= _MAX_VALUE


def printable(value, letters: int = 200) -> str | None:
  """Returns text as one line that any font can show, cut; else None."""
  if not isinstance(value, str):
    return None
  return ''.join(c if c.isprintable() else '?' for c in value[:letters]) or None


def candidates(path: str, run: pathlib.Path) -> list[pathlib.Path]:
  """Returns where a path may be that is in the config of a run's folder.

  The current folder of the run's start is not recorded: a relative path may
  start in the current one, or in those above the run, the nearest first.
  """
  start = pathlib.Path(path).expanduser()
  return [start, *(folder / start for folder in run.resolve().parents)]
