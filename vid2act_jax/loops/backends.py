"""Where a logger writes to, besides metrics.jsonl.

A new backend is a class here and a line in `BACKENDS`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import tensorboardX
from tensorboardX.proto.summary_pb2 import Summary

from vid2act_jax.data import files, limits, storage
from vid2act_jax.loops import progress, video
from vid2act_jax.types import UserError

JSONL = 'jsonl'  # The logger's own: resuming and reports read it.
DEFAULT = JSONL, 'tensorboard'
_KEY = 'config.logger.backends'


@dataclasses.dataclass(frozen=True)
class StageLog:
  """What a backend logs.

  workdir: the run's folder.
  stage: its name.
  resume_step: the step that the stage resumes from; None: it starts.
  config: the run's, as a dictionary.
  """

  workdir: pathlib.Path
  stage: str
  resume_step: int | None = None
  config: Mapping = dataclasses.field(default_factory=dict)


class Backend:
  """One place to log to; the methods here do nothing.

  package: that it imports.
  extra: of setup.cfg, which installs it.
  """

  package = extra = ''

  def __init__(self, log: StageLog):
    """Opens the log; raises OSError or UserError if it cannot be opened."""
    self.log = log

  @classmethod
  def check(cls) -> None:
    """Raises a UserError if a run would fail to open it."""

  def scalars(self, step: int, line: int, values: Mapping[str, float]) -> None:
    """Logs scalars; line: the number of lines in metrics.jsonl so far."""

  def video(
    self, step: int, line: int, name: str, path: pathlib.Path, frames
  ) -> None:
    """Logs a video: its file, and its frames u8 [T, H, W, 3]."""

  def image(self, step: int, line: int, name: str, path: pathlib.Path) -> None:
    """Logs a PNG file."""

  def close(self) -> None:
    """Ends the stage."""

  @classmethod
  def finish(cls, workdir: pathlib.Path) -> None:
    """Ends the run in a folder, and those below it; also after an error."""


class TensorBoard(Backend):
  """Event files in tensorboard/<stage>/."""

  package = 'tensorboardX'

  def __init__(self, log: StageLog):
    super().__init__(log)
    purge_step = None
    # A folder per stage: purge_step hides later events of the whole folder.
    folder = log.workdir / 'tensorboard' / log.stage
    if log.resume_step is None:
      storage.remove_tree(folder)
    else:  # An event's step has 63 bits.
      purge_step = min(int(log.resume_step) + 1, sys.maxsize)
    self._writer = tensorboardX.SummaryWriter(
      str(folder), purge_step=purge_step, flush_secs=10
    )

  def scalars(self, step, line, values):
    for name, value in values.items():
      self._writer.add_scalar(f'{self.log.stage}/{name}', value, step)

  def video(self, step, line, name, path, frames):
    is_gif = path.suffix == '.gif'  # The only one that it can show.
    data = path.read_bytes() if is_gif else video.encode(frames, '.gif')
    height, width = np.multiply(np.shape(frames)[1:3], video.scale_of(frames))
    image = Summary.Image(
      height=height, width=width, colorspace=3, encoded_image_string=data
    )
    tag = f'{self.log.stage}/{name}'
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    self._writer.file_writer.add_summary(summary, step)

  def close(self):
    self._writer.close()


class Wandb(Backend):
  """A run of Weights & Biases for each run folder.

  It stays open from stage to stage until `finish`, since without a network
  each opening makes a file of its own. The id is in wandb.json, so that a
  resumed run goes on. Its steps are the lines of metrics.jsonl: what is logged
  again has the same numbers. Project, mode, key: see the WANDB_ variables.
  """

  package = extra = 'wandb'
  FILE = 'wandb.json'
  _runs: dict = {}  # By folder.
  _lock = threading.Lock()  # Seeds open theirs at the same time.

  def __init__(self, log: StageLog):
    super().__init__(log)
    import wandb

    self._wandb = wandb
    folder = log.workdir.resolve()
    with self._lock:
      if folder not in self._runs:
        self._runs[folder] = self._open(folder)
      self._run = self._runs[folder]
    for name in f'{log.stage}/*', f'videos/{log.stage}-*':
      self._run.define_metric(name, step_metric=f'{log.stage}/step')
    if log.stage == 'finetune':
      self._run.define_metric('similarity/*', step_metric='finetune/step')

  @classmethod
  def check(cls):
    import wandb

    try:
      mode = wandb.setup().settings.mode
      offline = mode in ('offline', 'disabled', 'dryrun')
      known = offline or wandb.login(prompt=False)
    except (wandb.errors.Error, ValueError) as error:  # A wrong variable.
      raise UserError(_explain(error)) from error
    if not known:
      raise UserError(_explain('there is no API key'))

  def _open(self, folder):
    path = folder / self.FILE
    try:
      run_id = str(limits.read_json(path)['id']) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{path} cannot be read ({error}); remove it: the run then has a new id'
      ) from error
    config = self.log.config
    is_seed = folder.name == f'seed_{config.get("seed")}'
    name = f'{folder.parent.name}/{folder.name}' if is_seed else folder.name
    group = folder.parent.name if is_seed else config.get('name')
    try:
      run = self._wandb.init(
        project=os.environ.get('WANDB_PROJECT') or 'vid2act_jax',
        id=run_id,
        resume='allow',
        reinit='create_new',
        name=os.environ.get('WANDB_NAME') or name,
        group=os.environ.get('WANDB_RUN_GROUP') or group,
        dir=str(folder),
        config=dict(config),
        # Nothing of the machine that might be secret.
        settings=self._wandb.Settings(
          console='off', disable_git=True, disable_code=True, silent=True
        ),
      )
    except (self._wandb.errors.Error, ValueError) as error:
      raise UserError(_explain(error)) from error
    progress.report(f'wandb: {run.dir if run.offline else run.url}')
    text = json.dumps({'id': run.id}) + '\n'
    files.atomic_write(path, lambda file: file.write(text.encode()))
    return run

  def scalars(self, step, line, values):
    stage = self.log.stage
    tag = lambda k: k if k.startswith('similarity/') else f'{stage}/{k}'
    tagged = {tag(name): value for name, value in values.items()}
    self._run.log({f'{stage}/step': step, **tagged}, step=line)

  def video(self, step, line, name, path, frames):
    data = self._wandb.Video(str(path), format=path.suffix[1:])
    self._log_media(step, line, name, data)

  def image(self, step, line, name, path):
    self._log_media(step, line, f'{name}-strip', self._wandb.Image(str(path)))

  def _log_media(self, step, line, name, data):
    stage = self.log.stage
    values = {f'{stage}/step': step, f'videos/{stage}-{name}': data}
    self._run.log(values, step=line)

  @classmethod
  def finish(cls, workdir):
    workdir = workdir.resolve()
    status = 1 if sys.exc_info()[0] else 0
    for folder in list(cls._runs):
      if folder.is_relative_to(workdir):
        cls._runs.pop(folder).finish(exit_code=status)


BACKENDS: dict[str, type[Backend]] = {
  'tensorboard': TensorBoard,
  'wandb': Wandb,
}


def check(names: Sequence[str]) -> None:
  """Checks backends before a run starts.

  Raises:
    UserError: one is unknown, is not installed or cannot be opened, or
      metrics.jsonl is left out.
  """
  for name in names:
    if name not in (JSONL, *BACKENDS):
      raise UserError(
        f'{_KEY} has {name!r}; the backends are {", ".join((JSONL, *BACKENDS))}'
      )
  if JSONL not in names:
    raise UserError(
      f'{_KEY}={tuple(names)} lacks {JSONL!r}: resuming, summary and reports'
      f' read metrics.jsonl; set --{_KEY}="{(JSONL, *names)}"'
    )
  for name in names:
    if name == JSONL:
      continue
    backend = BACKENDS[name]
    if not find_spec(backend.package):
      raise UserError(
        f'{_KEY} has {name!r}, but {backend.package} is not installed:'
        f" pip install -e '.[{backend.extra}]'"
      )
    backend.check()


def finish(workdir: pathlib.Path) -> None:
  """Ends the runs of all backends in a folder and below it."""
  for backend in BACKENDS.values():
    backend.finish(workdir)


def _explain(error):
  reason = ' '.join(str(error).split())
  return (
    f'{_KEY} has wandb, but it cannot log ({reason}): run wandb login and check'
    ' the WANDB_ variables, or set WANDB_MODE=offline and upload later with'
    ' wandb sync'
  )
