"""The policy of a run in other people's loops."""

import json
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import vid2act_jax
from experiments import base
from tests import small
from vid2act_jax import envs, learner
from vid2act_jax.loops import acting, inference, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

ACTIONS = 2


def make_run(folder, task, variant='vid2act'):
  """The folder of a run with random parameters."""
  config = base.get_config()
  config.task, config.learner = task, small.config()
  config.sources, config.variant = ('a', 'b'), variant
  config.env.update(action_repeat=1, time_limit=20, num=1, parallel=False)
  runs.init_workdir(folder, config)
  agent = learner.build_agent(
    config.learner, ACTIONS, (1, 3), variant=runs.variant_of(config)
  )
  state = small.state_of(agent)
  extra = {'action_dim': ACTIONS, 'source_action_dims': [1, 3]}
  Checkpoint(folder / runs.STUDENT).save(1, state, extra)
  return folder


@pytest.fixture(scope='module')
def probe(tmp_path_factory):
  """A run that did not record the actions of its environment."""
  folder = tmp_path_factory.mktemp('runs') / 'probe'
  return make_run(folder, 'probe_terminal')


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
  """A run without transfer, whose policy compiles in less time."""
  folder = tmp_path_factory.mktemp('runs') / 'scratch'
  return make_run(folder, 'probe_terminal', 'dreamerv2')


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def test_only_what_acting_needs_is_loaded(probe):
  agent, state = runs.load_agent(probe)
  _, part = runs.load_agent(probe, act_only=True)
  assert 'reward' not in part.params['model']['world_model'] and part.opt == {}
  small.assert_equal(part.params['actor'], state.params['actor'])
  small.assert_equal(part.teacher, state.teacher)
  image = {'image': noise(1, 64, 64, 3), 'is_first': np.ones(1, bool)}

  def act(state):
    carry = agent.initial_carry(1)
    return agent.policy(state, carry, image, jax.random.key(0), False)

  assert jax.eval_shape(act, part) == jax.eval_shape(act, state)


def test_it_acts_like_the_agent(probe):
  """Three environments, of which one begins a new episode."""
  policy = vid2act_jax.load_policy(probe, seed=3)
  agent, state = runs.load_agent(probe)
  quick = lambda _, fn: small.jit(fn)
  key = jax.random.key(3)
  runner = acting.PolicyRunner(agent, 3, key, False, quick)
  frames = noise(4, 3, 64, 64, 3)
  first = np.zeros((4, 3), bool)
  first[0], first[2, 1] = True, True
  policy.reset(np.zeros(3, bool))  # Before the first frame, all begin anew.
  for step, (image, begins) in enumerate(zip(frames, first, strict=True)):
    if step:
      policy.reset(begins if step < 3 else [])
    expected = runner(state, {'image': image, 'is_first': begins}, step)
    np.testing.assert_allclose(policy.act(image), expected, atol=1e-5)
  same = list(frames[3])  # As vector environments render.
  expected = policy.act(same)
  policy.reset(1)
  begun = policy.act(frames[3])
  assert (begun[1] != expected[1]).any()
  for which in ([True, False], 3, -1, [0.5], 'all'):
    with pytest.raises(UserError, match='a mask of 3 flags, or indices from 0'):
      policy.reset(which)
  with pytest.raises(
    UserError, match=r'1 frames, but 3 before: call reset\(\)'
  ):
    policy.act(frames[0, 0])


@pytest.mark.parametrize('mode', ['NEXT_STEP', 'SAME_STEP'])
def test_vector_environments_that_reset_themselves(scratch, mode):
  settings = envs.Settings(action_repeat=1)
  make = lambda: envs.as_gymnasium('probe_terminal', settings)
  venv = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode[mode])
  policy = vid2act_jax.load_policy(scratch, venv)
  obs, _ = venv.reset(seed=0)
  begins = policy.act(obs)[0]
  is_first = []
  for _ in range(12):
    action = policy.act(obs) if is_first else begins[None].repeat(2, 0)
    is_first.append(bool(np.allclose(action, begins)))
    assert action.shape == (2, 2) and action.dtype == np.float32
    obs, _, terminated, truncated, _ = venv.step(action)
    policy.reset(terminated | truncated)
  # Episodes have five steps; with NEXT_STEP the sixth only resets.
  period = 6 if mode == 'NEXT_STEP' else 5
  assert is_first == [step % period == 0 for step in range(12)]


def test_one_environment_with_discrete_actions(scratch):
  pytest.importorskip('pygame')
  with envs.as_gymnasium('gym_CartPole-v1') as env:
    policy = vid2act_jax.load_policy(scratch, env)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
      action = policy.act(obs)
      assert env.action_space.contains(action)
      obs, _, terminated, truncated, _ = env.step(action)
      policy.reset(terminated or truncated)
  three = gymnasium.make('Acrobot-v1')
  with pytest.raises(UserError, match='env has 3 actions, but the policy of'):
    vid2act_jax.load_policy(scratch, three)


class TestView:
  """What `act` accepts, without a policy."""

  def view(self, task='gym_X', **fields):
    actions = envs.ActionSpec.normalized(2)
    return inference._View(envs.Interface(actions, **fields), 64, task)

  def test_frames(self):
    view = self.view(resizes=True)
    one, many = noise(64, 64, 3), noise(2, 64, 64, 3)
    for obs, is_single in ((one, True), (many, False), (tuple(many), False)):
      image, single = view.read(obs)
      assert single == is_single and image.shape[1:] == (64, 64, 3)
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, 45:] = 200
    image, _ = view.read(wide)
    assert (image[0, :, :32] == 0).all() and (image[0, :, 32:] == 200).all()
    np.testing.assert_array_equal(view.read(jax.numpy.array(one))[0][0], one)

  def test_observations_of_the_training_environment(self):
    frame = noise(64, 64, 3)
    obs = {'picture': frame, 'position': np.zeros(2)}
    image, single = self.view(image_key='picture').read(obs)
    assert single and (image[0] == frame).all()
    own = {'image': frame[None], 'is_first': np.ones(1, bool)}
    assert self.view().read(own)[0].shape == (1, 64, 64, 3)
    with pytest.raises(UserError, match=r'picture of render\(\), not the obs'):
      self.view(resizes=True).read({'image': noise(7, 7, 3), 'direction': 0})
    with pytest.raises(UserError, match="picture of 'picture'"):
      self.view(image_key='picture').read({'image': frame})

  @pytest.mark.parametrize(
    'obs, message',
    [
      (np.zeros(4, np.float32), r'float32 \[4\].*give it env.render\(\)'),
      (np.zeros((64, 64), np.uint8), r'uint8 \[64, 64\], but the policy'),
      (np.zeros((64, 64, 4), np.uint8), r'uint8 \[64, 64, 4\]'),
      (np.zeros((3, 64, 64), np.uint8), 'move the channels to the end'),
      (np.zeros((2, 3, 64, 64), np.uint8), 'move the channels to the end'),
      (np.zeros((64, 64, 3)), 'float64'),
      (np.zeros((0, 64, 64, 3), np.uint8), r'\[0, 64, 64, 3\]'),
      (None, 'None'),
      ([noise(64, 64, 3), noise(32, 64, 3)], 'type list'),
      (noise(7, 7, 3), r'uint8 \[7, 7, 3\].*give it env.render\(\)'),
      (noise(32, 32, 3), '32x32 pixels.*dmc_walker_walk learned from 64x64'),
    ],
  )
  def test_wrong_frames(self, obs, message):
    with pytest.raises(UserError, match=message):
      self.view('dmc_walker_walk').read(obs)


def test_wrong_folders(tmp_path, probe):
  with pytest.raises(UserError, match='is not the folder of a run'):
    vid2act_jax.load_policy(tmp_path / 'absent')
  empty = tmp_path / 'empty'
  empty.mkdir()
  (empty / runs.CONFIG).write_text((probe / runs.CONFIG).read_text())
  with pytest.raises(UserError, match='no checkpoint in .*empty/student'):
    vid2act_jax.load_policy(empty)
  (empty / runs.INTERFACE).write_text('{"actions": 3}')
  with pytest.raises(UserError, match='environment.json cannot be read.*remov'):
    runs.read_interface(empty)


def test_the_actions_are_recorded(tmp_path):
  space = envs.ActionSpec.box(np.array([[-2.0], [0]]), np.array([[2.0], [1]]))
  for spec in (space, envs.ActionSpec.discrete(3, start=5)):
    interface = envs.Interface(spec, 'picture', True)
    runs.write_interface(tmp_path, interface)
    assert runs.read_interface(tmp_path) == interface
    actions = np.random.default_rng(0).uniform(-1, 1, (4, spec.dim))
    own = spec.to_native(actions.astype(np.float32))
    assert own.shape == (4, *spec.shape) and own.dtype == spec.dtype
    np.testing.assert_allclose(spec.to_native(spec.to_agent(own)), own)
  json.loads((tmp_path / runs.INTERFACE).read_text())


def test_importing_the_package_is_cheap():
  script = 'import sys, vid2act_jax; '
  script += 'print(sorted({"jax", "gymnasium"} & {*sys.modules}))'
  command = [sys.executable, '-c', script]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout == '[]\n'
  assert {'load_policy', 'envs'} <= set(dir(vid2act_jax))
  with pytest.raises(AttributeError, match="no attribute 'load_polcy'"):
    _ = vid2act_jax.load_polcy


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='options of CPUs')
def test_an_option_that_this_xla_lacks_is_left_out(monkeypatch):
  known = {'xla_backend_optimization_level': 1}
  options = {**known, 'xla_no_such_option': True}
  monkeypatch.setattr(inference, '_QUICK_COMPILE', options)
  assert inference._compiler_options() == known


def test_the_policy_of_a_run_in_a_bucket(gcs, scratch):
  url = 'gs://bucket/runs/scratch'
  gcs.commit(scratch, url)
  obs = noise(64, 64, 3)
  policies = [vid2act_jax.load_policy(run) for run in (scratch, url)]
  first, second = (policy.act(obs) for policy in policies)
  np.testing.assert_array_equal(first, second)
  states = [runs.load_agent(run)[1] for run in (scratch, url)]
  jax.tree.map(np.testing.assert_array_equal, *states)
  with pytest.raises(UserError, match='gs://bucket/runs/no: no run in it'):
    vid2act_jax.load_policy('gs://bucket/runs/no')
