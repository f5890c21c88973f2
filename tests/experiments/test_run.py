"""End to end: every stage, skipping, resuming after a kill, and errors."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import base, debug, run
from tests import kill_runs
from tests.test_sharding import run_simulated
from vid2act_jax import envs, learner, sharding
from vid2act_jax.analysis import __main__
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.__main__ import main
from vid2act_jax.loops import (
  batches,
  finetune,
  interaction,
  preemption,
  runs,
  sources,
  video,
)
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.loops.schedule import Counters
from vid2act_jax.types import UserError

pytestmark = pytest.mark.usefixtures('share_compiled_steps')

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(
  p.stem
  for p in (ROOT / 'experiments').glob('*.py')
  if p.stem not in ('__init__', 'run')
)


def config_with(**overrides):
  """The debug config with flattened overrides, locked."""
  config = debug.get_config()
  config.update_from_flattened_dict(
    {k.replace('__', '.'): v for k, v in overrides.items()}
  )
  return config.lock()


def test_each_step_is_compiled_once(finished, compilations):
  expected = {
    'pretrain_step': 1,
    'finetune_step': 1,
    'act': 2,  # In training, and in evaluation.
    'embed_frames': 2,  # Of the sources, and of the target.
    'open_loop': 2,  # Of the teacher, and of the student.
    'init': 2,
  }
  assert {name: compilations[name] for name in expected} == expected


def test_run_writes_all_outputs(finished):
  config = debug.get_config()
  metrics = read_metrics(finished)
  by_stage = {
    stage: [m for m in metrics if m['stage'] == stage]
    for stage in ('collect', 'pretrain', 'finetune')
  }
  assert len(by_stage['collect']) == 2 * config.collect.episodes
  keys = {k for m in by_stage['pretrain'] for k in m}
  assert {'train/model_loss', 'train/image_loss', 'train/kl'} <= keys
  assert not any('distillation' in k for k in keys)
  keys = {k for m in by_stage['finetune'] for k in m}
  for key in (
    'train/distillation_loss',
    'train/vae_loss',
    'train/actor_loss',
    'similarity/probe_wide',
    'similarity/probe_count',
    'eval/return',
    'episode/return',
    'random/return',
  ):
    assert key in keys
  for row in by_stage['finetune']:
    if 'similarity/probe_wide' in row:
      total = row['similarity/probe_wide'] + row['similarity/probe_count']
      assert total == pytest.approx(1, abs=1e-5)
  for pattern in (
    'summary.png',
    f'videos/pretrain-open_loop-*{video.default_suffix()}',
    f'videos/finetune-open_loop-*{video.default_suffix()}',
    f'videos/finetune-eval-*{video.default_suffix()}',
    'strips/pretrain-open_loop.png',
    'tensorboard/finetune/events*',
  ):
    assert list(finished.glob(pattern)), pattern
  assert not any(
    np.isnan(v) for m in metrics for v in m.values() if v != m['stage']
  )


def test_schedule_is_kept(finished):
  config = debug.get_config()
  extra = Checkpoint(finished / runs.STUDENT).restore_raw()[1]
  f = config.finetune
  due = (
    f.first_updates + (extra['agent_steps'] - extra['warm']) // f.update_every
  )
  assert extra['updates'] == due
  assert extra['agent_steps'] >= f.env_steps / config.env.action_repeat
  assert extra['warm'] >= f.prefill


def test_dataset_provenance(finished):
  metadata = dataset.read_metadata(finished / 'sources' / 'probe_wide')
  assert metadata['collected']['policy'] == 'random'
  assert metadata['episodes'] == debug.get_config().collect.episodes
  assert metadata['action_dim'] == 5
  online = dataset.read_metadata(finished / 'replay')
  assert online['task'] == 'probe_action'


def test_second_start_skips_complete_stages(finished, capsys):
  before = (finished / 'metrics.jsonl').read_text()
  run.run(config_with(), finished)
  out = capsys.readouterr().out
  assert 'collect: probe_wide exists' in out
  assert 'pretrain: done' in out and 'finetune: done' in out
  assert (finished / 'metrics.jsonl').read_text() == before


def test_resumes_after_a_kill(finished, tmp_path, monkeypatch, capsys):
  workdir = tmp_path / 'killed'
  shutil.copytree(finished, workdir)
  shutil.rmtree(workdir / runs.STUDENT)
  shutil.rmtree(workdir / 'replay')
  kill_runs.kill_after(monkeypatch, 12)  # Two after the checkpoint at 10.
  with pytest.raises(kill_runs.Killed):
    run.run(config_with(), workdir)
  monkeypatch.undo()
  run.run(config_with(), workdir)
  assert 'finetune: resuming after update 10' in capsys.readouterr().out
  rows = [m for m in read_metrics(workdir, 'finetune') if 'train/kl' in m]
  extra = Checkpoint(workdir / runs.STUDENT).restore_raw()[1]
  # Nothing is logged twice, and no update is missing.
  assert len(rows) == extra['updates'] // debug.get_config().finetune.log_every
  done = Checkpoint(workdir / runs.STUDENT).finished()
  assert done['env_steps'] >= debug.get_config().finetune.env_steps
  assert kill_runs.differences(finished, workdir) == []


@pytest.mark.slow
def test_metrics_at_the_step_of_a_checkpoint_are_logged_once(
  finished, tmp_path, monkeypatch
):
  workdir = tmp_path / 'killed'
  shutil.copytree(finished, workdir)
  shutil.rmtree(workdir / runs.STUDENT)
  shutil.rmtree(workdir / 'replay')
  config = config_with(finetune__save_every=12)
  act = finetune.Finetuner._act

  def die(self):
    if self.counters.updates == 12:
      raise kill_runs.Killed
    act(self)

  monkeypatch.setattr(finetune.Finetuner, '_act', die)
  with pytest.raises(kill_runs.Killed):
    run.run(config, workdir)
  monkeypatch.undo()
  # Saved, then evaluated: both at one env step.
  last = read_metrics(workdir, 'finetune')[-1]
  extra = Checkpoint(workdir / runs.STUDENT).restore_raw()[1]
  repeat = config.env.action_repeat
  assert 'eval/return' in last
  assert last['step'] == extra['agent_steps'] * repeat
  run.run(config, workdir)
  assert kill_runs.differences(finished, workdir) == []


@pytest.mark.slow
def test_preempted_run_saves_and_resumes(finished, tmp_path):
  """In prefill, in an evaluation, between updates, and in pretraining."""
  workdir = tmp_path / 'stopped'
  shutil.copytree(finished, workdir)
  for name in (runs.TEACHER, runs.STUDENT, 'replay'):
    shutil.rmtree(workdir / name)

  class PreemptedAt(preemption.PreemptionHandler):
    """Preempts the run at its n-th check."""

    def __init__(self, checks):
      super().__init__()
      self.remaining = checks

    def check(self, all_hosts=False):
      self.remaining -= 1
      if self.remaining < 0:
        raise preemption.Preempted('test')

  stops = 0
  for checks in (8, 12, 40, 33, 21, 80, 10_000):
    try:
      run.run(config_with(), workdir, Execution(False, PreemptedAt(checks)))
    except preemption.Preempted:
      stops += 1
  assert stops == 6
  assert kill_runs.differences(finished, workdir) == []


def test_too_many_updates_that_are_not_finite_end_the_run(
  finished, tmp_path, monkeypatch
):
  config = config_with(
    source_dir=str(finished / 'sources'),
    teacher_from=str(finished),
    stages=('finetune',),
    skip_limit=3,
  )
  sample = batches.FinetuneBatches._sample

  def with_nan(self, index):
    batch = sample(self, index)
    if index >= 6:
      batch.target.reward[:] = np.nan
    return batch

  monkeypatch.setattr(batches.FinetuneBatches, '_sample', with_nan)
  with pytest.raises(UserError, match='4 updates in a row.*lower') as error:
    run.run(config, tmp_path)
  (path,) = (tmp_path / 'not_finite' / 'finetune').glob('*.npz')
  assert str(path) in str(error.value)
  assert np.isnan(np.load(path)['target/reward']).all()
  record = json.loads(path.with_suffix('.json').read_text())
  assert np.isnan(record['metrics']['model_loss'])
  # The checkpoint is from before, and is finite.
  state, extra, _ = Checkpoint(tmp_path / runs.STUDENT).restore_raw()
  assert extra['updates'] == 5
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def _reproducible_metrics(workdir):
  """The metrics of a run's finetuning without its time and memory."""
  return [
    {k: v for k, v in row.items() if k not in kill_runs.NONDETERMINISTIC}
    for row in read_metrics(workdir, 'finetune')
  ]


def _finetune_again(finished, workdir, profile=False, **overrides):
  """Finetunes with the teacher and the datasets of the finished run."""
  config = config_with(
    source_dir=str(finished / 'sources'),
    teacher_from=str(finished),
    stages=('finetune',),
    **overrides,
  )
  run.run(config, workdir, Execution(profile))
  return _reproducible_metrics(workdir)


@pytest.mark.slow
def test_worker_processes_and_profiling_change_nothing(
  finished, tmp_path, capsys
):
  metrics = _finetune_again(finished, tmp_path, True, env__parallel=True)
  assert metrics == _reproducible_metrics(finished)
  table = capsys.readouterr().out.split('finetune: where the time went')[1]
  for section in ('stepping', 'acting', 'sampling', 'updating', 'evaluating'):
    assert section in table
  assert list((tmp_path / 'profile' / 'finetune').rglob('*.xplane.pb'))


@pytest.mark.slow
@pytest.mark.parametrize('ready', [False, True])
def test_the_order_of_calls_changes_nothing(
  finished, tmp_path, monkeypatch, ready
):
  monkeypatch.setattr(sharding, 'is_ready', lambda tree: ready)
  metrics = _finetune_again(finished, tmp_path)
  assert metrics == _reproducible_metrics(finished)


@pytest.mark.slow
def test_replays_in_device_memory_change_nothing(finished, tmp_path):
  metrics = _finetune_again(finished, tmp_path, replay__device_gb=1)
  assert metrics == _reproducible_metrics(finished)


@pytest.mark.nightly
def test_replays_in_the_memory_of_two_devices(tmp_path):
  """Each has a copy; both gather their rows of the host's batches."""
  for gigabytes in (0, 1):
    run_simulated(
      2,
      'experiments.run',
      '--config=experiments/debug.py',
      '--config.finetune.updates_per_call=2',
      f'--config.replay.device_gb={gigabytes}',
      f'--workdir={tmp_path / str(gigabytes)}',
    )
  assert kill_runs.differences(tmp_path / '0', tmp_path / '1') == []


@pytest.mark.slow
def test_cached_embeddings_differ_only_by_rounding(finished, tmp_path):
  computed = _finetune_again(finished, tmp_path, replay__embeddings='none')
  for left, right in zip(
    _reproducible_metrics(finished), computed, strict=True
  ):
    assert left.pop('stage') == right.pop('stage')
    assert left.keys() == right.keys()
    for key, value in left.items():
      assert value == pytest.approx(right[key], rel=1e-2, abs=1e-2), key
  assert list((finished / 'embeddings').iterdir())
  assert not (tmp_path / 'embeddings').exists()


def test_longer_run_resumes_in_its_folder(finished, tmp_path):
  workdir = tmp_path / 'longer'
  shutil.copytree(finished, workdir)
  before = Checkpoint(workdir / runs.STUDENT).finished()['env_steps']
  run.run(config_with(finetune__env_steps=before + 40), workdir)
  after = Checkpoint(workdir / runs.STUDENT).finished()['env_steps']
  assert after >= before + 40


def test_finished_run_acts(finished):
  agent, state = runs.load_agent(finished)
  with envs.VectorEnv(
    'probe_action', envs.Settings(time_limit=20), 2, 0, False
  ) as env:
    obs, carry = env.step(None), agent.initial_carry(2)
    policy = jax.jit(functools.partial(agent.policy, explore=False))
    carry, action, extras = policy(state, carry, obs, jax.random.key(0))
    obs = env.step(np.asarray(action))
  assert action.shape == (2, 2) and np.abs(action).max() <= 1
  np.testing.assert_allclose(extras['similarity'].sum(0), 1, rtol=1e-5)
  assert not obs['is_first'].any()


@pytest.mark.slow
def test_sources_without_rewards(finished, tmp_path, capsys):
  folder, workdir = tmp_path / 'sources', tmp_path / 'run'
  shutil.copytree(finished / 'sources', folder)
  paths = sorted(folder.glob(f'*/{dataset.FILE}'))
  with_rewards = [path.read_text() for path in paths]
  for path, text in zip(paths, with_rewards, strict=True):
    path.write_text(json.dumps({**json.loads(text), 'has_rewards': False}))
  config = {
    'source_dir': str(folder),
    'variant': 'finetune',
    'stages': ('pretrain', 'finetune'),
  }
  run.run(config_with(**config), workdir)
  text = 'no rewards in probe_wide, probe_count; the reward head is not trained'
  assert f'pretrain: {text}\n' in capsys.readouterr().out
  keys = {
    stage: {key for row in read_metrics(workdir, stage) for key in row}
    for stage in ('pretrain', 'finetune')
  }
  assert 'train/reward_loss' in keys['finetune'] - keys['pretrain']
  assert 'train/image_loss' in keys['pretrain']
  assert (workdir / 'summary.png').exists()
  for name in (runs.TEACHER, runs.STUDENT):
    extra = Checkpoint(workdir / name).restore_raw()[1]
    assert extra['source_rewards'] == [False, False]
  # With other data, the same training cannot go on.
  for path, text in zip(paths, with_rewards, strict=True):
    path.write_text(text)
  more = config_with(**config, pretrain__steps=8)
  with pytest.raises(UserError, match=r'source_rewards \[False, False\], now'):
    run.run(more, workdir)


@pytest.mark.slow
def test_agent_collects_and_checkpoint_collects(tmp_path):
  overrides = {
    'sources': ('probe_action',),
    'finetune__env_steps': 60,
    'collect__agent_env_steps': 60,
    'replay__online_gb': 0.0006,  # Two episodes: the others stay on disk.
    'evaluate__every': 0,
    'stages': ('collect',),
  }
  run.run(config_with(collect__policy='agent', **overrides), tmp_path / 'a')
  folder = tmp_path / 'a' / 'sources' / 'probe_action'
  metadata = dataset.read_metadata(folder)
  assert metadata['collected']['method'] == 'agent'
  assert metadata['episodes'] == len(eps.list_episodes(folder)) >= 3
  config = config_with(
    collect__policy=f'checkpoint:{folder / "agent"}',
    collect__episodes=2,
    **overrides,
  )
  run.run(config, tmp_path / 'b')
  metadata = dataset.read_metadata(tmp_path / 'b' / 'sources' / 'probe_action')
  assert metadata['collected']['policy'].startswith('checkpoint:')
  assert metadata['episodes'] == 2


@pytest.mark.parametrize('name', NAMES)
def test_every_experiment_builds(name):
  module = __import__(f'experiments.{name}', fromlist=['get_config'])
  config = module.get_config()
  reference = base.get_config()
  assert set(config.to_dict()) == set(reference.to_dict())
  agent = learner.build_agent(config.learner, 6, (6, 4, 3, 3))
  key = jax.random.key(0)
  teacher = jax.eval_shape(agent.teacher.init, key)
  state = jax.eval_shape(agent.init, key, teacher)
  assert set(state.params) == {'model', 'actor', 'critic'}


def test_base_has_the_sizes_of_the_paper():
  config = base.get_config()
  s = config.learner.student
  assert (s.depth, s.stoch, s.deter, s.hidden, s.units) == (
    32, 50, 200, 200, 400,
  )  # fmt: skip
  assert config.finetune.batch == config.finetune.length == 50
  assert (config.finetune.prefill, config.finetune.update_every) == (2500, 5)


_FINETUNE_ONLY = {'stages': ('finetune',), 'variant': 'dreamerv2'}
CONFIG_ERRORS = {
  'no update a call': (
    {'pretrain__updates_per_call': 0},
    'pretrain.updates_per_call=0',
  ),
  'no episodes': (
    {'evaluate__episodes': -1},
    'config.evaluate.episodes=-1.*or 0 for no evaluations',
  ),
  'never': ({'finetune__update_every': 0}, 'config.finetune.update_every=0'),
  'no time': (
    {'env__timeout': 0.0},
    'env.timeout=0.0: it must be positive',
  ),
  'task': ({'task': 'dmc_walker_wlak'}, 'dmc_walker_walk'),
  'suite': ({'task': 'atari_pong'}, 'unknown suite'),
  'sources': ({'sources': ()}, 'config.sources is empty'),
  'variant': ({'variant': 'x'}, "config.variant='x' is unknown"),
  'stage': ({'stages': ('colect',)}, 'colect'),
  'size': ({'env__size': 32}, 'config.env.size'),
  'length': ({'finetune__length': 4}, 'config.finetune'),
  'policy': ({'collect__policy': 'x'}, "policy 'x': should be"),
  'conv': ({'learner__conv': 'x', **_FINETUNE_ONLY}, 'learner.conv'),
  'unroll': ({'learner__unroll': -2, **_FINETUNE_ONLY}, 'learner.unroll=-2'),
  'script': (
    {'collect__policy': 'scripted'},
    'scripted policies',
  ),
  'no states': ({'collect__policy': 'state:expert'}, 'has no states'),
  'no state policy': (
    {'collect__policy': 'state:expert', 'sources': ('dmc_fish_swim',)},
    'no state policy of dmc_fish_swim is shipped',
  ),
  'no dataset': ({'stages': ('pretrain',)}, 'metadata.json: missing'),
  'no agent': ({'collect__policy': 'checkpoint:no'}, 'no/config.json is'),
}


@pytest.mark.parametrize('name', CONFIG_ERRORS)
def test_config_errors_name_the_key(name, tmp_path):
  overrides, message = CONFIG_ERRORS[name]
  with pytest.raises(UserError, match=message):
    run.run(config_with(**overrides), tmp_path / 'run')


def test_prefill_statistics_are_logged(finished):
  """Its returns, and its successes if the task has them."""
  prefill = [{'return': 1.0, 'success': 0.0}, {'return': 4.0, 'success': 1.0}]
  for episodes, expected in (
    (prefill, {'random/return': 2.5, 'random/success': 0.5}),
    ([{'return': 3.0}], {'random/return': 3.0}),
  ):
    values = {}
    acting = interaction.Interaction(
      types.SimpleNamespace(num=1, action_dim=2, faults=[]),
      types.SimpleNamespace(reset=lambda: None),
      replay=None,
      counters=Counters(agent_steps=7),
      prefill=8,
      seed=0,
      profiler=None,
    )
    acting._prefill_episodes, acting._hosts_ready = episodes, 1
    acting.step = lambda state, send: []
    loop = types.SimpleNamespace(
      _interaction=acting,
      _logger=types.SimpleNamespace(scalars=lambda _, x, v=values: v.update(x)),
      _log_worker_failures=lambda: None,
      policy_state=lambda: jax.numpy.zeros(()),
      env_steps=8,
    )
    finetune.Finetuner._act(loop)
    assert values == {} and acting.counters.warm == -1
    acting.counters.agent_steps = 8
    finetune.Finetuner._act(loop)
    assert values == expected and acting.counters.warm == 8


def test_evaluation_of_a_finished_run(finished, tmp_path, capsys):
  path = tmp_path / 'episode.gif'
  command = ['evaluate', str(finished), '--episodes', '3']
  outputs = []
  for options in ([], ['--video', str(path)], ['--seed', '1']):
    assert __main__.main(command + options) == 0
    outputs.append(json.loads(capsys.readouterr().out))
  assert outputs[0] == outputs[1] != outputs[2]
  assert outputs[0]['episodes'] == 3 and outputs[0]['updates'] >= 1
  assert outputs[0]['task'] == config_with().task
  with Image.open(path) as image:
    assert image.n_frames > 1
  assert __main__.main([*command, '--task', 'probe_terminal']) == 0
  assert json.loads(capsys.readouterr().out)['success'] == 1
  assert __main__.main([*command, '--task', 'probe_wide']) == 1
  assert 'probe_wide has 5 actions' in capsys.readouterr().err


def test_another_teacher_than_the_checkpoints(finished):
  """The cached embeddings would not be those of the state's teacher."""
  _, state = runs.load_agent(finished)
  teacher = {**state.teacher, 'decoder': {}}  # The state has no decoder.
  checkpoint = Checkpoint(finished / runs.STUDENT)
  sources.check_same_teacher(state, teacher, checkpoint)
  other = jax.tree.map(lambda x: x + 1, teacher['rssm'])
  with pytest.raises(UserError, match='differs from the one that .*student'):
    sources.check_same_teacher(state, {**teacher, 'rssm': other}, checkpoint)


def test_another_config_in_the_folder(finished):
  with pytest.raises(UserError, match=r'student\.deter: 16 in the folder, 8'):
    run.run(config_with(learner__student__deter=8), finished)


def test_run_of_an_older_version_without_some_keys(finished, tmp_path):
  """It can be resumed, and loaded to act."""
  config = json.loads((finished / runs.CONFIG).read_text())
  del config['learner']['unroll'], config['learner']['scales']['discount']
  del config['replay']['held_out']
  shutil.copytree(finished / runs.STUDENT, tmp_path / runs.STUDENT)
  (tmp_path / runs.CONFIG).write_text(json.dumps(config))
  assert runs.config_diff(tmp_path, config_with()) == []
  agent, state = runs.load_agent(tmp_path)
  assert not agent.student.predict_continue and int(state.step) > 0


def test_teacher_of_other_sizes(finished, tmp_path):
  config = config_with(
    source_dir=str(finished / 'sources'),
    teacher_from=str(finished),
    learner__teacher__deter=8,
  )
  with pytest.raises(UserError, match='does not fit this run') as error:
    run.run(config, tmp_path / 'run')
  assert 'rssm/cell' in str(error.value)


def test_teacher_of_other_domains(finished, tmp_path):
  config = config_with(
    source_dir=str(finished / 'sources'),
    teacher_from=str(finished),
    sources=('probe_count', 'probe_wide'),
    stages=('finetune',),
  )
  with pytest.raises(UserError, match='pretrained on|made with|action'):
    run.run(config, tmp_path / 'run')


@pytest.mark.slow
def test_student_smaller_than_its_teacher(finished, tmp_path):
  config = config_with(
    source_dir=str(finished / 'sources'),
    teacher_from=str(finished),
    learner__student__deter=8,
    learner__student__stoch=3,
    learner__student__units=8,
    finetune__env_steps=60,
    finetune__video_every=0,
    evaluate__every=0,
  )
  run.run(config, tmp_path / 'run')
  assert Checkpoint(tmp_path / 'run' / runs.STUDENT).finished()


def test_corrupt_and_short_episodes(finished, tmp_path, capsys):
  sources = tmp_path / 'sources'
  shutil.copytree(finished / 'sources', sources)
  overrides = {'source_dir': str(sources), 'stages': ('pretrain',)}
  long = config_with(pretrain__length=40, **overrides)
  with pytest.raises(UserError, match='no episode is long enough.*40'):
    run.run(long, tmp_path / 'long')
  victim = eps.list_episodes(sources / 'probe_count')[1].path
  data = victim.read_bytes()
  victim.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match=victim.name):
    run.run(config_with(**overrides), tmp_path / 'corrupt')
  assert victim.read_bytes() == data[: len(data) // 2]
  # The fix that the message names.
  assert main(['validate', str(sources / 'probe_count')]) == 0
  run.run(config_with(**overrides), tmp_path / 'fixed')
  assert (
    'probe_count: 1 episodes in quarantine are not used'
    in capsys.readouterr().out
  )


def test_action_repeat_differs_from_the_datasets(finished, tmp_path):
  config = config_with(
    source_dir=str(finished / 'sources'), env__action_repeat=2
  )
  with pytest.raises(UserError, match='action_repeat=1'):
    run.run(config, tmp_path / 'run')


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--config=experiments/debug.py', '--config.nokey=1'], 'nokey'),
    (['--config=experiments/nofile.py'], 'nofile.py'),
    (['--config=experiments/debug.py', '--config.seed=abc'], 'seed'),
    (['--config=experiments/debug.py', '--workdir=/dev/null/x'], '/dev/null'),
    ([], '--config'),
  ],
)
def test_command_line_errors(arguments, message):
  process = subprocess.run(
    [sys.executable, '-m', 'experiments.run', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 1
  assert 'Traceback' not in process.stderr
  errors = [x for x in process.stderr.splitlines() if x.startswith('error:')]
  assert len(errors) == 1 and message in errors[0]


def test_config_file_is_readable(finished):
  config = json.loads((finished / runs.CONFIG).read_text())
  assert config['task'] == 'probe_action'
