"""Shifted tasks and the noise probe."""

import contextlib
import io

import jax.numpy as jnp
import numpy as np
import pytest

from tests.episode_data import assert_same
from vid2act_jax import envs
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.__main__ import main
from vid2act_jax.envs import probe, registry, shift
from vid2act_jax.loops import checkpoint, collect, logger
from vid2act_jax.types import UserError

SETTINGS = envs.Settings(size=16, action_repeat=1, quality='fast')


@pytest.fixture
def make():
  """Makes environments and closes them after the test."""
  made = []

  def build(task, settings=SETTINGS, seed=0):
    made.append(envs.make(task, settings, seed))
    return made[-1]

  yield build
  for env in made:
    env.close()


def physics_of(env):
  return env._simulator._env.physics


def forward(physics):
  import mujoco  # After the GL backend is selected.

  mujoco.mj_forward(physics.model.ptr, physics.data.ptr)


def acceleration(env, control=0.0, angle=np.pi / 2):
  """Returns the pendulum's acceleration from rest at an angle."""
  physics = physics_of(env)
  physics.data.qpos[:] = angle
  physics.data.qvel[:] = 0
  physics.data.ctrl[:] = control
  forward(physics)
  return float(physics.data.qacc[0])


class TestNames:
  def test_parts(self):
    base, change = shift.parse('dmc_walker_walk@gravity=.5,mass=1e-1,camera=1')
    assert base == 'dmc_walker_walk' == envs.base_name(f'{base}@gravity=2')
    assert change == shift.Shift(gravity=0.5, mass=0.1, camera='1')
    assert shift.parse('a:b@actions=3,copy=x-1') == (
      'a:b',
      shift.Shift(actions=3, copy='x-1'),
    )
    assert shift.parse('dmc_walker_walk') == (base, shift.Shift())
    assert shift.parse('a@gravity=0,gain=0')[1].has_dynamics
    assert not shift.parse('a@copy=1,actions=1,camera=side')[1].has_dynamics

  @pytest.mark.parametrize(
    'changes, message',
    [
      (
        'speed=2',
        "unknown modifier 'speed'.*keys of gravity, gain, mass, camera",
      ),
      ('', "unknown modifier ''.*key=value"),
      ('gravity=2,', "unknown modifier ''"),
      ('Gravity=2', "unknown modifier 'Gravity'"),
      ('gravity', 'gravity= should be a factor'),
      ('gravity=-1', 'gravity=-1 should be a factor such as 0.5, 0 or more'),
      ('gain=nan', 'gain=nan should be a factor'),
      ('gain=inf', 'gain=inf should'),
      ('gain=1e999', 'gain=1e999 should'),
      ('gain= 1', 'gain= 1 should'),
      ('mass=0', 'mass=0 should be a factor such as 1.5, above 0'),
      ('mass=2,mass=2', 'mass is given twice'),
      ('actions=0', 'actions=0 should be a whole number from 1'),
      ('actions=1.5', 'actions=1.5 should'),
      ('camera=', "camera= should be a camera's name or number"),
      ('copy=a/b', 'copy=a/b should be up to 32 letters'),
      ('copy=1@copy=2', 'copy=1@copy=2 should'),
    ],
  )
  def test_errors(self, changes, message):
    task = f'dmc_walker_walk@{changes}'
    with pytest.raises(UserError, match=message) as error:
      envs.check(task)
    assert task in str(error.value) and '\n' not in str(error.value)

  def test_original_task_is_checked(self):
    with pytest.raises(UserError, match='did you mean probe_wide'):
      envs.check('probe_wid@actions=2')
    with pytest.raises(UserError, match='has no function'):
      envs.check('tests.gym_tasks:nothing@copy=1')
    envs.check('tests.gym_tasks:make_terminal@copy=1')
    registry.prepare('tests.gym_tasks:make_terminal@copy=1')


class TestDynamics:
  def test_gravity_persists_over_resets(self, make):
    plain = make('dmc_pendulum_swingup')
    half = make('dmc_pendulum_swingup@gravity=0.5')
    for env in (plain, half):
      for seed in (0, None, 5):
        env.reset(seed)
        env.step(np.zeros(1))
    assert acceleration(plain) > 1
    np.testing.assert_allclose(acceleration(half), acceleration(plain) / 2)

  def test_gain_and_mass(self, make):
    def push(changes):
      env = make(f'dmc_pendulum_swingup{changes}')
      env.reset()
      return acceleration(env, control=1.0, angle=0.0)

    np.testing.assert_allclose(push('@gain=2'), 2 * push(''))
    np.testing.assert_allclose(push('@mass=2'), push('') / 2)
    np.testing.assert_allclose(push('@mass=2,gain=2'), push(''))
    assert push('@gain=0') == 0

  @pytest.mark.parametrize('task', ['dmc_fish_swim', 'dmc_quadruped_walk'])
  def test_gain_scales_whole_force_of_position_actuators(self, make, task):
    forces = []
    for changes in ('', '@gain=3'):
      env = make(task + changes)
      env.reset(1)
      physics = physics_of(env)
      random = np.random.default_rng(0)
      physics.data.qvel[:] = random.uniform(-1, 1, physics.model.nv)
      physics.data.act[:] = random.uniform(-0.5, 0.5, physics.model.na)
      physics.data.ctrl[:] = random.uniform(-0.5, 0.5, physics.model.nu)
      forward(physics)
      forces.append(physics.data.actuator_force.copy())
    assert np.abs(forces[0]).max() > 1e-4
    np.testing.assert_allclose(forces[1], 3 * forces[0], rtol=1e-9)

  def test_gain_scales_force_limit(self, make):
    env = make('dmc_pendulum_swingup')
    # It imports MuJoCo, so only after the GL backend is selected.
    from vid2act_jax.envs import dynamics

    model = physics_of(env).model.ptr
    model.actuator_forcelimited[:] = True
    model.actuator_forcerange[:] = (-0.1, 0.1)
    dynamics.scale_gain(model, 3.0, 'task')
    np.testing.assert_allclose(model.actuator_forcerange, [[-0.3, 0.3]])
    model.actuator_gaintype[:] = 2  # A muscle.
    with pytest.raises(UserError, match="'task' has actuators, such as muscl"):
      dynamics.scale_gain(model, 3.0, 'task')

  def test_mass_changes_derived_fields_but_not_images(self, make):
    settings = envs.Settings()
    plain = make('dmc_walker_walk', settings)
    same = make('dmc_walker_walk@mass=1', settings)
    heavy = make('dmc_walker_walk@mass=4', settings)
    images = [env.reset(3)['image'] for env in (plain, same, heavy)]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
    models = [physics_of(env).model for env in (plain, same, heavy)]
    for name in ('body_mass', 'body_subtreemass', 'dof_invweight0', 'dof_M0'):
      one, two, four = (getattr(model, name) for model in models)
      np.testing.assert_allclose(two, one, rtol=1e-9)
      assert (four != one).any()
    one, _, four = (model.body_subtreemass for model in models)
    np.testing.assert_allclose(four, 4 * one)
    assert models[0].stat.extent == models[2].stat.extent

  def test_metaworld(self, make):
    task = 'metaworld_door_close'
    plain, shifted = make(task), make(f'{task}@gravity=0.5,gain=2,mass=3')
    moves = []
    for env in (plain, shifted):
      for seed in (0, 0):
        env.reset(seed)
        data = env._simulator._env.data
        before = data.mocap_pos.copy()
        env.step(np.array([0.5, 0, 0, 0]))
      moves.append(data.mocap_pos - before)
    assert moves[0][0, 0] > 1e-3
    np.testing.assert_allclose(moves[1], 2 * moves[0], atol=1e-12)
    one, other = (env._simulator.model for env in (plain, shifted))
    np.testing.assert_allclose(other.opt.gravity, one.opt.gravity / 2)
    np.testing.assert_allclose(other.body_mass, 3 * one.body_mass)
    np.testing.assert_allclose(other.body_inertia, 3 * one.body_inertia)
    np.testing.assert_allclose(
      other.body_subtreemass, 3 * one.body_subtreemass, rtol=1e-6
    )
    for name in ('actuator_gainprm', 'actuator_biasprm'):
      assert np.abs(getattr(one, name)).max() > 0
      np.testing.assert_allclose(getattr(other, name), 2 * getattr(one, name))

  def test_gymnasium(self, make):
    def falls(changes):
      env = make(f'gym_InvertedPendulum-v5{changes}', seed=1)
      env.reset(1)
      env.reset(1)
      for _ in range(3):
        env.step(np.zeros(1))
      return env._simulator._env.unwrapped.data.qpos.copy()

    plain = falls('')
    assert np.abs(falls('@gravity=4') - plain).max() > 1e-4
    np.testing.assert_array_equal(falls('@copy=b'), plain)

  @pytest.mark.parametrize(
    'task, message',
    [
      ('probe_reward@gravity=0.5', 'no MuJoCo model to change'),
      ('tests.gym_tasks:make_terminal@mass=2', 'no MuJoCo model to change'),
      ('dmc_finger_spin@gravity=0.5', 'has no gravity to change'),
    ],
  )
  def test_nothing_to_shift(self, task, message):
    with pytest.raises(UserError, match=f'{task}.*{message}'):
      envs.make(task, SETTINGS, 0)

  def test_check_detects_missing_model(self):
    with pytest.raises(UserError, match='no MuJoCo model'):
      envs.check('probe_noise@gain=2')


class TestCamera:
  def test_overrides_settings(self, make):
    settings = envs.Settings(camera='0', quality='fast')
    task = 'dmc_walker_walk'
    side = make(task, settings)
    back = make(f'{task}@camera=back', settings)
    expected = make(task, envs.Settings(camera='back', quality='fast'))
    assert back.description['camera'] == 'back'
    image = back.reset(1)['image']
    np.testing.assert_array_equal(image, expected.reset(1)['image'])
    assert (image != side.reset(1)['image']).any()
    env = make('metaworld_reach@camera=topview')
    assert env.description['camera'] == 'topview'

  def test_unknown(self, make):
    for task in ('dmc_walker_walk', 'metaworld_reach', 'probe_noise'):
      with pytest.raises(UserError, match="no camera 'moon'"):
        make(f'{task}@camera=moon')


class TestActions:
  def test_fewer_and_more(self, make):
    settings = envs.Settings(size=50, action_repeat=1)
    few, many = (make(f'probe_wide@actions={n}', settings) for n in (2, 7))
    for env, dim in ((few, 2), (many, 7)):
      assert env.action_dim == dim == env.description['action_dim']
      assert env.description['task'] == f'probe_wide@actions={dim}'
      env.reset()
    action = np.linspace(-0.9, 0.9, 7)
    shown = [
      probe.read_action(env.step(action[: env.action_dim])['image'], 5)
      for env in (few, many)
    ]
    np.testing.assert_allclose(shown[0][:2], action[:2], atol=1.01 / 255)
    np.testing.assert_allclose(shown[0][2:], 0, atol=1.01 / 255)
    np.testing.assert_allclose(shown[1], action[:5], atol=1.01 / 255)
    with pytest.raises(ValueError, match='shape'):
      few.step(np.zeros(5))

  def test_dmc(self, make):
    env = make('dmc_walker_walk@actions=4,gravity=2')
    env.reset()
    env.step(np.ones(4))
    physics = env._simulator._env.physics
    np.testing.assert_array_equal(physics.control(), [1, 1, 1, 1, 0, 0])
    assert physics.model.opt.gravity[2] == pytest.approx(-2 * 9.81)

  def test_discrete_choices(self, make):
    lab = 'tests.gym_tasks:make_rendered'
    for actions, action, reward in (
      (2, [-0.5, -0.2], 6),  # The third is not taken, although 0 is larger.
      (2, [-1, -1], 5),
      (4, [-1, -1, 0, 1], 7),  # The fourth has no effect.
    ):
      env = make(f'{lab}@actions={actions}')
      env.reset()
      assert env.step(np.array(action))['reward'] == reward

  def test_scripted_policies(self, make):
    task = 'metaworld_reach'
    env, original = make(task), envs.scripted_policy(task)
    env.reset(4)
    for actions in (3, 6):
      changed = f'{task}@actions={actions}'
      other, policy_fn = make(changed), envs.scripted_policy(changed)
      other.reset(4)
      action = policy_fn(other)
      assert action.shape == (actions,) and action.dtype == np.float32
      np.testing.assert_array_equal(action[:3], original(env)[:3])
      np.testing.assert_array_equal(action[4:], 0)
      other.step(action)
    with pytest.raises(UserError, match='actions=2.*needs 3 to move the hand'):
      envs.scripted_policy(f'{task}@actions=2')
    with pytest.raises(UserError, match='no scripted policies'):
      envs.scripted_policy('dmc_walker_walk@gain=2')

  def test_vector_env(self):
    make = lambda parallel: envs.VectorEnv(
      'probe_action@actions=3', SETTINGS, 2, 0, parallel
    )
    for parallel in (False, True):
      with make(parallel) as vector:
        assert vector.action_dim == 3
        vector.step(None)
        obs = vector.step(np.full((2, 3), probe.OPTIMUM))
        np.testing.assert_array_equal(obs['reward'], 0)


def test_noise(make):
  env = make('probe_noise', envs.Settings(action_repeat=1), seed=3)
  assert env.action_dim == 2

  def run_episode(seed, action):
    episode = [env.reset(seed)]
    return episode + [env.step(np.full(2, action)) for _ in range(5)]

  episode, again, other = (
    run_episode(1, 0.3),
    run_episode(1, -0.3),
    run_episode(2, 0.3),
  )
  images = np.stack([obs['image'] for obs in episode]).astype(float)
  assert all(obs['reward'] == 0 and obs['discount'] == 1 for obs in episode)
  assert not any(obs['is_last'] for obs in episode)
  # Uniform, and uncorrelated over time, pixels and color channels.
  assert images.mean() == pytest.approx(127.5, abs=1)
  assert images.std() == pytest.approx(73.9, abs=1)
  assert (images.min(), images.max()) == (0, 255)
  centred = images - 127.5
  for left, right in (
    (centred[1:], centred[:-1]),
    (centred[:, 1:], centred[:, :-1]),
    (centred[:, :, 1:], centred[:, :, :-1]),
    (centred[..., 1:], centred[..., :-1]),
  ):
    assert abs((left * right).mean()) < 0.02 * 73.9**2
  # Actions have no effect, seeds have.
  np.testing.assert_array_equal(images, [obs['image'] for obs in again])
  assert (images[0] != other[0]['image']).any()
  free = env.reset()['image']
  assert (free != images[0]).any() and (free != other[0]['image']).any()


def positions(task):
  """Returns qpos [T, 2] of the cartpole in two episodes of fixed actions."""
  env, rows = envs.make(task, SETTINGS, 0), []
  random = np.random.default_rng(0)
  for seed in (3, 4):
    env.reset(seed)
    for _ in range(20):
      env.step(random.uniform(-1, 1, 1))
      rows.append(physics_of(env).data.qpos.copy())
  env.close()
  return np.stack(rows)


class TestDatasets:
  def test_collected_inspected_validated(self, tmp_path):
    """The folder is named like the task, as in a run's source_dir."""
    task = 'dmc_cartpole_balance@gravity=0.5'
    tasks = task, 'dmc_cartpole_balance@copy=1,camera=0', 'dmc_cartpole_balance'
    for name in tasks:
      folder = str(tmp_path / name)
      options = '--episodes 2 --action-repeat 1 --time-limit 15 --workers 1'
      command = ['collect', '--task', name, *options.split(), folder]
      stdout = io.StringIO()
      with contextlib.redirect_stdout(stdout):
        assert not main(command)
        assert not main(['inspect', folder])
        assert not main(['validate', folder])
      assert name in stdout.getvalue()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(tasks)
    metadata = dataset.read_metadata(tmp_path / task)
    assert metadata['task'] == task and metadata['episodes'] == 2
    half, copy, plain = (
      [eps.load(file.path) for file in eps.list_episodes(tmp_path / name)]
      for name in tasks
    )
    for one, two, three in zip(half, copy, plain, strict=True):
      assert_same(two, three)
      np.testing.assert_array_equal(one['action'], three['action'])
      np.testing.assert_array_equal(one['image'][0], three['image'][0])
      assert (one['reward'] != three['reward']).any()

  def test_trajectories(self):
    plain = positions('dmc_cartpole_balance')
    half = positions('dmc_cartpole_balance@gravity=0.5')
    np.testing.assert_array_equal(
      positions('dmc_cartpole_balance@copy=1'), plain
    )
    for episode in (slice(0, 20), slice(20, 40)):
      assert np.abs(half[episode] - plain[episode]).max() > 1e-4

  def test_folder_of_another_shift(self, tmp_path):
    plan = lambda task: collect.Plan(task, SETTINGS, 'random', 1, 0.0, 0)
    run = lambda task: collect.collect(plan(task), tmp_path, 1, lambda *_: 0)
    run('probe_terminal@copy=1')
    with pytest.raises(UserError, match="copy=1', not 'probe_terminal@copy=2'"):
      run('probe_terminal@copy=2')


class TestRuns:
  SOURCES = ['dmc_a@gravity=0.5,mass=2', 'dmc_a@copy=1']

  def test_metrics(self, tmp_path):
    values = {f'similarity/{name}': n for n, name in enumerate(self.SOURCES)}
    with logger.Logger(tmp_path, 'finetune') as log:
      log.scalars(1, values)
    # Resuming rewrites the kept rows.
    with logger.Logger(tmp_path, 'finetune', resume_step=1):
      pass
    (row,) = logger.read_metrics(tmp_path, 'finetune')
    assert {key: row[key] for key in values} == values
    assert list((tmp_path / 'tensorboard' / 'finetune').glob('events*'))

  def test_checkpoints(self, tmp_path):
    metadata = {'sources': self.SOURCES, 'source_action_dims': [2, 2]}
    state = {name: jnp.ones(2) for name in self.SOURCES}
    folder = tmp_path / self.SOURCES[0]
    checkpoint.Checkpoint(folder).save(3, state, metadata)
    restored, read, step = checkpoint.Checkpoint(folder).restore(state)
    assert step == 3 and read['sources'] == self.SOURCES
    np.testing.assert_array_equal(restored[self.SOURCES[1]], 1)
