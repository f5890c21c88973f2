"""Judging a small teacher: numbers, splits, pages and messages."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import debug, run
from tests import small
from tests.analysis.test_report import _check
from vid2act_jax.analysis import (
  __main__,
  diagnose,
  load_teacher,
  teacher,
  teacher_page,
)
from vid2act_jax.data import dataset, splits
from vid2act_jax.data import episodes as eps
from vid2act_jax.learner import open_loop, teachers
from vid2act_jax.loops import runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.rng import Rng
from vid2act_jax.types import UserError

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'step_eps0.npz'
WIDE, COUNT = SOURCES = ['probe_wide', 'probe_count']
DIMS = [5, 2]
# Episodes have 21 frames: 5 of context, and 16 are predicted.
LENGTH, PREDICTED = 21, 16


def make_config(held_out=0.3, **overrides):
  config = debug.get_config()
  config.update(stages=('collect', 'pretrain'), **overrides)
  config.collect.episodes = 5
  config.pretrain.update(steps=2, video_every=0)
  config.replay.held_out = held_out
  return config.lock()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run that pretrained a teacher, with a relative folder of sources."""
  place = tmp_path_factory.mktemp('place')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(place)
    config = make_config(source_dir='data')
    run.run(config, pathlib.Path('runs/teacher'))
  return place / 'runs' / 'teacher'


@pytest.fixture(scope='module')
def target(trained):
  """A dataset of a task that is no source, with other actions."""
  return copy_dataset(trained, COUNT, 'target', task='probe_action')


@pytest.fixture(scope='module')
def judged(trained, target):
  return teacher.judge(trained, [target], sequences=7)


def copy_dataset(trained, source, name, length=None, repeat=1, **metadata):
  """A copy of a source's dataset, with shorter episodes or more actions."""
  folder = trained.parents[1] / name
  shutil.copytree(trained.parents[1] / 'data' / source, folder)
  path = folder / dataset.FILE
  path.write_text(json.dumps({**json.loads(path.read_text()), **metadata}))
  for file in eps.list_episodes(folder) if length or repeat > 1 else ():
    episode = {key: x[:length] for key, x in eps.load(file.path).items()}
    episode['is_last'][-1] = True
    episode['action'] = np.tile(episode['action'], repeat)
    file.path.unlink()
    eps.save(folder, file.index, episode)
  return folder


def made_run(folder, **overrides):
  """A run's folder without checkpoints."""
  runs.init_workdir(folder, make_config(**overrides))
  return folder


def split(trained, source):
  listed = dataset.find_episodes(trained.parents[1] / 'data' / source)
  return splits.split_episodes(listed, 0.3, 0)


def test_what_is_judged(judged, trained, target):
  results, _ = judged
  assert results['teacher'] == str(trained) and results['updates'] == 2
  assert results['sources'] == SOURCES and results['held_out'] == 0.3
  assert results['problems'] == []
  wide, count, other = results['datasets']
  for one, name in ((wide, WIDE), (count, COUNT)):
    assert one['name'] == one['label'] == name
    assert one['status'] == 'held out' and one['episodes'] == 2
    assert list(one['actions']) == [name]
    numbers = one['actions'][name]
    assert (numbers['fitted'], numbers['tested']) == (3, 2)
  assert other['name'] == 'probe_action' and other['label'] is None
  assert other['status'] == 'no source' and other['episodes'] == 5
  assert list(other['actions']) == SOURCES
  assert other['folder'] == str(target)
  for one in results['datasets']:
    assert one['frames'] == LENGTH and list(one['errors']) == SOURCES
    curves = *one['errors'].values(), one['last_frame']
    assert all(len(curve) == PREDICTED for curve in curves)
    errors = {label: np.mean(x) for label, x in one['errors'].items()}
    assert one['best'] == min(errors, key=errors.get)
    assert one['lowest_kl'] == min(one['kl'], key=one['kl'].get)


def test_numbers_against_a_direct_computation(judged, trained):
  """Under both labels, with the actions that each label has."""
  made = load_teacher.load(trained)
  found, index = judged[0]['datasets'][1], SOURCES.index(COUNT)
  fitted, held_out = split(trained, COUNT)
  assert {x.index for x in fitted}.isdisjoint(x.index for x in held_out)
  rng = np.random.default_rng((0, index, 0))
  batch = diagnose.sample(held_out, 7, LENGTH, rng)
  image = batch.image.astype(np.float32) / 255
  still = np.square(image[:, 5:] - image[:, 4:5]).mean((0, 2, 3, 4))
  np.testing.assert_allclose(found['last_frame'], still, rtol=1e-4)
  key = jax.random.fold_in(jax.random.key(0), index)
  predict = small.jit(
    lambda batch, key, label: open_loop.open_loop(
      made.owner.teacher, made.params, batch, Rng(key), label
    )
  )
  for domain, label in enumerate(SOURCES):
    mask = teachers.action_mask(DIMS, 5)
    action = teachers.fit_actions(jnp.asarray(batch.action), mask)[domain]
    rows = batch.replace(action=action)
    errors = []
    for call in range(2):  # Six sequences at a time; the second has one left.
      chosen = np.arange(6 * call, 6 * call + 6) % 7
      six = jax.tree.map(lambda x, chosen=chosen: x[chosen], rows)
      noise = jax.random.fold_in(key, call)
      shown = predict(six, noise, jnp.full(6, domain))
      guess = np.split(np.asarray(shown), 3, 2)[1][:, 5:]
      errors.append(np.square(guess - image[chosen, 5:]).mean((2, 3, 4)))
    errors = np.concatenate(errors)[:7].mean(0)
    np.testing.assert_allclose(found['errors'][label], errors, rtol=1e-3)
  numbers = found['actions'][COUNT]
  rng = np.random.default_rng((0, index, 2))
  action = diagnose.sample(held_out, 7, LENGTH, rng).action[:, 5:]
  variance = action.reshape(-1, 2).var(0).mean()
  assert numbers['variance'] == pytest.approx(variance, rel=1e-4)
  ratio = numbers['error'] / variance
  assert 1 - numbers['r2'] == pytest.approx(ratio, rel=1e-5)
  assert numbers['r2'] < 0.2  # Random actions: states say nothing about them.


@pytest.mark.slow
def test_results_depend_on_the_seed_alone(judged, trained, target):
  again, pictures = teacher.judge(trained, [target], sequences=7)
  assert again == judged[0]
  small.assert_equal(pictures, judged[1])
  # A source's numbers do not depend on the other datasets.
  other, _ = teacher.judge(trained, sequences=7, seed=1)
  assert other['datasets'][0]['errors'] != again['datasets'][0]['errors']


def test_pictures(judged):
  results, pictures = judged
  for one in results['datasets']:
    rows = pictures[one['name']]
    own = one['label'] or one['best']
    wrong = next(x for x in SOURCES if x != own)
    names = ['truth', f'under {own}', f'under {wrong}', 'last frame repeated']
    assert list(rows) == names
    for frames in rows.values():
      assert frames.shape == (LENGTH, 64, 64, 3)
      assert 0 <= frames.min() and frames.max() <= 1
    still = rows['last frame repeated']
    np.testing.assert_array_equal(still[:5], rows['truth'][:5])
    assert (still[5:] == rows['truth'][4]).all()
  shown = pictures[WIDE]
  assert np.abs(shown[f'under {WIDE}'] - shown[f'under {COUNT}']).max() > 0


def test_page(judged, tmp_path):
  page = teacher_page.write(*judged, tmp_path / 'deep' / 'out')
  assert page == tmp_path / 'deep' / 'out' / 'teacher.html'
  assert json.loads(page.with_name('teacher.json').read_text()) == judged[0]
  checker = _check(page)
  text = ' '.join(' '.join(checker.text).split())
  assert len(checker.images) == 4  # The curves, and a picture of each.
  for part in (
    'of 2 datasets of the sources are predicted best under their own label',
    'probe_action surprises the teacher least under',
    'last context frame repeated',
    '2, held out',
    'R² of actions',
  ):
    assert part in text, part
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot create this folder'):
    teacher_page.write(*judged, tmp_path / 'file' / 'x')


def test_tables(judged):
  results, _ = judged
  table = teacher_page.horizons(results)
  first = results['datasets'][0]
  assert list(table.prediction[:3]) == [
    f'under {WIDE}', f'under {COUNT}', 'last context frame repeated',
  ]  # fmt: skip
  row = table.iloc[0]
  for horizon in (1, 2, 5, 10, 15):
    assert row[str(horizon)] == first['errors'][WIDE][horizon - 1]
  assert np.isnan(row['25'])  # No episode is that long.
  overview = teacher_page.overview(results)
  assert overview['error / last frame'][0] == pytest.approx(
    np.mean(first['errors'][WIDE]) / np.mean(first['last_frame'])
  )
  assert (
    overview['R² of actions'][1]
    == (results['datasets'][1]['actions'][COUNT]['r2'])
  )


def test_command(trained, target, tmp_path, capsys):
  command = ['teacher', str(trained), '--data', str(target)]
  command += ['--sequences', '2', '--out', str(tmp_path / 'out')]
  assert __main__.main(command) == 0
  out, err = capsys.readouterr()
  assert out.splitlines()[-1] == str(tmp_path / 'out' / 'teacher.html')
  assert 'mean squared error by predicted frame' in out and err == ''
  assert out.count('last context frame repeated') == 3
  assert __main__.main(['teacher', str(tmp_path / 'absent')]) == 1
  assert 'absent: neither the folder of a run' in capsys.readouterr().err


def test_a_teacher_without_held_out_episodes_is_named(trained, tmp_path):
  """Also one of another run, and datasets in other folders."""
  config = json.loads((trained / runs.CONFIG).read_text())
  place = tmp_path / 'runs' / 'old'
  shutil.copytree(trained / runs.TEACHER, place / runs.TEACHER)
  del config['replay']['held_out']  # Of an older version.
  config['source_dir'] = str(trained.parents[1] / 'data')
  (place / runs.CONFIG).write_text(json.dumps(config))
  student = made_run(tmp_path / 'student', teacher_from=str(place))
  copied = copy_dataset(trained, COUNT, 'copied')
  own = trained.parents[1] / 'data' / WIDE
  results, _ = teacher.judge(student, [copied, own, copied], sequences=2)
  status = [(x['name'], x['label'], x['status']) for x in results['datasets']]
  assert status == [
    (WIDE, WIDE, 'seen in training'),
    (COUNT, COUNT, 'seen in training'),
    (str(copied), COUNT, 'another folder than in training'),
  ]
  assert [x['episodes'] for x in results['datasets']] == [5, 5, 5]
  (problem,) = results['problems']
  assert 'no episodes were held out' in problem and 'held_out=0.1' in problem


def test_sources_that_are_not_there(trained, target, tmp_path):
  place = tmp_path / 'runs' / 'moved'
  shutil.copytree(trained, place)
  with pytest.raises(UserError, match='probe_wide.*missing'):
    teacher.judge(place)
  results, _ = teacher.judge(place, [target], sequences=2)
  assert [x['name'] for x in results['datasets']] == ['probe_action']
  assert [x.split(':')[0] for x in results['problems']] == [
    f'source {WIDE}',
    f'source {COUNT}',
  ]


@pytest.fixture(scope='module')
def public(trained, tmp_path_factory):
  """A public checkpoint of three domains with 4 actions, and an experiment."""
  folder = tmp_path_factory.mktemp('public')
  path = folder / 'public.npz'
  with np.load(GOLDEN, allow_pickle=False) as file:
    meta = json.loads(file['meta'].tobytes())
    names = [name for name in file.files if name.startswith('weight/')]
    np.savez(path, **{x.removeprefix('weight/'): file[x] for x in names})
  for task in 'abc':
    name = folder.resolve() / 'data' / task
    copy_dataset(trained, COUNT, name, repeat=2, action_dim=4, task=task)
  sizes = {x: meta[x] for x in ('deter', 'hidden', 'stoch', 'units')}
  sizes |= {'depth': meta['cnn_depth'], 'reward_layers': meta['reward_layers']}
  experiment = folder / 'experiment.py'
  experiment.write_text(
    'from experiments import debug\n'
    'def get_config():\n'
    '  config = debug.get_config()\n'
    "  config.sources, config.variant = tuple('abc'), 'dreamerv2'\n"
    f'  for sizes in (config.learner.teacher, config.learner.student):\n'
    f'    sizes.update({sizes})\n'
    '  return config\n'
  )
  return path, experiment, [folder / 'data' / task for task in 'abc']


@pytest.mark.slow
def test_public_checkpoint(public, tmp_path):
  """It has no decoder, and its sizes are those of an experiment."""
  path, experiment, data = public
  results, pictures = teacher.judge(path, data, experiment, sequences=2)
  assert results['updates'] is None and results['sources'] == list('abc')
  for one, label in zip(results['datasets'], 'abc', strict=True):
    assert one['errors'] == {} and one['best'] is None
    assert one['label'] == label and one['actions'][label]['variance'] > 0
    assert all(one['kl'][x] > 0 for x in 'abc')
  page = teacher_page.write(results, pictures, tmp_path).read_text()
  assert 'no decoder' in page
  assert 'no decoder' in teacher_page.describe(results)
  # With the folder of the sources in the config.
  text = experiment.read_text()
  experiment = tmp_path / 'experiment.py'
  line = f'  config.source_dir = {str(data[0].parent)!r}\n  return'
  experiment.write_text(text.replace('  return', line))
  again, _ = teacher.judge(path, (), experiment, sequences=2)
  assert again['datasets'][0]['kl'] == results['datasets'][0]['kl']
  assert again['datasets'][0]['status'] == 'perhaps seen in training'


def test_public_checkpoints_that_cannot_be_loaded(public, trained, tmp_path):
  path, experiment, _ = public
  with pytest.raises(UserError, match='--config=EXPERIMENT.py'):
    teacher.judge(path)
  with pytest.raises(UserError, match='neither the folder of a run nor an exp'):
    teacher.judge(path, config=tmp_path / 'absent.py')
  with pytest.raises(UserError, match='a/metadata.json: missing'):
    teacher.judge(path, config=experiment)
  with pytest.raises(UserError, match='does not match the config'):
    teacher.judge(path, config=trained)


@pytest.mark.parametrize(
  'metadata, length, message',
  [
    ({'size': 84}, None, 'its frames are 84x84.*--size 64'),
    ({'action_repeat': 4}, None, 'action_repeat is 4, that of the teacher 1'),
    ({}, 5, 'none of 5 episodes .* longer than 5 frames'),
  ],
)
def test_datasets_that_do_not_fit(trained, metadata, length, message):
  name = f'bad-{length}-{"".join(metadata)}'
  folder = copy_dataset(trained, COUNT, name, length, **metadata)
  with pytest.raises(UserError, match=message):
    teacher.judge(trained, [folder], sequences=2)


def test_short_episodes_and_a_single_one(trained):
  folder = copy_dataset(trained, COUNT, 'short', 9)
  for file in eps.list_episodes(folder)[1:]:
    file.path.unlink()
  dataset.recount(folder)
  made = load_teacher.load(trained)
  found, _ = teacher.find_datasets(made, [folder])
  result, picture = teacher.judge_dataset(made, found[-1], 2, (0, 0))
  assert result['frames'] == 9 and len(result['last_frame']) == 4
  assert result['actions'] == {}
  results = {'horizons': [1, 25], 'datasets': [result], 'context': 5}
  assert np.isnan(teacher_page.horizons(results)['25']).all()
  assert teacher_page.actions(results).empty
  assert teacher_page.draw(results, {'short': picture})


def test_teachers_that_are_none(trained, tmp_path):
  with pytest.raises(UserError, match='is not the folder of a run'):
    teacher.judge(tmp_path)
  with pytest.raises(UserError, match='at least 1'):
    teacher.judge(trained, sequences=0)
  scratch = made_run(tmp_path / 'scratch', variant='dreamerv2')
  with pytest.raises(UserError, match='dreamerv2 uses no sources'):
    teacher.judge(scratch)
  with pytest.raises(UserError, match='no teacher in'):
    teacher.judge(made_run(tmp_path / 'before'))
  place = tmp_path / 'runs' / 'unfinished'
  shutil.copytree(trained, place)
  next((place / runs.TEACHER).glob('DONE*')).unlink()
  with pytest.raises(UserError, match='not complete'):
    teacher.judge(place)


def test_a_teacher_that_diverged(trained, monkeypatch):
  made = load_teacher.load(trained)
  nan = jax.tree.map(lambda x: np.full_like(x, np.nan), made.params)
  one, *_ = teacher.find_datasets(made, [])[0]
  broken = load_teacher.Teacher('x', made.owner, nan, 2, made.config, {})
  with pytest.raises(UserError, match='not finite.*diverged'):
    teacher.judge_dataset(broken, one, 2, (0, 0))
  assert Checkpoint(trained / runs.TEACHER).finished()
