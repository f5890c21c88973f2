"""Whole runs of variants that are composed of single fields."""

import shutil

import numpy as np
import pytest

from experiments import debug, run
from tests import kill_runs, small
from vid2act_jax.learner.pretrain import Pretrainer
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.types import UserError

pytestmark = [
  pytest.mark.usefixtures('share_compiled_steps'),
  pytest.mark.slow,
]


def config_with(finished, variant='vid2act', sources=None, **fields):
  config = debug.get_config()
  config.source_dir = str(finished / 'sources')
  config.variant = variant
  config.stages = 'pretrain', 'finetune'
  config.sources = sources or config.sources
  config.learner.transfer.update(fields)
  return config.lock()


def test_a_guided_run_resumes_and_can_be_evaluated(
  finished, tmp_path, monkeypatch
):
  """With every part that has a state of its own."""
  config = config_with(
    finished,
    'vid2act_guided',
    states='rollout:3',
    rehearsal=0.5,
    rehearsal_domains='selected',
    guidance='feature+residual+prior+jump_start',
  )
  expected, killed = tmp_path / 'whole', tmp_path / 'killed'
  run.run(config, expected)
  rows = read_metrics(expected, 'finetune')
  strengths = [r['train/guidance_strength'] for r in rows if 'train/kl' in r]
  assert 1 > strengths[0] > strengths[-1] > 0
  weights = [r for r in rows if 'similarity/probe_wide' in r]
  assert all('teacher_kl/probe_count' in row for row in weights)

  shutil.copytree(expected, killed)
  shutil.rmtree(killed / runs.STUDENT)
  shutil.rmtree(killed / 'replay')
  kill_runs.kill_after(monkeypatch, 12)  # Two after the checkpoint at 10.
  with pytest.raises(kill_runs.Killed):
    run.run(config, killed)
  monkeypatch.undo()
  run.run(config, killed)
  assert kill_runs.differences(expected, killed) == []

  agent, state = runs.load_agent(expected)
  assert agent.variant.generator.pretrained
  assert state.similarity.shape == (2,)


def test_separate_teachers_and_a_source_that_is_added(finished, tmp_path):
  """The teacher of a source is used again; only the new one is trained."""
  first, second = tmp_path / 'first', tmp_path / 'second'
  separate = {'teachers': 'separate', 'weights': 'uniform'}
  sources = debug.get_config().sources
  run.run(config_with(finished, sources=sources[:1], **separate), first)
  both = config_with(finished, **separate)
  shutil.copytree(first / 'teachers', second / 'teachers')
  time = (second / 'teachers' / sources[0] / 'metrics.jsonl').stat().st_mtime
  run.run(both, second)
  path = second / 'teachers' / sources[0] / 'metrics.jsonl'
  assert path.stat().st_mtime == time
  folders = [second / 'teachers' / task for task in sources]
  third = both.copy_and_resolve_references().unlock()
  third.teacher_from = ','.join(map(str, folders))
  run.run(third.lock(), tmp_path / 'third')
  losses = [
    [row.get('train/model_loss') for row in read_metrics(folder, 'finetune')]
    for folder in (second, tmp_path / 'third')
  ]
  assert losses[0] == losses[1] and any(losses[0])
  third = third.unlock()
  third.teacher_from = str(folders[0])
  with pytest.raises(UserError, match='names 1 run folders.*2 tasks'):
    run.run(third.lock(), tmp_path / 'fourth')


def test_rehearsal_without_a_pretrained_model(finished, tmp_path):
  config = config_with(finished, 'dreamerv2', rehearsal=0.5)
  run.run(config, tmp_path)
  assert not (tmp_path / runs.TEACHER).exists()
  rows = read_metrics(tmp_path, 'finetune')
  assert np.isfinite(
    [r['eval/return'] for r in rows if 'eval/return' in r]
  ).all()


def test_a_teacher_of_a_variant_without_a_generator(finished, tmp_path):
  """It is not trained there; a run that needs one says what to do."""
  state, extra, _ = Checkpoint(finished / runs.TEACHER).restore_raw()
  assert set(state['params']) == {'model'} and 'generator' not in extra
  config = config_with(finished, 'vid2act_guided').unlock()
  config.teacher_from, config.stages = str(finished), ('finetune',)
  with pytest.raises(
    UserError, match='has no generator.*generator_start=fresh'
  ):
    run.run(config.lock(), tmp_path)
  # A teacher that is trained on its own has one, for runs of any variant.
  config = config_with(finished).unlock()
  config.stages = ('pretrain',)
  run.run(config.lock(), tmp_path / 'teacher')
  state, _, _ = Checkpoint(tmp_path / 'teacher' / runs.TEACHER).restore_raw()
  assert set(state['params']) == {'model', 'generator'}


def test_a_run_stopped_in_the_generators_training_resumes(
  finished, tmp_path, monkeypatch
):
  config = config_with(finished).unlock()
  config.stages = ('pretrain',)
  config = config.lock()
  run.run(config, tmp_path / 'whole')

  def stop(*unused, **unused_names):
    raise kill_runs.Killed

  monkeypatch.setattr(Pretrainer, 'fit_generator', stop)
  with pytest.raises(kill_runs.Killed):
    run.run(config, tmp_path / 'stopped')
  monkeypatch.undo()
  assert not Checkpoint(tmp_path / 'stopped' / runs.TEACHER).finished()
  run.run(config, tmp_path / 'stopped')
  states = [
    Checkpoint(tmp_path / name / runs.TEACHER).restore_raw()[0]
    for name in ('whole', 'stopped')
  ]
  small.assert_equal(*states)
