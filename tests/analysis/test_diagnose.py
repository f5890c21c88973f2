"""Diagnosis: its figures by hand, and the whole of it on small runs."""

import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import debug, run
from tests import small
from vid2act_jax import learner
from vid2act_jax.analysis import (
  __main__,
  chunks,
  diagnose,
  measures,
  pull,
  reading,
  relation,
)
from vid2act_jax.data import episodes as eps
from vid2act_jax.learner import finetune, open_loop, teachers
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.nets.world_model import feature
from vid2act_jax.types import UserError

SOURCES = ['probe_wide', 'probe_count']
DIMS = [5, 2]


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


def made_run(folder, variant, finished, replay=True, **overrides):
  """A run of a variant with random parameters, without training it."""
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
  return diagnose.diagnose(folder, 3, 0)


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


def test_vae_of_a_run(diagnosis):
  assert list(diagnosis['vae']) == SOURCES
  for dims, figures in zip(DIMS, diagnosis['vae'].values(), strict=True):
    # Random actions: the variance of a uniform distribution.
    assert figures['variance'] == pytest.approx(1 / 3, rel=0.3)
    assert figures['error'] > 0 and figures['kl'] > 0
    assert 0 <= figures['active'] <= figures['latent'] == 10
    width = np.diff(figures['edges'])
    for kind in ('recorded', 'replayed'):
      assert len(figures[kind]) == dims
      for densities in figures[kind]:
        assert (densities * width).sum() == pytest.approx(1)


def test_guidance_and_similarity_of_a_run(diagnosis):
  guidance = diagnosis['guidance']
  assert guidance['shuffled'] > 0 and guidance['across_states'] > 0
  assert 0 <= guidance['dead_units'] < 1
  assert list(diagnosis['similarity']) == SOURCES
  assert sum(diagnosis['similarity'].values()) == pytest.approx(1)
  assert list(diagnosis['relation']) == SOURCES
  for told in diagnosis['relation'].values():
    assert told['distance'] > 0 and told['explained'] < 1
  assert 0 < diagnosis['pull']['distillation'] < diagnosis['pull']['others']


def test_where_a_run_stands(diagnosis, finished):
  notes = Checkpoint(finished / runs.STUDENT).restore_raw()[1]
  assert diagnosis['version'] == 1
  assert diagnosis['updates'] == notes['updates'] >= 2
  assert diagnosis['env_steps'] == notes['agent_steps'] >= 45
  assert not [key for key in diagnosis if key.endswith('_missing')]


def test_a_seed_decides(diagnosis, finished):
  assert diagnose.diagnose(finished, 7, 0) == diagnosis
  other = diagnose.diagnose(finished, 7, 1)
  assert other['similarity'] != diagnosis['similarity']
  assert other['prediction'] != diagnosis['prediction']


def test_without_transfer_only_the_student_is_left(finished, tmp_path):
  found = made_run(tmp_path, 'dreamerv2', finished)
  assert len(found['prediction']['student']) == 5
  assert found['prediction']['teachers'] is None
  assert 'dreamerv2 has no teacher' in found['prediction']['teachers_missing']
  for part, reason in (
    ('vae', 'no action VAE'),
    ('guidance', 'no action VAE'),
    ('similarity', 'no teacher'),
    ('pull', 'no teacher'),
  ):
    assert found[part] is None and reason in found[f'{part}_missing']


def test_stacked_student_predicts(finished, tmp_path):
  found = made_run(tmp_path, 'action_free', finished)
  assert all(x > 0 for x in found['prediction']['student'])
  assert found['prediction']['teachers'] is None
  assert found['vae'] is None and found['similarity'] is None


def test_without_replay_of_actions(finished, tmp_path):
  found = made_run(tmp_path, 'no_replay', finished)
  assert list(found['prediction']['teachers']) == SOURCES
  assert found['vae'] is None and found['guidance'] is None
  assert 'no_replay has no action VAE' in found['vae_missing']
  assert sum(found['similarity'].values()) == pytest.approx(1)


def test_single_source_and_no_episodes(finished, tmp_path):
  found = made_run(tmp_path, 'single:probe_count', finished, replay=False)
  assert list(found['vae']) == ['probe_count']
  for part in ('prediction', 'guidance', 'similarity'):
    assert found[part] is None
    assert 'no episodes here' in found[f'{part}_missing']


def test_uniform_weights(finished, tmp_path):
  shutil.rmtree(tmp_path)
  found = made_run(tmp_path, 'uniform', finished)
  assert found['similarity'] == {task: pytest.approx(0.5) for task in SOURCES}
  assert found['guidance']['shuffled'] > 0


def test_what_is_gone_is_told(finished, tmp_path):
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
  assert not (tmp_path / reading.DIAGNOSIS).exists()


def test_what_is_not_finite_is_no_figure():
  found = diagnose._part('vae', lambda: {'a': [1.0, math.nan], 'b': 'text'})
  assert found['vae'] is None and 'diverged' in found['vae_missing']


@pytest.mark.parametrize('num', [1, 6, 7, 12, 13])
def test_chunks_of_rows_are_all_rows(num):
  seen = []

  def double(rows, key):
    seen.append(len(rows['x']))
    return 2 * rows['x'], jax.random.normal(key, (len(rows['x']),))

  rows = {'x': np.arange(num * 3.0).reshape(num, 3)}
  doubled, noise = measures.in_chunks(double, rows, jax.random.key(0))
  np.testing.assert_array_equal(doubled, 2 * rows['x'])
  assert set(seen) == {6} and len(noise) == num
  assert len(np.unique(noise)) == num


def test_chunks_of_episodes(tmp_path):
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
  known = chunks.find(tmp_path)
  assert len(known) == 3 and chunks.find(tmp_path, 2) == known[1:]
  batch = chunks.draw(known, 400, 5, rng, 3)
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


def test_last_frame_repeated():
  image = np.zeros((2, 8, 64, 64, 3), np.uint8)
  image[:, :5] = 7  # The context: only its last frame counts.
  image[0, 5], image[0, 6], image[0, 7] = 7, 7 + 51, 7 + 102
  image[1, 5:] = 7
  image[:, 0] = 200
  batch = small.batch_of(2, 8, action_dim=1).replace(image=image)
  found = measures.last_frame(batch)
  assert found == pytest.approx([0, 0.5 * 0.2**2, 0.5 * 0.4**2])


def test_error_of_each_predicted_frame():
  def open_loop(state, batch, key):
    truth = jnp.full((*batch.reward.shape, 64, 64, 3), 0.5)
    guess = truth + state * batch.reward[..., None, None, None]
    return jnp.concatenate([truth, guess, guess], 2)

  batch = small.batch_of(7, 8, action_dim=1)
  reward = np.zeros((7, 8), np.float32)
  reward[:, 4], reward[:, 6], reward[-1, 7] = 9, 1, 2
  found = measures.prediction(
    types.SimpleNamespace(open_loop=open_loop),
    jnp.float32(0.1),
    batch.replace(reward=reward),
    small.KEY,
  )
  assert found == pytest.approx([0, 0.01, 0.04 / 7])


def test_teachers_predict_with_their_own_label_and_actions():
  s = small.setup()
  params = small.model_params(s.agent.teacher)
  batch = small.batch_of(6, 7, action_dim=2)
  found = measures.teacher_predictions(s.agent, params, batch, small.KEY)
  action = teachers.fit_actions(batch.action, s.agent.source_mask)
  agent = s.agent
  predict = small.jit(
    lambda batch, label: open_loop.open_loop(
      agent.teacher, params, batch, agent.rng(small.KEY), label
    )
  )
  for label in range(2):
    own = batch.replace(action=action[label])
    picture = predict(own, jnp.full(6, label))
    truth, guess, _ = np.split(np.asarray(picture)[:, 5:], 3, 2)
    error = np.square(truth - guess).mean((0, 2, 3, 4))
    np.testing.assert_allclose(found[label], error, rtol=1e-4)
  assert found[0] != found[1]


def test_vae_is_that_of_the_losses():
  s = small.setup()
  keys = s.agent.rng(small.KEY).split()
  loss = small.jit(
    lambda *xs: finetune.model_loss(s.agent, *xs, s.batch, keys)[1][0]
  )
  told = loss(s.state.params['model'], s.state.teacher)
  sources = jax.tree.map(lambda x: x.swapaxes(0, 1), s.batch.sources)
  found = measures.action_replay(s.agent, s.state, sources, small.KEY)
  for key in ('error', 'kl'):
    mean = np.mean([figures[key] for figures in found])
    assert mean == pytest.approx(float(told[f'vae_{key}']), rel=1e-4)
  assert [len(figures['recorded']) for figures in found] == [1, 3]


def test_vae_that_guesses_the_mean():
  rng = np.random.default_rng(0)
  recorded = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
  recon = np.broadcast_to(recorded.mean(0), recorded.shape)
  kl = np.tile([0.0, 0.5, 0.005], (500, 1))
  found = measures.domain_replay(recorded, recon, recon, kl)
  assert found['error'] == pytest.approx(found['variance'], rel=1e-5)
  assert found['active'] == 1 and found['latent'] == 3
  assert found['kl'] == pytest.approx(0.505 / 3)
  assert max(found['replayed'][0]) == pytest.approx(10)  # All in a bin of 0.1.
  exact = measures.domain_replay(recorded, recorded, recorded, kl)
  assert exact['error'] == 0 and exact['replayed'] == exact['recorded']


def test_following_is_acting():
  s = small.setup()
  batch = s.batch.target
  found = measures.follow(s.agent, s.state, batch, small.KEY)
  inputs, weights, teacher = found
  carry = s.agent.initial_carry(2)
  policy = small.jit(s.agent.policy, static_argnums=4)
  dist = s.agent.actor.apply({'params': s.state.params['actor']}, inputs)
  for t in range(batch.reward.shape[1]):
    obs = {'image': batch.image[:, t], 'is_first': batch.is_first[:, t]}
    carry = carry.replace(action=batch.action[:, t])
    carry, action, extras = policy(s.state, carry, obs, small.KEY, False)
    np.testing.assert_allclose(action, dist.mean[:, t], atol=1e-5)
    np.testing.assert_allclose(extras['similarity'], weights[:, t].T, atol=1e-6)
    expected = feature(carry.teacher).swapaxes(0, 1)
    np.testing.assert_allclose(teacher[:, t], expected, atol=1e-5)


def test_what_weights_rest_on():
  """A view that knows all may be far, and one that knows nothing near."""
  s = small.setup()
  size, (rows, length) = s.agent.student.feat_dim, (60, 5)
  rng = np.random.default_rng(0)
  student = rng.normal(size=(rows, length, size)).astype(np.float32)
  knows = 3 * student[..., ::-1] + 2
  views = np.stack([knows, np.zeros_like(knows)], 2)
  found = relation.measure(s.agent, s.state, student, views)
  assert found[0]['explained'] > 0.95 and abs(found[1]['explained']) < 0.05
  assert found[0]['distance'] > 5 * found[1]['distance']
  bias = s.state.params['model']['transfer']['distill']['out']['bias']
  expected = np.square(bias - student).mean()
  assert found[1]['distance'] == pytest.approx(float(expected), rel=1e-4)


def test_pull_is_that_of_the_losses():
  """Both norms, and that a scale of the loss is one of its gradient."""
  s = small.setup()
  batch, keys = s.batch.target, s.agent.rng(small.KEY).split()
  grad = small.jit(
    lambda *xs: jax.grad(
      lambda *ys: finetune.model_loss(s.agent, *ys, s.batch, keys)[0]
    )(*xs)['world_model']
  )
  total = grad(s.state.params['model'], s.state.teacher)
  found = pull.measure(s.agent, s.state, batch, small.KEY)
  gap = abs(float(optax.tree.norm(total)) - found['others'])
  assert 0 < gap <= found['distillation'] * (1 + 1e-4)

  settings = s.agent.settings
  scales = dataclasses.replace(settings.loss.scales, distillation=10.0)
  loss = dataclasses.replace(settings.loss, scales=scales)
  settings = dataclasses.replace(settings, loss=loss)
  harder = dataclasses.replace(s.agent, settings=settings)
  ten = pull.measure(harder, s.state, batch, small.KEY)
  assert ten['distillation'] == pytest.approx(10 * found['distillation'], 1e-4)
  assert ten['others'] == pytest.approx(found['others'], rel=1e-4)


def test_nothing_pulls_without_distillation():
  s = small.setup()
  off = dataclasses.replace(s.agent.variant, distill=False)
  agent = dataclasses.replace(s.agent, variant=off)
  found = pull.measure(agent, s.state, s.batch.target, small.KEY)
  assert found['distillation'] == 0 and found['others'] > 0


def test_policy_that_does_not_read_its_guidance():
  s = small.setup()
  found = measures.follow(s.agent, s.state, s.batch.target, small.KEY)
  rng = lambda: np.random.default_rng(0)
  heeds = measures.guidance_use(s.agent, s.state, found[0], rng())
  assert heeds['shuffled'] > 0

  actor = s.state.params['actor']
  first = actor['mlp']['hidden0']['kernel']
  deaf = first.at[s.agent.student.feat_dim :].set(0)
  hidden = {**actor['mlp']['hidden0'], 'kernel': deaf}
  actor = {**actor, 'mlp': {**actor['mlp'], 'hidden0': hidden}}
  state = s.state.replace(params={**s.state.params, 'actor': actor})
  ignores = measures.guidance_use(s.agent, state, found[0], rng())
  assert ignores['shuffled'] == 0 and ignores['across_states'] > 0


def test_units_that_are_never_on():
  s = small.setup()
  inputs = np.ones((4, 3, s.agent.student.feat_dim + 5), np.float32)
  inputs[..., -1] = 0
  inputs[1:, ..., -2] = 0  # On in some states.
  found = measures.guidance_use(
    s.agent, s.state, inputs, np.random.default_rng(0)
  )
  assert found['dead_units'] == pytest.approx(1 / 5)


def test_command_line_goes_on(tmp_path, capsys, monkeypatch):
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
  told = capsys.readouterr().err
  assert 'teacher-0: not diagnosed (no checkpoint)' in told
  assert 'absent: there is no such folder' in told
  assert __main__.main(['diagnose', str(absent)]) == 1
