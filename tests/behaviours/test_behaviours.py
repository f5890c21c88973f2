"""State policies: the shipped files, playing, and training."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from vid2act_jax import behaviours, envs
from vid2act_jax.behaviours import evaluation, library, policy, train
from vid2act_jax.behaviours.__main__ import main, table
from vid2act_jax.types import UserError

CARTPOLE = 'dmc_cartpole_swingup'
SHIPPED = [(t, x) for t, levels in behaviours.shipped().items() for x in levels]


def load(task, level):
  return behaviours.read(behaviours.find(task, level))


def test_tasks_of_the_experiments_have_both_levels():
  tasks = {'cheetah_run', 'cartpole_swingup', 'pendulum_swingup', 'walker_walk'}
  assert {f'dmc_{task}' for task in tasks} <= set(behaviours.shipped())
  assert all(x == [*behaviours.LEVELS] for x in behaviours.shipped().values())


@pytest.mark.parametrize(('task', 'level'), SHIPPED)
def test_shipped_files(task, level):
  """Small, complete, and with the actions of the trained network."""
  path = behaviours.find(task, level)
  assert path.stat().st_size <= policy.MAX_BYTES
  shipped = behaviours.read(path)
  about = shipped.about
  assert (about['task'], about['level']) == (task, level)
  assert all(r['episodes'] >= 10 for r in about['returns'].values())
  states, actions = shipped.reference
  assert len(states) >= 4 and np.ptp(actions, axis=0).min() > 0
  np.testing.assert_allclose(shipped.act(states), actions, atol=1e-5)


@pytest.mark.parametrize('task', behaviours.shipped())
def test_medium_is_between_random_and_expert(task):
  medium, expert = (load(task, level).about for level in behaviours.LEVELS)
  for repeat, best in expert['returns'].items():
    random = expert['random_returns'][repeat]['mean']
    assert random < medium['returns'][repeat]['mean'] < best['mean']


@pytest.mark.parametrize('level', behaviours.LEVELS)
def test_the_stated_return_is_reached(level):
  cartpole = load(CARTPOLE, level)
  stated = cartpole.about['returns']['4']
  (result,) = behaviours.evaluate(CARTPOLE, cartpole, 4, episodes=1)
  assert abs(result - stated['mean']) < 3 * stated['std'] + 5


def test_shifted_task():
  """Another model, and more or fewer action dimensions."""
  task = 'dmc_walker_walk@gravity=1.1'
  assert behaviours.find(task, 'expert') == behaviours.find(
    'dmc_walker_walk', 'expert'
  )
  walker = load(task, 'expert')
  settings = envs.Settings(size=16, time_limit=8, quality='fast')
  for changed in (f'{task},actions=2', f'{task},actions=9'):
    env = envs.make(changed, settings, 0)
    evaluation.play(env, walker, 0)
    env.close()


def test_states_of_another_task():
  env = envs.make('dmc_pendulum_swingup', envs.Settings(size=16), 0)
  with pytest.raises(UserError, match=r'cartpole_swingup reads 5 .*velocity'):
    load(CARTPOLE, 'expert')(env.named_state())
  env.close()


def test_environments_without_states():
  env = envs.make('probe_count', envs.Settings(size=16), 0)
  assert env.named_state() is None
  with pytest.raises(UserError, match='has no states'):
    load(CARTPOLE, 'expert').check_states(env.named_state())


@pytest.mark.parametrize(
  ('task', 'level', 'message'),
  [
    (CARTPOLE, 'good', 'should be one of medium, expert, or the path'),
    ('dmc_fish_swim', 'expert', f'only of .*{CARTPOLE}.*train --task dmc_fish'),
    ('dmc_fish_swim', 'expert', r'config\.collect\.policy=state:'),
    ('gym_Pendulum-v1', 'expert', "'gym_Pendulum-v1' has no states"),
    ('probe_count', '/no.npz', 'has no states'),
    (CARTPOLE, '/no.npz', r'the file /no\.npz does not exist'),
  ],
)
def test_find_errors(task, level, message):
  with pytest.raises(UserError, match=message) as error:
    behaviours.find(task, level)
  assert '\n' not in str(error.value)


def test_files_that_are_not_policies(tmp_path):
  with pytest.raises(UserError, match='is an .npz file'):
    behaviours.read(tmp_path / 'a.txt')
  path = tmp_path / 'a.npz'
  np.savez(path, a=np.zeros(3))
  with pytest.raises(UserError, match='not a state policy .*behaviours train'):
    behaviours.read(path)
  good = load(CARTPOLE, 'expert')
  (kernel, bias), *rest = good.layers
  for layers in (rest, [(kernel[1:], bias), *rest], [(kernel, bias * np.nan)]):
    behaviours.write(path, dataclasses.replace(good, layers=layers))
    with pytest.raises(UserError, match='not a state policy'):
      behaviours.read(path)
  behaviours.write(path, good)
  assert behaviours.read(path).about == good.about


def test_choice_of_the_levels():
  def snapshot(mean):
    return train.Snapshot([], 0, [mean - 10, mean + 10])

  snapshots = [snapshot(x) for x in (0, 350, 480, 900, 700)]
  chosen = train.choose(snapshots, random=0)
  assert chosen == [snapshots[2], snapshots[3]]
  # Random actions earn much: the medium still is better than they are.
  assert train.choose(snapshots, random=450) == [snapshots[4], snapshots[3]]


def test_list():
  text = table()
  assert len(text.splitlines()) == 1 + len(SHIPPED)
  mean = load(CARTPOLE, 'expert').about['returns']['4']['mean']
  assert f'4: {mean:.0f} ±' in text


def test_training_errors(tmp_path, capsys):
  command = ['train', '--out', str(tmp_path), '--task']
  if importlib.util.find_spec('sbx') is None:
    assert main([*command, CARTPOLE]) == 1
    expected = 'pip install "vid2act_jax[dmc,behaviours]"'
    assert expected in capsys.readouterr().err
  assert main([*command, CARTPOLE, '--env-steps', '0']) == 1
  assert '--env-steps=0: must be at least 1' in capsys.readouterr().err


def test_training(tmp_path):
  pytest.importorskip('sbx')
  with pytest.raises(UserError, match='no states to learn from'):
    train.check('probe_count')
  options = train.Options(
    CARTPOLE, 3000, action_repeat=20, evaluations=2, hidden=8, repeats=()
  )
  seen = []
  paths = train.train(options, tmp_path / 'new', seen.append)
  names = [library.file_name(CARTPOLE, level) for level in behaviours.LEVELS]
  assert [path.name for path in paths] == names
  assert len(seen) == 2 and seen[-1].env_steps >= 3000
  trained = behaviours.read(paths[1])
  states, actions = trained.reference
  np.testing.assert_allclose(trained.act(states), actions, atol=1e-5)
  assert set(trained.about['returns']) == {'20'}
