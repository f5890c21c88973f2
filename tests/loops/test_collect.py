"""Collecting datasets with fixed behaviour policies."""

import collections
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.episode_data import assert_same
from vid2act_jax import behaviours, envs
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.__main__ import main
from vid2act_jax.loops import collect, policies
from vid2act_jax.types import UserError

SETTINGS = envs.Settings(size=16, action_repeat=1, time_limit=12)


def plan_of(task='probe_count', policy='random', episodes=4, seed=0, noise=0.5):
  return collect.Plan(task, SETTINGS, policy, episodes, noise, seed)


def run_collect(plan, folder, workers=1):
  calls = []
  collect.collect(plan, folder, workers, lambda *args: calls.append(args))
  return calls


def load(folder):
  return [eps.load(file.path) for file in eps.list_episodes(folder)]


class TestPolicies:
  def test_weights(self):
    parsed = policies.parse('scripted:0.5, noisy:0.3,random')
    assert parsed == {'scripted': 0.5, 'noisy': 0.3, 'random': 1.0}
    assert policies.parse('checkpoint:a/b:c,d') == {'checkpoint': 1.0}

  def test_state_policies(self):
    parsed = policies.parse('state:expert:0.5, state:medium,random:0.2')
    assert parsed == {'state:expert': 0.5, 'state:medium': 1.0, 'random': 0.2}
    parsed = policies.parse('state:/a:b/c.npz,state:d.npz:0.3')
    assert parsed == {'state:/a:b/c.npz': 1.0, 'state:d.npz': 0.3}

  def test_auto(self):
    shipped = 'state:expert:0.5,state:medium:0.3,random:0.2'
    for task in ('dmc_walker_walk', 'dmc_walker_walk@gravity=2,actions=3'):
      assert policies.resolve('auto', task) == shipped
    assert policies.resolve('auto', 'dmc_fish_swim') == 'agent'
    assert policies.resolve('auto', 'metaworld_reach').startswith('scripted')
    assert policies.resolve('auto', 'probe_count') == 'random'
    assert policies.resolve('agent', 'dmc_walker_walk') == 'agent'

  @pytest.mark.parametrize(
    'policy',
    [
      '',
      'expert',
      'random:0',
      'random:-1',
      'random:x',
      'noisy:nan',
      'agent',
      'state',
      'state:',
      'state:expert:x',
      'state:expert:0',
    ],
  )
  def test_errors(self, policy):
    with pytest.raises(UserError, match='policy .*should be checkpoint:RUN'):
      policies.parse(policy)

  def test_mixture_keeps_its_shares_at_every_index(self):
    weights = {'scripted': 0.5, 'noisy': 0.3, 'random': 0.2}
    names = policies.mixture(weights, 50)
    assert collections.Counter(names) == {
      'scripted': 25,
      'noisy': 15,
      'random': 10,
    }
    for n in range(1, 50):
      for name, weight in weights.items():
        assert abs(names[:n].count(name) - weight * n) < 1
    # A longer dataset has the same first episodes.
    assert policies.mixture(weights, 20) == names[:20]


class TestCollect:
  def test_workers_and_interruptions_change_nothing(self, tmp_path):
    """By one process or two, in one go or with interruptions."""
    plan = plan_of(episodes=5)
    calls = run_collect(plan, tmp_path / 'one')
    assert [(done, e.index, e.behaviour) for done, e in calls] == [
      (i + 1, i, 'random') for i in range(5)
    ]
    run_collect(plan, tmp_path / 'two', workers=2)
    run_collect(plan, tmp_path / 'three')
    for index in (1, 3):
      eps.list_episodes(tmp_path / 'three')[index].path.unlink()
      calls = run_collect(plan, tmp_path / 'three')
      assert [(done, e.index) for done, e in calls] == [(5, index)]
    whole = load(tmp_path / 'one')
    assert len(whole) == 5
    for other in ('two', 'three'):
      for left, right in zip(whole, load(tmp_path / other), strict=True):
        assert_same(left, right)
    assert not np.array_equal(whole[0]['action'], whole[1]['action'])
    run_collect(plan_of(episodes=5, seed=1), tmp_path / 'seed')
    other = load(tmp_path / 'seed')[0]
    assert not np.array_equal(whole[0]['action'], other['action'])

  def test_metadata(self, tmp_path):
    run_collect(plan_of(episodes=3), tmp_path)
    metadata = dataset.read_metadata(tmp_path)
    assert metadata['collected'] == {
      'method': 'collect',
      'policy': 'random',
      'seed': 0,
    }
    assert (metadata['task'], metadata['episodes']) == ('probe_count', 3)
    assert metadata['env_steps'] == 3 * 12 and metadata['size'] == 16

  def test_more_episodes_of_the_same_plan(self, tmp_path):
    run_collect(plan_of(episodes=2), tmp_path)
    first = load(tmp_path)
    calls = run_collect(plan_of(episodes=4), tmp_path)
    assert [e.index for _, e in calls] == [2, 3]
    assert_same(load(tmp_path)[0], first[0])

  def test_folder_of_another_plan(self, tmp_path):
    run_collect(plan_of(), tmp_path)
    with pytest.raises(UserError, match='seed 0, not 1.*another folder'):
      run_collect(plan_of(seed=1), tmp_path)
    with pytest.raises(UserError, match="'probe_count', not 'probe_wide'"):
      run_collect(plan_of('probe_wide'), tmp_path)
    (tmp_path / dataset.FILE).unlink()
    with pytest.raises(UserError, match='holds episodes, but no metadata.json'):
      run_collect(plan_of(), tmp_path)
    assert len(load(tmp_path)) == 4

  def test_scripted_and_noisy_policies(self, tmp_path):
    task, settings = 'metaworld_reach', envs.Settings(16, 1, 8, quality='fast')
    plan = collect.Plan(task, settings, 'scripted,noisy,random', 3, 0.1, 0)
    run_collect(plan, tmp_path)
    scripted, noisy, random = load(tmp_path)
    env = envs.make(task, settings, 0)
    script = envs.scripted_policy(task)
    obs = env.reset(collect._seed(0, task, 0))
    for action in scripted['action'][1:]:
      np.testing.assert_array_equal(action, script(env))
      obs = env.step(action)
    np.testing.assert_array_equal(scripted['image'][-1], obs['image'])
    env.close()
    # Another goal is drawn, and noise is added to the scripted actions.
    assert not np.array_equal(noisy['action'], scripted['action'])
    assert np.abs(random['action'][1:]).min() > 0
    text = collect.describe(plan, tmp_path)
    assert '1 scripted' in text and '1 noisy' in text and 'success' in text

  def test_state_policies(self, tmp_path):
    """The same actions as a policy that is played by hand."""
    task = 'dmc_walker_walk@gravity=1.5,actions=4'
    settings = envs.Settings(16, 4, 40, quality='fast')
    own = tmp_path / 'own.npz'
    shutil.copy(behaviours.find(task, 'medium'), own)
    policy = f'state:expert,state:medium,state:{own}:1,random'
    plan = collect.Plan(task, settings, policy, 4, 0.0, 0)
    run_collect(plan, tmp_path / 'd')
    episodes = load(tmp_path / 'd')
    env = envs.make(task, settings, 0)
    for index, level in enumerate(('expert', 'medium', 'medium')):
      played = behaviours.read(behaviours.find(task, level))
      obs = env.reset(collect._seed(0, 'dmc_walker_walk', index))
      for action in episodes[index]['action'][1:]:
        expected = played(env.named_state())[:4]
        np.testing.assert_array_equal(action, expected)
        obs = env.step(action)
      np.testing.assert_array_equal(episodes[index]['image'][-1], obs['image'])
    env.close()
    assert 'state' not in episodes[0]  # Agents see pixels alone.
    text = collect.describe(plan, tmp_path / 'd')
    assert '1 state:expert' in text and f'1 state:{own}' in text
    found = dataset.read_metadata(tmp_path / 'd')['collected']
    assert len(set(found['state_policies'].values())) == 2
    shutil.copy(behaviours.find(task, 'expert'), own)
    with pytest.raises(UserError, match='state_policies.*another folder'):
      run_collect(plan, tmp_path / 'd')

  def test_noise_is_added_to_a_state_policy(self, tmp_path):
    task, settings = 'dmc_pendulum_swingup', envs.Settings(16, 4, 40)
    policy = 'state:expert,state:expert+noise:1'
    folders = {noise: tmp_path / str(noise) for noise in (0.0, 0.2)}
    for noise, folder in folders.items():
      run_collect(collect.Plan(task, settings, policy, 4, noise, 0), folder)
    plain, noisy = (load(folder) for folder in folders.values())
    for index in (0, 2):
      assert_same(plain[index], noisy[index])
    for index in (1, 3):
      difference = noisy[index]['action'][1] - plain[index]['action'][1]
      assert 0 < abs(difference) < 1
    found = dataset.read_metadata(folders[0.2])['collected']
    assert found['noise'] == 0.2 and len(found['state_policies']) == 2

  def test_state_policies_that_do_not_fit(self, tmp_path):
    other = behaviours.find('dmc_cheetah_run', 'expert')
    for task, policy, message in (
      ('dmc_walker_walk', f'state:{other}', 'dmc_cheetah_run reads 17'),
      ('dmc_fish_swim', 'state:expert', 'behaviours train --task dmc_fish'),
      ('probe_count', 'state:expert', 'has no states'),
    ):
      with pytest.raises(UserError, match=message):
        run_collect(plan_of(task, policy), tmp_path / 'd')
    assert not (tmp_path / 'd').exists()

  def test_folder_in_use(self, tmp_path):
    code = (
      'import sys, time, pathlib\n'
      'from vid2act_jax.data import files\n'
      f'with files.lock(pathlib.Path({str(tmp_path)!r})):\n'
      '  print("locked", flush=True)\n'
      '  time.sleep(60)\n'
    )
    holder = subprocess.Popen(
      [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
    )
    try:
      assert holder.stdout.readline() == 'locked\n'
      message = f'another process is writing here .process {holder.pid} on'
      with pytest.raises(UserError, match=message):
        run_collect(plan_of(), tmp_path)
    finally:
      holder.kill()
      holder.wait()
    run_collect(plan_of(), tmp_path)  # The lock ended with its process.
    assert len(load(tmp_path)) == 4

  def test_worker_that_dies(self, tmp_path):
    plan = plan_of(f'{__name__}:make_deadly')
    with pytest.raises(UserError, match='died.*fewer workers.*are kept'):
      run_collect(plan, tmp_path, workers=2)

  def test_agent_with_other_actions(self, tmp_path):
    with pytest.raises(UserError, match='nothing/config.json is missing'):
      run_collect(
        plan_of(policy=f'checkpoint:{tmp_path / "nothing"}'), tmp_path / 'd'
      )


def make_deadly():
  """An environment whose process is killed at its first step."""
  import gymnasium

  class Deadly(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self):
      self._steps = 0

    def reset(self, *, seed=None, options=None):
      return self._frame(), {}

    def step(self, action):
      self._steps += 1
      if self._steps > 3:
        os.kill(os.getpid(), signal.SIGKILL)
      return self._frame(), 0.0, False, False, {}

    def _frame(self):
      return np.arange(768).reshape(16, 16, 3).astype(np.uint8)

  return Deadly()


def test_command(tmp_path, capsys):
  command = ['collect', '--task', 'probe_terminal', '--episodes', '3']
  command += ['--time-limit', '9', '--size', '16', '--workers', '1']
  assert main([*command, str(tmp_path / 'd')]) == 0
  out = capsys.readouterr().out
  assert '3 episodes, return 5.0 ± 0.0 (5.0 to 5.0), success 100%' in out
  assert main([*command, '--policy', 'expert', str(tmp_path / 'e')]) == 1
  assert "error: policy 'expert'" in capsys.readouterr().err
  assert main([*command, '--policy', 'scripted', str(tmp_path / 'e')]) == 1
  assert 'scripted policies' in capsys.readouterr().err
