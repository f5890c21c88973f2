"""Measures what the parts of a run's agent have learned, beyond its returns.

The result, diagnosis.json in the run's folder, says how well the student and
the teacher predict the target's frames, how much these surprise the teacher
under each label, how the action VAE reconstructs and replays the sources'
actions, how much the policy depends on its guidance, how similar the sources
are to the target, and the gradient of the distillation.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from vid2act_jax.analysis import load_runs
from vid2act_jax.data import bucket, dataset, files, shards
from vid2act_jax.data import episodes as eps
from vid2act_jax.data import weights as weight_files
from vid2act_jax.learner import diagnostics, open_loop, teacher_diagnostics
from vid2act_jax.loops import run_copies, runs, sources
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import Batch, UserError

VERSION = 1
_PARTS = (
  'prediction',
  'teacher_kl',
  'vae',
  'guidance',
  'similarity',
  'relation',
  'pull',
)
_KEYS = ('image', 'action', 'reward', 'is_first', 'discount')


def write(
  run: str | os.PathLike, sequences: int = 64, seed: int = 0
) -> pathlib.Path:
  """Diagnoses a run's newest checkpoint, and writes diagnosis.json.

  Args:
    run: the run's folder; finished or not.
    sequences: number of sequences for every measure.
    seed: of the sequences and the noise; a seed always gives the same file.

  Returns:
    The path of the file. What a run does not have is null in it; the reason is
    its '<name>_missing'.

  Raises:
    UserError: it is not the folder of a run, its finetuning has not saved a
      checkpoint yet, or the folder cannot be written.
  """
  run = pathlib.Path(run)
  if sequences < 1:
    raise UserError(f'{sequences} sequences: there must be at least 1')
  text = json.dumps(diagnose(run, sequences, seed), indent=1) + '\n'
  path = run / load_runs.DIAGNOSIS
  files.atomic_write(path, lambda file: file.write(text.encode()))
  return path


def diagnose(run: pathlib.Path, sequences: int, seed: int) -> dict:
  """Returns what `write` writes; arguments and errors are those of `write`."""
  subject = _Subject(run, sequences, seed)
  steps = subject.metadata['agent_steps'] * subject.config.env.action_repeat
  updates = subject.metadata['updates']
  out = {'version': VERSION, 'env_steps': steps, 'updates': updates}
  for name in _PARTS:
    out |= _part(name, getattr(subject, name))
  return out


def _part(name: str, measure: Callable) -> dict:
  """Returns {name: numbers}, or None and why there are none."""
  try:
    numbers = measure()
    leaves = [x for x in jax.tree.leaves(numbers) if not isinstance(x, str)]
    if not np.isfinite(leaves).all():
      raise UserError('not finite: the training seems to have diverged')
    return {name: numbers}
  except UserError as error:
    return {name: None, f'{name}_missing': str(error)}


class _Subject:
  """A run and its measures, named as in diagnosis.json."""

  def __init__(self, run, num, seed):
    self.config = open_config(run)
    self._run, self._num, self._seed = run, num, seed
    self._agent, self._state = runs.load_agent(run)
    _, self.metadata, _ = Checkpoint(run / runs.STUDENT).restore_raw()

  def prediction(self):
    args = self._agent, self._state, self._target, self._key(0)
    return {
      'context': open_loop.CONTEXT,
      'student': diagnostics.prediction(*args),
      **_part('teachers', self._teachers),
      'last_frame': diagnostics.last_frame(self._target),
      'sequences': self._num,
    }

  def _teachers(self):
    if self._agent.variant.teachers == 'separate':
      raise UserError('separate teachers come without decoders')
    args = self._require('teacher'), self._teacher, self._target, self._key(1)
    if 'decoder' not in self._teacher:
      raise UserError(
        f'{self.config.teacher_from}: a public teacher comes without decoder'
      )
    return self._by_source(teacher_diagnostics.predictions(*args))

  def teacher_kl(self):
    args = self._require('teacher'), self._teacher, self._target, self._key(1)
    each = self._by_source(teacher_diagnostics.kl(*args))
    return {source: {'kl': value} for source, value in each.items()}

  def vae(self):
    agent = self._require('action VAE')
    args = agent, self._state, self._sources(), self._key(2)
    named = self._by_source(diagnostics.action_replay(*args))
    if agent.variant.weights.kind == 'single':  # The others' are not trained.
      task = self.metadata['sources'][agent.variant.weights.domain]
      return {task: named[task]}
    return named

  def guidance(self):
    self._require('action VAE')
    agent, rng = self._require('guidance of the policy'), self._rng(2)
    inputs, *_ = self._followed
    return diagnostics.guidance_use(agent, self._state, inputs, rng)

  def similarity(self):
    weights = self._followed[1].mean((0, 1), np.float64)
    return self._by_source(weights.tolist())

  def relation(self):
    inputs, _, teacher = self._followed
    if len(inputs) < 2:
      raise UserError('one sequence alone: there is none to test it on')
    student = inputs[..., : self._agent.student.feat_dim]
    args = self._agent, self._state, student, teacher
    return self._by_source(diagnostics.feature_similarity(*args))

  def pull(self):
    agent, num = self._require('teacher'), self.config.finetune.batch
    batch = jax.tree.map(lambda x: x[:num], self._target)
    return diagnostics.grad_norms(agent, self._state, batch, self._key(4))

  def _by_source(self, values):
    return dict(zip(self.metadata['sources'], values, strict=True))

  def _require(self, part):
    has = {
      'teacher': self._agent.teacher,
      'action VAE': self._agent.variant.generates_actions,
      'guidance of the policy': self._agent.reads_guidance,
    }
    if not has[part]:
      raise UserError(f'the variant {self.config.variant} has no {part}')
    return self._agent

  @functools.cached_property
  def _teacher(self):
    agent = self._require('teacher')
    return sources.load_teacher(self.config, self._run, agent)

  @functools.cached_property
  def _followed(self):
    args = self._require('teacher'), self._state, self._target, self._key(3)
    return diagnostics.follow(*args)

  @functools.cached_property
  def _target(self):
    """Sequences of the newest episodes of the online replay."""
    # If several processes collected, those of the first.
    num_shards = len(self.metadata['total_episodes'])
    folder = shards.folder_of(self._run / 'replay', 0, num_shards)
    found = dataset.find_episodes(folder)[-run_copies.NEWEST :]
    return sample(found, self._num, self._length([found]), self._rng(0))

  def _sources(self):
    """Sequences of the source datasets, [B, N, L, ...]."""
    folder = lambda task: sources.source_folder(self.config, self._run, task)
    tasks = self.metadata['sources']
    found = [dataset.find_episodes(folder(task)) for task in tasks]
    length, rng = self._length(found), self._rng(1)
    width = max(self.metadata['source_action_dims'])
    each = [sample(x, self._num, length, rng, width) for x in found]
    return jax.tree.map(lambda *xs: np.stack(xs, 1), *each)

  def _length(self, datasets):
    """The training's, or that of the longest episode if all are shorter."""
    longest = min(max(file.length for file in found) for found in datasets)
    length = min(self.config.finetune.length, longest)
    if length <= open_loop.CONTEXT:
      raise UserError(
        f'{datasets[0][0].path.parent.parent}: no episode is longer than'
        f' {open_loop.CONTEXT} frames, the context of a prediction'
      )
    return length

  def _key(self, stream):
    return jax.random.fold_in(jax.random.key(self._seed), stream)

  def _rng(self, stream):
    return np.random.default_rng((self._seed, stream))


def sample(
  found: Sequence[eps.EpisodeFile],
  num: int,
  length: int,
  rng: np.random.Generator,
  width: int | None = None,
) -> Batch:
  """Samples sequences, uniformly over all places where they can start.

  Args:
    found: the episodes, at least one of them that long.
    num, length: B sequences of L frames each.
    rng: of the sampling.
    width: A of the result, padded with zeros; None: that of the episodes.

  Returns:
    NumPy arrays [B, L, ...], by episode.

  Raises:
    UserError: an episode is damaged, or differs from the others.
  """
  ends = np.cumsum([max(0, file.length - length + 1) for file in found])
  # Sorted, so that every episode is read once and then forgotten.
  places = np.sort(rng.integers(0, ends[-1], num))
  owners = np.searchsorted(ends, places, side='right')
  sequences, size, dims = [], None, None
  for owner in np.unique(owners):
    path = found[owner].path
    episode = eps.load(path)
    eps.validate(episode, path, size, dims)
    size, dims = episode['image'].shape[1], episode['action'].shape[1]
    for first in places[owners == owner] - (ends[owner - 1] if owner else 0):
      sequences.append([episode[x][first : first + length] for x in _KEYS])
  arrays = map(np.stack, zip(*sequences, strict=True))
  batch = Batch(**dict(zip(_KEYS, arrays, strict=True)))
  margin = [(0, 0), (0, 0), (0, (width or dims) - dims)]
  return batch.replace(action=np.pad(batch.action, margin))


def open_config(run: pathlib.Path) -> ConfigDict:
  """Returns a run's config, its paths valid in the current folder.

  Raises:
    UserError: it is missing or damaged.
  """
  config = ConfigDict(runs.read_config_dict(run))

  def locate(path, file):
    if bucket.is_url(path):
      return path
    tried = load_runs.candidates(path, run)
    return str(next((x for x in tried if (x / file).exists()), tried[0]))

  if config.source_dir and config.sources:
    file = pathlib.Path(config.sources[0], dataset.FILE)
    config.source_dir = locate(config.source_dir, file)
  if origin := config.teacher_from:
    file = '' if origin.endswith(weight_files.SUFFIXES) else runs.TEACHER
    config.teacher_from = locate(origin, file)
  config.replay.scratch = ''  # Of the machine that ran it.
  return config
