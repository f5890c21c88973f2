"""Diagnoses of small runs."""

import hashlib
import json
import math
import pathlib
import shutil

import numpy as np
import pytest

from experiments import debug, run
from tests import small
from vid2act_jax import learner
from vid2act_jax.analysis import __main__, diagnose, load_runs
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.learner import open_loop
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

SOURCES = ['probe_wide', 'probe_count']
DIMS = [5, 2]
ALL = diagnose._PARTS


def make_config(**overrides):
  config = debug.get_config()
  config.update(overrides)
  config.learner.scales.discount = 1.0  # With all heads there are.
  config.pretrain.update(steps=2, video_every=0)
  config.finetune.update(env_steps=45, first_updates=2, video_every=0)
  config.evaluate.update(every=0, episodes=1)
  return config.lock()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that was started elsewhere, with a relative folder of sources."""
  place = tmp_path_factory.mktemp('place')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(place)
    run.run(make_config(source_dir='data'), pathlib.Path('runs/debug'))
  return place / 'runs' / 'debug'


@pytest.fixture(scope='module')
def diagnosis(finished):
  """What `write` writes about it, and that it touches nothing else."""
  before = listing(finished.parents[1])
  path = diagnose.write(finished, 7)
  after = listing(finished.parents[1])
  assert after.pop(path) and after == before
  assert path == finished / 'diagnosis.json'
  return json.loads(path.read_text())


def listing(folder):
  """Every file with the hash of what it holds, and every folder."""
  return {
    path: path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob('*')
  }


def made_run(folder, variant, finished, parts, replay=True, **overrides):
  """Parts of the diagnosis of a variant with random parameters."""
  config = make_config(
    variant=variant,
    source_dir=str(finished.parents[1] / 'data'),
    teacher_from=str(finished),
    **overrides,
  )
  runs.init_workdir(folder, config)
  agent = learner.build_agent(
    config.learner, 2, DIMS, variant=learner.parse(variant, SOURCES)
  )
  used = agent.pretrained is not None
  notes = {
    'action_dim': 2,
    'sources': SOURCES if used else [],
    'source_action_dims': DIMS if used else [],
    'agent_steps': 45,
    'updates': 3,
    'total_episodes': [3],
  }
  Checkpoint(folder / runs.STUDENT).save(3, small.state_of(agent), notes)
  if replay:
    shutil.copytree(finished / 'replay', folder / 'replay')
  subject = diagnose._Subject(folder, 3, 0)
  out = {}
  for name in parts:
    out |= diagnose._part(name, getattr(subject, name))
  return out


def test_prediction_of_a_run(diagnosis):
  length = debug.get_config().finetune.length - open_loop.CONTEXT
  prediction = diagnosis['prediction']
  assert prediction['context'] == 5 and prediction['sequences'] == 7
  assert list(prediction['teachers']) == SOURCES
  curves = [prediction['student'], prediction['last_frame']]
  curves += prediction['teachers'].values()
  for curve in curves:
    assert len(curve) == length
    assert all(0 < x < 1 for x in curve)
  assert list(diagnosis['teacher_kl']) == SOURCES
  assert all(entry['kl'] > 0 for entry in diagnosis['teacher_kl'].values())


def test_vae_of_a_run(diagnosis):
  assert list(diagnosis['vae']) == SOURCES
  for dims, figures in zip(DIMS, diagnosis['vae'].values(), strict=True):
    # Random actions: the variance of a uniform distribution.
    assert figures['variance'] == pytest.approx(1 / 3, rel=0.3)
    assert figures['error'] > 0 and figures['kl'] > 0
    assert 0 <= figures['active'] <= figures['latent'] == 10
    assert 0 <= figures['coverage'] <= 1
    width = np.diff(figures['edges'])
    for kind in ('recorded', 'replayed'):
      assert len(figures[kind]) == dims
      for densities in figures[kind]:
        assert (densities * width).sum() == pytest.approx(1)


def test_guidance_and_similarity_of_a_run(diagnosis):
  guidance = diagnosis['guidance']
  for change in ('shuffled', 'noise', 'across_domains', 'across_states'):
    assert guidance[change] > 0
  assert 0 <= guidance['dead_units'] < 1
  assert list(diagnosis['similarity']) == SOURCES
  assert sum(diagnosis['similarity'].values()) == pytest.approx(1)
  assert list(diagnosis['relation']) == SOURCES
  for entry in diagnosis['relation'].values():
    assert entry['distance'] > 0 and entry['explained'] < 1
  assert 0 < diagnosis['pull']['distillation'] < diagnosis['pull']['others']


def test_steps_and_updates_of_a_run(diagnosis, finished):
  notes = Checkpoint(finished / runs.STUDENT).restore_raw()[1]
  assert diagnosis['version'] == 1
  assert diagnosis['updates'] == notes['updates'] >= 2
  assert diagnosis['env_steps'] == notes['agent_steps'] >= 45
  assert not [key for key in diagnosis if key.endswith('_missing')]


def test_result_depends_on_the_seed_alone(diagnosis, finished):
  assert diagnose.diagnose(finished, 7, 0) == diagnosis
  other = diagnose._Subject(finished, 7, 1)
  assert other.similarity() != diagnosis['similarity']
  assert other.prediction() != diagnosis['prediction']


def test_without_transfer_only_the_student_is_left(finished, tmp_path):
  found = made_run(tmp_path, 'dreamerv2', finished, ALL)
  assert len(found['prediction']['student']) == 5
  assert found['prediction']['teachers'] is None
  assert 'dreamerv2 has no teacher' in found['prediction']['teachers_missing']
  for part, reason in (
    ('vae', 'no action VAE'),
    ('guidance', 'no action VAE'),
    ('similarity', 'no teacher'),
    ('teacher_kl', 'no teacher'),
    ('pull', 'no teacher'),
  ):
    assert found[part] is None and reason in found[f'{part}_missing']


def test_stacked_student_predicts(finished, tmp_path):
  found = made_run(
    tmp_path, 'action_free', finished, ('prediction', 'vae', 'similarity')
  )
  assert all(x > 0 for x in found['prediction']['student'])
  assert found['prediction']['teachers'] is None
  assert found['vae'] is None and found['similarity'] is None


def test_without_replay_of_actions(finished, tmp_path):
  found = made_run(
    tmp_path,
    'no_replay',
    finished,
    ('prediction', 'vae', 'guidance', 'similarity'),
  )
  assert list(found['prediction']['teachers']) == SOURCES
  assert found['vae'] is None and found['guidance'] is None
  assert 'no_replay has no action VAE' in found['vae_missing']
  assert sum(found['similarity'].values()) == pytest.approx(1)


def test_single_source_and_no_episodes(finished, tmp_path):
  found = made_run(tmp_path, 'single:probe_count', finished, ALL, replay=False)
  assert list(found['vae']) == ['probe_count']
  for part in ('prediction', 'guidance', 'similarity'):
    assert found[part] is None
    assert 'no episodes here' in found[f'{part}_missing']


def test_uniform_weights(finished, tmp_path):
  shutil.rmtree(tmp_path)
  found = made_run(tmp_path, 'uniform', finished, ('similarity', 'guidance'))
  assert found['similarity'] == {task: pytest.approx(0.5) for task in SOURCES}
  assert found['guidance']['shuffled'] > 0


def test_missing_data_is_reported(finished, tmp_path):
  place = tmp_path / 'place'
  shutil.copytree(finished.parents[1], place)
  copied = place / 'runs' / 'debug'
  shutil.rmtree(place / 'data')
  shutil.rmtree(copied / runs.TEACHER)
  found = diagnose.diagnose(copied, 3, 0)
  assert found['vae'] is None and 'probe_wide' in found['vae_missing']
  prediction = found['prediction']
  assert prediction['teachers'] is None
  assert 'no teacher in' in prediction['teachers_missing']
  assert len(prediction['student']) == 5
  assert found['guidance'] and found['similarity']


def test_no_run_and_no_checkpoint(finished, tmp_path):
  with pytest.raises(UserError, match='is not the folder of a run'):
    diagnose.write(tmp_path)
  shutil.copy(finished / runs.CONFIG, tmp_path)
  with pytest.raises(UserError, match='no checkpoint'):
    diagnose.write(tmp_path)
  with pytest.raises(UserError, match='at least 1'):
    diagnose.write(finished, 0)
  assert not (tmp_path / load_runs.DIAGNOSIS).exists()


def test_sequences_of_episodes(tmp_path):
  """Uniform over the places where they start; paddings are zeros."""
  rng = np.random.default_rng(0)
  for index, length in enumerate((4, 6, 9)):
    flags = np.zeros((3, length), bool)
    flags[0, 0] = flags[1, -1] = True
    action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    reward = np.arange(length, dtype=np.float32) + 100 * index
    action[0], reward[0] = 0, 0
    eps.save(
      tmp_path,
      index,
      {
        'image': np.zeros((length, 64, 64, 3), np.uint8) + index,
        'action': action,
        'reward': reward,
        'discount': np.ones(length, np.float32),
        **dict(zip(('is_first', 'is_last', 'is_terminal'), flags, strict=True)),
      },
    )
  known = dataset.find_episodes(tmp_path)
  assert [file.length for file in known] == [4, 6, 9]  # The newest is last.
  batch = diagnose.sample(known, 400, 5, rng, 3)
  assert batch.image.shape == (400, 5, 64, 64, 3)
  assert batch.action.shape == (400, 5, 3) and not batch.action[..., 2].any()
  starts, counts = np.unique(batch.reward[:, 1], return_counts=True)
  assert starts.tolist() == [101, 102, 201, 202, 203, 204, 205]
  assert counts.min() > 30
  np.testing.assert_array_equal(
    np.diff(batch.reward[:, 1:], axis=1), np.ones((400, 3))
  )
  np.testing.assert_array_equal(
    batch.image[..., 0, 0, 0], np.repeat(batch.reward[:, 1:2] // 100, 5, 1)
  )


def test_numbers_that_are_not_finite_are_left_out():
  found = diagnose._part('vae', lambda: {'a': [1.0, math.nan], 'b': 'text'})
  assert found['vae'] is None and 'diverged' in found['vae_missing']


def test_command_line_continues_after_a_failure(tmp_path, capsys, monkeypatch):
  """A folder that holds no student is named, the others are diagnosed."""
  wrote = []

  def write(run):
    if run.name == 'teacher-0':
      raise UserError('no checkpoint')
    wrote.append(run)
    return run / 'diagnosis.json'

  monkeypatch.setattr(diagnose, 'write', write)
  for name in ('teacher-0', 'vid2act-0'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'metrics.jsonl').touch()
  absent = tmp_path / 'absent'
  assert __main__.main(['diagnose', str(tmp_path), str(absent)]) == 0
  assert wrote == [tmp_path / 'vid2act-0']
  err = capsys.readouterr().err
  assert 'teacher-0: not diagnosed (no checkpoint)' in err
  assert 'absent: there is no such folder' in err
  assert __main__.main(['diagnose', str(absent)]) == 1
