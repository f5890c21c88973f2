"""What the parts of a run's agent have learned, beyond its returns.

Written into a run's folder as diagnosis.json: how well the student and the
teacher predict the target's frames, how the action VAE reconstructs and replays
the sources' actions, how much the policy heeds its guidance, how similar the
sources are to the target, and how hard distillation pulls. Nothing else in the
folder is touched.
"""

import json
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from vid2act_jax.analysis import chunks, measures, pull, reading
from vid2act_jax.analysis import relation as relations
from vid2act_jax.data import dataset, files, shards, weights
from vid2act_jax.learner import open_loop
from vid2act_jax.loops import runs, sources
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

VERSION = 1
_NEWEST = 10  # Episodes of the replay that the target's sequences are from.


def write(
  run: str | os.PathLike, sequences: int = 64, seed: int = 0
) -> pathlib.Path:
  """Diagnoses a run's newest checkpoint, and writes diagnosis.json there.

  Args:
    run: the run's folder; finished or not.
    sequences: how many every measure is taken over.
    seed: of the choice of sequences and of the noise; the same one gives the
      same file.

  Returns:
    The path of the file. What a run does not have is null in it, and the
    reason stands under '<its name>_missing'.

  Raises:
    UserError: it is not the folder of a run, its finetuning has not saved a
      checkpoint yet, or the folder cannot be written.
  """
  run = pathlib.Path(run)
  if sequences < 1:
    raise UserError(f'{sequences} sequences: there must be at least 1')
  text = json.dumps(diagnose(run, sequences, seed), indent=1) + '\n'
  path = run / reading.DIAGNOSIS
  files.atomic_write(path, lambda file: file.write(text.encode()))
  return path


def diagnose(run: pathlib.Path, sequences: int, seed: int) -> dict:
  """What `write` writes; arguments and errors are those of `write`."""
  subject = _Subject(run, sequences, seed)
  out = {
    'version': VERSION,
    'env_steps': subject.notes['agent_steps']
    * subject.config.env.action_repeat,
    'updates': subject.notes['updates'],
  }
  for name, measure in (
    ('prediction', subject.prediction),
    ('vae', subject.vae),
    ('guidance', subject.guidance),
    ('similarity', subject.similarity),
    ('relation', subject.relation),
    ('pull', subject.pull),
  ):
    out |= _part(name, measure)
  return out


def _part(name: str, measure: Callable) -> dict:
  """{name: figures}, or null and why there are none."""
  try:
    figures = measure()
    told = [x for x in jax.tree.leaves(figures) if not isinstance(x, str)]
    if not np.isfinite(told).all():
      raise UserError('not finite: the training seems to have diverged')
    return {name: figures}
  except UserError as error:
    return {name: None, f'{name}_missing': str(error)}


class _Subject:
  """A run opened for reading, and its measures."""

  def __init__(self, run, num, seed):
    self.config = _open_config(run)
    self._run, self._num, self._seed = run, num, seed
    self._agent, self._state = runs.load_agent(run)
    _, self.notes, _ = Checkpoint(run / runs.STUDENT).restore_raw()
    self._found = None
    self._watched = None

  def prediction(self):
    """Errors of every frame after the context."""
    batch = self._target()
    agent, key = self._agent, self._key(0)
    return {
      'context': open_loop.CONTEXT,
      'student': measures.prediction(agent, self._state, batch, key),
      **_part('teachers', lambda: self._teachers(batch)),
      'last_frame': measures.last_frame(batch),
      'sequences': self._num,
    }

  def _teachers(self, batch):
    params = sources.load_teacher(self.config, self._run, self._with_teacher())
    if 'decoder' not in params:
      raise UserError(
        f'{self.config.teacher_from}: a public teacher comes without decoder'
      )
    found = measures.teacher_predictions(
      self._agent, params, batch, self._key(1)
    )
    return dict(zip(self.notes['sources'], found, strict=True))

  def vae(self):
    """Reconstruction and replay of the sources' actions."""
    found = measures.action_replay(
      self._with_vae(), self._state, self._sources(), self._key(2)
    )
    named = dict(zip(self.notes['sources'], found, strict=True))
    variant = self._agent.variant
    if variant.weights == 'single':  # The others' have not been learned.
      task = self.notes['sources'][variant.domain]
      return {task: named[task]}
    return named

  def guidance(self):
    """How much the policy heeds it."""
    agent = self._with_vae()
    return measures.guidance_use(
      agent, self._state, self._watch()[0], self._rng(2)
    )

  def similarity(self):
    """Mean weights of the sources."""
    weights = self._watch()[1].mean((0, 1), np.float64).tolist()
    return dict(zip(self.notes['sources'], weights, strict=True))

  def relation(self):
    """Distance of the sources' views to the student's, and what they know."""
    inputs, _, teacher = self._watch()
    if len(inputs) < 2:
      raise UserError('one sequence alone: there is none to hold it against')
    student = inputs[..., : self._agent.student.feat_dim]
    found = relations.measure(self._agent, self._state, student, teacher)
    return dict(zip(self.notes['sources'], found, strict=True))

  def pull(self):
    """Distillation's part in the student's gradient."""
    agent = self._with_teacher()
    num = self.config.finetune.batch
    batch = jax.tree.map(lambda x: x[:num], self._target())
    return pull.measure(agent, self._state, batch, self._key(4))

  def _watch(self):
    agent = self._with_teacher()
    if self._watched is None:
      self._watched = measures.follow(
        agent, self._state, self._target(), self._key(3)
      )
    return self._watched

  def _with_teacher(self):
    if not self._agent.teacher:
      raise UserError(
        f'the variant {self.config.variant} has no teacher beside the student'
      )
    return self._agent

  def _with_vae(self):
    if not self._agent.replays:
      raise UserError(f'the variant {self.config.variant} has no action VAE')
    return self._agent

  def _target(self):
    """Sequences of the newest episodes of the online replay."""
    if self._found is None:
      # Of several processes the first one's episodes stand for all.
      folder = shards.folder_of(
        self._run / 'replay', 0, len(self.notes['total_episodes'])
      )
      known = chunks.find(folder, _NEWEST)
      self._found = chunks.draw(
        known, self._num, self._length([known]), self._rng(0)
      )
    return self._found

  def _sources(self):
    """Sequences of the source datasets, [B, N, L, ...]."""
    folders = [
      sources.source_folder(self.config, self._run, task)
      for task in self.notes['sources']
    ]
    known = [chunks.find(folder) for folder in folders]
    length, rng = self._length(known), self._rng(1)
    width = max(self.notes['source_action_dims'])
    each = [
      chunks.draw(episodes, self._num, length, rng, width) for episodes in known
    ]
    return jax.tree.map(lambda *xs: np.stack(xs, 1), *each)

  def _length(self, datasets):
    """That of training, or of the longest episode if all are shorter."""
    longest = min(max(file.length for file in known) for known in datasets)
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


def _open_config(run):
  """The run's config, with places that hold from here, too."""
  config = ConfigDict(runs.read_config_dict(run))
  there = lambda task: lambda place: (place / task / dataset.FILE).exists()
  if config.source_dir and config.sources:
    config.source_dir = _locate(
      config.source_dir, run, there(config.sources[0])
    )
  origin = config.teacher_from
  if origin.endswith(weights.SUFFIXES):
    config.teacher_from = _locate(origin, run, pathlib.Path.exists)
  elif origin:
    config.teacher_from = _locate(
      origin, run, lambda place: (place / runs.TEACHER).exists()
    )
  return config


def _locate(place, run, is_there):
  """A place as the run's start saw it.

  Where that was is not recorded: a relative path is looked for here, then from
  the folders above the run, the nearest first.
  """
  place = pathlib.Path(place).expanduser()
  tried = [place, *(folder / place for folder in run.resolve().parents)]
  return str(next(filter(is_there, tried), place))
