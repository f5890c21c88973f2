"""Logger of a run: metrics.jsonl, its backends, videos, strips, progress.

One `Logger` per stage. Every record has a step, so that a stage resumed from a
checkpoint at step S removes the records after S.
"""

import io
import json
import math
import pathlib
import re
import sys
import time

import numpy as np
from PIL import Image

from vid2act_jax import types
from vid2act_jax.data import files, limits
from vid2act_jax.loops import backends, progress
from vid2act_jax.loops import video as video_lib

METRICS = 'metrics.jsonl'
_KEEP_VIDEOS = 5  # The newest of each name; older ones are deleted.


def read_metrics(workdir, stage=None):
  """Reads a run's metrics: list of dicts, in the order written.

  Args:
    workdir: the run's folder; one without metrics gives an empty list.
    stage: only this stage's lines, or None for all.

  Returns:
    Dicts with 'stage', 'step', 'time' (seconds since the stage's start) and
    the scalars; a scalar that was not finite is NaN. An incomplete last line,
    which a killed run may leave, is skipped.

  Raises:
    UserError: a line other than the last one is not JSON.
  """
  path = pathlib.Path(workdir) / METRICS
  if not path.exists():
    return []
  lines = path.read_bytes().split(b'\n')
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = limits.parse_json(line) if line else None
      if record and not (isinstance(record, dict) and 'stage' in record):
        raise ValueError('no record')
    except ValueError as error:
      if number == len(lines):  # No newline after it: incomplete.
        break
      raise types.UserError(
        f'{path}, line {number} is not JSON: delete that line, or the file '
        'when the curves of this run are no longer wanted'
      ) from error
    if record and stage in (None, record['stage']):
      records.append(
        {k: math.nan if v is None else v for k, v in record.items()}
      )
  return records


class NullLogger:
  """Logs nothing, on all hosts but the first; has `Logger`'s interface."""

  lines = 0

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    pass

  def __getattr__(self, name):
    if name not in ('scalars', 'video', 'strip', 'progress', 'message'):
      raise AttributeError(name)
    return lambda *args, **kwargs: None


class Logger:
  """Logs one stage of a run; use it as a context manager."""

  def __init__(
    self,
    workdir,
    stage,
    resume_step=None,
    resume_lines=None,
    backend_names=backends.DEFAULT,
    config=None,
  ):
    """Opens the log of a stage.

    Args:
      workdir: the run's folder, created if it is missing.
      stage: 'collect', 'pretrain' or 'finetune'; prefix of every tag.
      resume_step: the step that the stage resumes from. Later records are
        removed. None: the stage starts from its beginning, which removes all
        its records.
      resume_lines: number of the stage's lines of metrics at the checkpoint;
        some lines of step `resume_step` may be from after it. None: all lines
        of that step are kept.
      backend_names: where to log to, with 'jsonl'; see `backends.BACKENDS`.
      config: the run's, as a dictionary, for backends that show it.

    Raises:
      UserError: the folder cannot be written, its metrics are damaged, or a
        backend cannot be opened.
    """
    self.workdir = pathlib.Path(workdir)
    self.stage = stage
    self._progress = progress.ProgressLine(stage)
    self.lines = 0  # Of metrics, written by this stage.
    self._all_lines = 0  # Also by other stages.
    self._suffix = video_lib.default_suffix()
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      seconds = self._truncate(resume_step, resume_lines)
      log = backends.StageLog(self.workdir, stage, resume_step, config or {})
      self._backends = [
        backends.BACKENDS[name](log)
        for name in backend_names
        if name != backends.JSONL
      ]
    except OSError as error:
      raise types.UserError(
        f'cannot write into the run folder {self.workdir}: {error}; '
        'choose another with --workdir'
      ) from error
    self._start = time.monotonic() - seconds

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self.close()

  def scalars(self, step, values):
    """Writes one line of metrics, and the same scalars to the backends.

    A value that is not finite becomes null in the file, as JSON has no NaN.
    Backends get it unchanged.

    Args:
      step: int, in the unit of the stage.
      values: {name: float}; anything float() takes.
    """
    values = {name: float(value) for name, value in values.items()}
    record = {
      'stage': self.stage,
      'step': int(step),
      'time': round(time.monotonic() - self._start, 3),
    }
    for name, value in values.items():
      record[name] = value if math.isfinite(value) else None
    # Opened at each call: another stage's logger may replace the file.
    line = json.dumps(record, allow_nan=False)
    files.append_line(self.workdir / METRICS, line)
    self.lines += 1
    self._all_lines += 1
    for backend in self._backends:
      backend.scalars(int(step), self._all_lines, values)

  def video(self, step, name, frames):
    """Writes a file into videos/, as `video.encode`; keeps the newest few.

    Args:
      step: int, in the unit of the stage.
      name: kind of video, such as 'eval'.
      frames: u8 [T, H, W, 3]; small ones are doubled in size.

    Returns:
      The path of the video.
    """
    data = video_lib.encode(frames, self._suffix)
    folder = files.make_folder(self.workdir / 'videos')
    path = folder / f'{self.stage}-{name}-{int(step):09d}{self._suffix}'
    files.atomic_write(path, lambda file: file.write(data))
    for _, old in sorted(self._videos(name))[:-_KEEP_VIDEOS]:
      old.unlink()
    for backend in self._backends:
      backend.video(int(step), self._all_lines, name, path, frames)
    return path

  def strip(self, step, name, image):
    """Writes u8 [H, W, 3] to strips/<stage>-<name>.png; returns the path."""
    folder = files.make_folder(self.workdir / 'strips')
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(buffer, format='PNG')
    path = folder / f'{self.stage}-{name}.png'
    files.atomic_write(path, lambda file: file.write(buffer.getbuffer()))
    for backend in self._backends:
      backend.image(int(step), self._all_lines, name, path)
    return path

  def progress(self, step, total, unit, estimate=None, **text):
    """Shows the progress of the stage; cheap enough to call at every step.

    Args:
      step: int, steps done.
      total: int, steps of the whole stage.
      unit: of the steps, such as 'updates'.
      estimate: a `progress.Estimate`; None: all steps take the same time.
      **text: more values to show, such as last_return=123.4.
    """
    self._progress.show(int(step), int(total), unit, text, estimate)

  def message(self, text):
    """Prints a separate line, above the live line if there is one."""
    self._progress.message(text)

  def close(self):
    """Stops the live line and flushes the backends."""
    self._progress.close()
    for backend in self._backends:
      backend.close()

  def _truncate(self, resume_step, resume_lines):
    """Removes records after resume_step; returns the seconds logged by then."""
    last = -1 if resume_step is None else int(resume_step)
    max_lines = sys.maxsize if resume_lines is None else resume_lines
    kept, seconds = [], 0.0
    for record in read_metrics(self.workdir):
      if record['stage'] == self.stage:
        late = record['step'] > last or self.lines >= max_lines
        if late or resume_step is None:
          continue
        self.lines += 1
        seconds = max(seconds, record['time'])
      kept.append(_to_line(record))
    files.atomic_write(
      self.workdir / METRICS,
      lambda file: file.write(''.join(kept).encode()),
    )
    self._all_lines = len(kept)
    # A video of a later step would count as newer than those to come.
    for step, path in self._videos('.+', literal=False):
      if step > last:
        path.unlink()
    if resume_step is None:
      for path in self.workdir.glob(f'strips/{self.stage}-*.png'):
        path.unlink()
    return seconds

  def _videos(self, name, literal=True):
    name = re.escape(name) if literal else name
    pattern = re.compile(rf'{re.escape(self.stage)}-{name}-(\d+)\.(?:mp4|gif)')
    for path in self.workdir.glob('videos/*'):
      if match := pattern.fullmatch(path.name):
        yield int(match[1]), path


def _to_line(record):
  """Formats a record of read_metrics as a line of the file."""
  record = {
    k: None if isinstance(v, float) and math.isnan(v) else v
    for k, v in record.items()
  }
  return json.dumps(record, allow_nan=False) + '\n'
