"""What a run will do and need, for --dry_run; writes nothing."""

import math
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np

from vid2act_jax import learner
from vid2act_jax.data import store
from vid2act_jax.loops import (
  env_probe,
  memory,
  policies,
  run_checks,
  runs,
  schedule,
  setup,
  sources,
  timing,
)
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import LearnerState

_KEPT = 2  # Checkpoints of a stage.


def describe(
  config, workdir: pathlib.Path, place: pathlib.Path | None = None
) -> str:
  """Describes stages, memory, disk space and time of a run that was checked.

  With several seeds: the stages of each, and the rest of the first one.

  Args:
    config: the run's.
    workdir: the run's folder, or that of the seeds' folders; may be missing.
    place: where the run will have it, if that is a temporary copy.
  """
  several = run_checks.runs_of(config, workdir)
  lines = []
  for own_config, folder in several:
    lines += [f'run folder: {folder}', *_describe_stages(own_config, folder)]
  if len(several) > 1:
    lines.append(f'for each of {len(several)} seeds:')
  own_config, folder = several[0]
  needs = _Needs(own_config, folder, place or folder)
  lines += [*needs.memory(), *needs.disk(), timing.describe(own_config, folder)]
  return '\n'.join([*lines, 'nothing was written'])


def _describe_stages(config, workdir) -> Iterator[str]:
  work = run_checks.work_of(config, workdir)
  for stage in config.stages:
    if stage == 'collect' and work.collects:
      for task in config.sources:
        yield f'collect: {task}: {_describe_source(config, workdir, task)}'
    elif stage == 'pretrain' and work.pretrains:
      variant = runs.variant_of(config)
      for place in sources.teacher_places(config, workdir, variant):
        text = f'{config.pretrain.steps:,} updates on {", ".join(place.names)}'
        yield f'pretrain: {text}, {_begun(place.folder / runs.TEACHER)}'
    elif stage == 'finetune' and work.finetunes:
      plan = schedule.finetune_schedule(config)
      evaluations = plan.evaluations_left(schedule.Counters())
      yield (
        f'finetune: {plan.env_steps:,} env steps of {config.task},'
        f' {plan.num_updates:,} updates, {evaluations} evaluations,'
        f' {_begun(workdir / runs.STUDENT)}'
      )
    else:
      yield f'{stage}: nothing to do'


def _describe_source(config, workdir, task):
  folder = sources.source_folder(config, workdir, task)
  if metadata := sources.finished_dataset(folder):
    return f'exists, {metadata["episodes"]} episodes in {folder}'
  policy = policies.resolve(config.collect.policy, task)
  what = f'{config.collect.episodes} episodes by {policy}'
  if policy == 'agent':
    what = f'{config.collect.agent_env_steps:,} env steps of an agent'
  state = 'resumes' if folder.exists() else 'new'
  return f'{what}, {state}, into {folder}'


def _begun(folder):
  step = Checkpoint(folder).latest()
  return 'new' if step is None else f'resumes after update {step:,}'


class _Needs:
  """Memory and disk space of a run."""

  def __init__(self, config, workdir, place):
    self._config, self._workdir, self._place = config, workdir, place
    self._work = run_checks.work_of(config, workdir)
    self._variant = runs.variant_of(config)
    self._frames, self._dims = [], []  # Of the sources.
    if self._work.collects or self._work.sources:
      for task in config.sources:
        frames, dim = self._source(task)
        self._frames.append(frames)
        self._dims.append(dim)
    self._agent = self._action_dim = None
    if self._work.finetunes:
      settings = setup.env_settings(config)
      self._action_dim = env_probe.probe(config.task, settings).action_dim
      self._agent = learner.build_agent(
        config.learner,
        self._action_dim,
        tuple(self._dims),
        variant=self._variant,
        num_updates=schedule.finetune_schedule(config).num_updates,
      )

  def _source(self, task):
    """Frames of a source, at most, and its action size."""
    config = self._config
    folder = sources.source_folder(config, self._workdir, task)
    if metadata := sources.finished_dataset(folder):
      return metadata['frames'], metadata['action_dim']
    settings = setup.env_settings(config)
    dim = env_probe.probe(task, settings).action_dim
    if policies.resolve(config.collect.policy, task) == 'agent':
      return config.collect.agent_env_steps // config.env.action_repeat, dim
    return config.collect.episodes * self._episode_frames(), dim

  def _episode_frames(self):
    env = self._config.env
    return env.time_limit // env.action_repeat + 1

  def _state(self, stage) -> LearnerState:
    """Shapes of a stage's state."""
    key = jax.random.key(0)
    if stage == 'finetune':
      return jax.eval_shape(self._agent.init_random, key)
    separate = self._variant.teachers == 'separate'
    dims = tuple(self._dims[:1] if separate else self._dims)
    pretrainer = learner.build_pretrainer(
      self._config.learner,
      dims,
      variant=self._variant,
      generator=self._variant.generator.pretrained,
    )
    return jax.eval_shape(pretrainer.init, key)

  def _stages(self):
    active = (
      ('pretrain', self._work.pretrains),
      ('finetune', bool(self._agent)),
    )
    return [stage for stage, is_active in active if is_active]

  def memory(self) -> Iterator[str]:
    """Describes the memory of a device."""
    for stage in self._stages():
      parts = memory.state_bytes(self._state(stage))
      parts['batch'] = self._batch_bytes(stage)
      text = ', '.join(f'{k} {_bytes(v)}' for k, v in parts.items() if v)
      yield (
        f'device memory, {stage}: {text}; activations come on top (measure:'
        ' device_peak_gb in metrics.jsonl)'
      )

  def _record(self, action_dim, embeds=0, image=True):
    """Bytes of a frame in a batch or in a replay."""
    columns = store.frame_columns(self._config.env.size, action_dim)
    if not image:
      del columns['image']
    return store.record_bytes(columns) + embeds * self._embed_bytes()

  def _embed_bytes(self):
    """Bytes of a cached embedding of a frame under one label."""
    dtype = self._config.replay.embeddings
    if dtype == 'none' or not self._variant.teacher or not self._agent:
      return 0
    size = self._agent.teacher.encoder.embed_dim
    return size * np.dtype(dtype).itemsize

  def _source_record(self, dim):
    """Bytes of a source's frame for the generator."""
    cached = bool(self._embed_bytes())
    return self._record(dim, 1 if cached else 0, image=not cached)

  def _batch_bytes(self, stage):
    c, num = self._config[stage], len(self._dims)
    width = max(self._dims, default=0)
    if stage == 'pretrain':
      rows = -(-c.batch // num) * num
      return rows * c.length * self._record(width)
    rows = c.batch * self._record(self._action_dim, num)
    if self._variant.trains_generator:
      rows += num * c.batch * self._source_record(width)
    size = sources.rehearsal_size(self._config, self._variant)
    return (rows + num * size * self._record(width)) * c.length

  def disk(self) -> Iterator[str]:
    """Describes the space of buffers, checkpoints and episodes, at most."""
    parts = {**self._buffers(), 'checkpoints': self._checkpoints()}
    text = ', '.join(f'{k} {_bytes(v)}' for k, v in parts.items() if v)
    total = sum(parts.values())
    scratch = sources.scratch_folder(self._config, self._place).absolute()
    parent = next(p for p in (scratch, *scratch.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    enough = '' if total <= free else ', NOT ENOUGH'
    yield (
      f'disk, at most: {text or "nothing"}; free in {parent}:'
      f' {_bytes(free)}{enough}'
    )

  def _buffers(self):
    """Bytes on disk by name: replays, episodes and embeddings."""
    config, work = self._config, self._work
    capacity = config.replay.source_gb * 1e9
    both = list(zip(self._frames, self._dims, strict=True))
    fits = lambda n, record: min(n * record, capacity)
    images = sum(fits(n, self._record(dim)) for n, dim in both)
    pretrain = images if work.pretrains else 0
    finetune = 0
    if self._agent and self._variant.trains_generator:
      finetune += sum(fits(n, self._source_record(dim)) for n, dim in both)
    if self._agent and self._variant.rehearsal.share:
      finetune += images
    out = {'source replays': max(pretrain, finetune)}
    if self._agent and self._variant.trains_generator:
      out['embeddings'] = sum(self._frames) * self._embed_bytes()
    if work.collects:
      out['source episodes'] = sum(
        n * self._record(dim)
        for task, (n, dim) in zip(config.sources, both, strict=True)
        if not sources.finished_dataset(
          sources.source_folder(config, self._workdir, task)
        )
      )
    if self._agent:
      frames = config.finetune.env_steps // config.env.action_repeat
      frames += frames // 10  # Resets, of episodes of ten steps or more.
      record = self._record(self._action_dim)
      held = min(frames, config.replay.online_gb * 1e9 // record)
      out['online replay'] = math.ceil(
        held * self._record(self._action_dim, len(self._dims))
      )
      kept = frames if config.replay.keep_all else held
      out['online episodes'] = math.ceil(kept * record)
    return out

  def _checkpoints(self):
    # One more while it is written.
    states = [memory.tree_bytes(self._state(x)) for x in self._stages()]
    return (_KEPT + 1) * sum(states)


def _bytes(count):
  """'1.2 GB', '3.4 MB' or '5 KB'."""
  for unit, size in (('GB', 1e9), ('MB', 1e6)):
    if count >= size:
      return f'{count / size:.1f} {unit}'
  return f'{count / 1e3:.0f} KB'
