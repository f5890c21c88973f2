"""Runs for the report: found in folders, read as far as they can be read.

A run may be half done, of another version of the code, or damaged. What is
odd about it goes in words into its `problems`, and the rest of it is used.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

from vid2act_jax.analysis import drawing
from vid2act_jax.data import dataset, limits
from vid2act_jax.loops import config_keys, logger, runs

DIAGNOSIS = 'diagnosis.json'
_DEPTH = 3  # Folders below a given one: study/point/run.
_MOST_LINE = 1 << 20  # Bytes; a row takes some thousand.
_MOST_FILE = 256 << 20  # Bytes; a run of 500k steps tells some MB.
# Beyond these a number is damage: sums of it would overflow.
_MOST_STEP, _MOST_VALUE = 1e12, 1e15


@dataclasses.dataclass
class Run:
  """What is known of one run; what is not known is None or empty."""

  path: pathlib.Path
  task: str | None
  variant: str | None
  seed: int | None
  sources: tuple[str, ...]  # Names of the source tasks.
  metrics: list[dict]  # Rows of numbers: stage, step, time and scalars.
  config: dict
  diagnosis: dict | None  # Of `analysis.diagnose`, as it was read.
  commit: str  # Of the last start; 'unknown'.
  machine: str  # The same.
  seconds: dict[str, float]  # {stage: until the last row it told}
  problems: list[str]  # What is odd about it, each in a sentence.

  def series(self, key: str, stage: str = 'finetune'):
    """The finite values of a key: (steps [T], values [T]), by step."""
    return drawing.series(self.metrics, stage, key)

  def setting(self, key: str, default=None):
    """A value of the config by its dotted key; of one that is not there."""
    node = self.config
    for part in key.split('.'):
      if not isinstance(node, dict) or part not in node:
        return default
      node = node[part]
    return node


def find(folders: list[pathlib.Path]) -> tuple[list[pathlib.Path], list[str]]:
  """Looks for runs in folders.

  Args:
    folders: each a run, or a folder of runs, at most three levels above them.

  Returns:
    The runs' folders, each once, and what was wrong, in words.
  """
  found, problems = {}, []
  for folder in folders:
    if not folder.is_dir():
      problems.append(f'{folder}: there is no such folder')
      continue
    here = list(_search(folder, _DEPTH, problems))
    if not here:
      problems.append(f'{folder}: no run in it, nor {_DEPTH} levels below')
    found |= {path.resolve(): path for path in here}
  return list(found.values()), problems


def _search(
  folder: pathlib.Path, depth: int, problems: list[str]
) -> Iterator[pathlib.Path]:
  if any((folder / x).is_file() for x in (logger.METRICS, runs.STARTS)):
    yield folder
    return
  # The agents that collected a dataset lie in it: no part of the comparison.
  if depth == 0 or (folder / dataset.FILE).is_file():
    return
  try:
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  except OSError as error:
    problems.append(f'{folder}: cannot be read ({error.strerror})')
    return
  for entry in entries:
    if entry.is_dir() and entry.name != 'agent' and entry.name[0] != '.':
      yield from _search(pathlib.Path(entry.path), depth - 1, problems)


def read(path: pathlib.Path) -> Run:
  """Reads a run's folder; never fails, but tells `problems`."""
  problems: list[str] = []
  metrics = _rows(path / logger.METRICS, problems)
  config = _object(path / runs.CONFIG, problems, 'its task is unknown')
  config_keys.add_missing(config)
  diagnosis = None
  if (path / DIAGNOSIS).exists():
    why = 'make it again by python -m vid2act_jax.analysis diagnose'
    diagnosis = _object(path / DIAGNOSIS, problems, why) or None
  starts = [x for x in _lines(path / runs.STARTS, []) if isinstance(x, dict)]
  last = starts[-1] if starts else {}
  commits = sorted({_word(start.get('commit')) for start in starts})
  if len(commits) > 1:
    problems.append(f'went on with other code: {", ".join(commits)}')
  # Where older runs kept it.
  older = config.get('learner')
  older = older.get('variant') if isinstance(older, dict) else None
  run = Run(
    path=path,
    task=_text(config.get('task')),
    variant=_text(config.get('variant')) or _text(older),
    seed=config['seed'] if _is_int(config.get('seed')) else None,
    sources=_names(config.get('sources')),
    metrics=metrics,
    config=config,
    diagnosis=diagnosis,
    commit=_word(last.get('commit')),
    machine=_word(last.get('machine')),
    seconds=_seconds(metrics),
    problems=problems,
  )
  if config:
    missing = [k for k in ('task', 'variant', 'seed') if not _has(run, k)]
    if missing:
      problems.append(f'config.json does not tell its {" and ".join(missing)}')
  _judge_length(run)
  return run


def _has(run, key):
  return getattr(run, key) is not None


def _judge_length(run):
  """Whether it finetuned, and to its end."""
  steps, _ = run.series('eval/return')
  if not any(row['stage'] == 'finetune' for row in run.metrics):
    return  # Only a teacher, perhaps: said of those that should have.
  if not len(steps):
    run.problems.append('finetuning told no evaluation')
    return
  goal = run.setting('finetune.env_steps')
  if _is_number(goal) and steps[-1] < goal:
    run.problems.append(
      f'unfinished: evaluated up to {steps[-1]:.0f} of {goal:.0f} env steps'
    )


def _seconds(metrics):
  out: dict[str, float] = {}
  for row in metrics:
    if math.isfinite(row.get('time', math.nan)):
      out[row['stage']] = max(out.get(row['stage'], 0.0), row['time'])
  return out


def _rows(path, problems):
  if not path.exists():
    problems.append('no metrics.jsonl')
    return []
  rows, damaged, odd = [], 0, 0
  for record in _lines(path, problems):
    if not _is_row(record):
      damaged += 1
      continue
    row = {'stage': _word(record.pop('stage'))}
    for key, value in record.items():
      if value is None:  # Was not finite.
        value = math.nan
      if not isinstance(value, bool) and isinstance(value, int | float):
        odd += not abs(value) <= _MOST_VALUE and not math.isnan(value)
        key = _text(key) or ''
        row[key] = float(value) if abs(value) <= _MOST_VALUE else math.nan
      else:
        odd += 1
    rows.append(row)
  if damaged:
    problems.append(f'metrics.jsonl: {damaged} lines are no rows, left out')
  if odd:
    problems.append(f'metrics.jsonl: {odd} values are no numbers, left out')
  return rows


def _is_row(record):
  return (
    isinstance(record, dict)
    and isinstance(record.get('stage'), str)
    and _is_number(record.get('step'))
    and 0 <= record['step'] <= _MOST_STEP
  )


def _lines(path: pathlib.Path, problems: list[str]) -> Iterator:
  """What the lines of a file say; of those that are damaged, None.

  The last one may be torn, as a killed run leaves it: it is passed over.
  """
  try:
    with open(path, 'rb') as file:
      while line := file.readline(_MOST_LINE):
        if file.tell() > _MOST_FILE:
          problems.append(f'{path.name}: too long, its end was not read')
          return
        try:
          yield limits.parse_json(line.decode())
        except ValueError:
          if line.endswith(b'\n') or len(line) == _MOST_LINE:
            yield None
  except OSError as error:
    problems.append(f'{path.name} cannot be read ({error.strerror})')


def _object(path, problems, consequence):
  """A file's JSON object; {} if there is none, which is told."""
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


def _is_int(value):
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and abs(value) <= _MOST_VALUE
  )


def _text(value):
  """A name that can be shown: one line without what no font has."""
  if not isinstance(value, str):
    return None
  return ''.join(c if c.isprintable() else '?' for c in value[:200]) or None


def _word(value):
  return _text(value) or 'unknown'


def _names(value):
  if not isinstance(value, list):
    return ()
  return tuple(filter(None, map(_text, value)))
