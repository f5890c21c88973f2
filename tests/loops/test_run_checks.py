"""Checks before the first stage: everything at once, and nothing is written."""

import ast
import json
import re
import time

import gymnasium
import numpy as np
import pytest

from experiments import debug, run
from tests.episode_data import make_episode
from vid2act_jax import envs
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.replay import TooShort
from vid2act_jax.loops import env_probe, remedies, run_checks, runs, stages
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.train_step import NotFinite
from vid2act_jax.types import UserError

HERE = __name__


class Short(gymnasium.Env):
  """Every episode has three steps."""

  render_mode = 'rgb_array'
  action_space = gymnasium.spaces.Discrete(2)
  observation_space = gymnasium.spaces.Box(-1, 1, (3,))
  steps, length = 0, 3

  def reset(self, *, seed=None, options=None):
    self.steps = 0
    return np.zeros(3, np.float32), {}

  def step(self, action):
    self.steps += 1
    done = self.steps == self.length
    return np.zeros(3, np.float32), 0.0, done, False, {}

  def render(self):
    return np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)


class Eight(Short):
  """Every episode has eight steps, nine frames."""

  length = 8


class Broken(Short):
  """Its frames are not images."""

  def render(self):
    return np.zeros((8, 8, 3))


def config_with(**overrides):
  config = debug.get_config()
  config.update_from_flattened_dict(
    {key.replace('__', '.'): value for key, value in overrides.items()}
  )
  return config.lock()


def write_dataset(folder, length=30, size=64, action_dim=2, **metadata):
  """Writes a dataset of two episodes."""
  for index in range(2):
    episode = make_episode(length, size=size, action_dim=action_dim)
    eps.save(folder, index, episode)
  description = {
    'action_dim': action_dim,
    'action_repeat': 1,
    'camera': '',
    'size': size,
    'quality': 'standard',
    'flips': [],
    'versions': {},
  }
  collected = {'method': 'import'}
  dataset.write_metadata(folder, folder.name, collected, description, True)
  path = folder / dataset.FILE
  path.write_text(json.dumps({**json.loads(path.read_text()), **metadata}))


def problems_of(config, workdir):
  """The texts of all problems, in order; nothing must have been written."""
  before = sorted(workdir.parent.rglob('*'))
  try:
    run_checks.check_run(config, workdir, stages.ALONE)
    found = ()
  except UserError as error:
    found = error.args
  assert sorted(workdir.parent.rglob('*')) == before
  return found


def follow(config, message):
  """The config after the first remedy of a message, as it is printed."""
  key, value = re.search(r'--config\.([\w.]+)=([^\s,;]+)', message).groups()
  try:
    value = ast.literal_eval(value)
  except (ValueError, SyntaxError):
    pass
  out = config.copy_and_resolve_references().unlock()
  out.update_from_flattened_dict({key: value})
  return out.lock()


def test_all_problems_are_in_one_list(tmp_path):
  data = tmp_path / 'data'
  write_dataset(data / 'size', size=84)
  write_dataset(data / 'short', length=5)
  write_dataset(data / 'repeat', action_repeat=4)
  write_dataset(data / 'unfinished', complete=False)
  write_dataset(data / 'lost', episodes=3)
  config = config_with(
    task=f'{HERE}:Broken',
    sources=(
      'probe_count',
      'size',
      'short',
      'repeat',
      'unfinished',
      'lost',
      'nowhere_a',
    ),  # fmt: skip
    source_dir=str(data),
    teacher_from=str(tmp_path / 'nowhere'),
    finetune__update_every=0,
    collect__policy='randm',
  )
  start = time.monotonic()
  found = problems_of(config, tmp_path / 'run')
  assert time.monotonic() - start < 5
  for part in (
    r'update_every=0: it must be at least 1',
    r"policy 'randm': should be",
    r"unknown suite 'nowhere'",
    r'Broken.*renders no frame',
    r'size: its frames are 84x84, should be 64x64',
    r'short: no episode is long enough for chunks of 10 frames',
    r'repeat: collected with action_repeat=4',
    r'unfinished.*this dataset is not complete',
    r'lost: metadata.json says 3 episodes, there are 2',
    r'no teacher in .*nowhere',
  ):
    assert sum(bool(re.search(part, text)) for text in found) == 1, part
  assert len(found) == 10
  assert str(UserError(*found)).startswith('10 problems:\n  - config.finetune')


@pytest.mark.parametrize(
  'overrides, message',
  [
    ({'finetune__length': 50}, 'longest of its random episodes has 21 frames'),
    ({'replay__online_gb': 1e-5}, '--config.replay.online_gb=0.00'),
    ({'mesh__data': 64}, 'config.mesh.data=64, but there'),
    ({'env__camera': '7'}, "no camera '7'"),
    ({'env__quality': 'fats'}, "quality='fats'"),
    ({'collect__policy': 'checkpoint:/no'}, '/no/config.json is missing'),
    ({'replay__held_out': 0.5, 'collect__episodes': 1}, 'held_out=0.5 holds'),
    ({'stages': ('finetune', 'pretrain')}, 'in the order collect, pretrain'),
    ({'stages': ()}, 'name at least one stage'),
    ({'stages': ('finetun',)}, "did you mean 'finetune'"),
    ({'variant': 'vid2atc'}, 'did you mean vid2act'),
    ({'learner__student__deter': 0}, 'student.deter=0: it must be at least 1'),
    ({'learner__optim__model_lr': 0.0}, 'model_lr=0.0: it must be positive'),
    ({'learner__behavior__discount': 1.5}, 'discount=1.5: it must be from 0'),
    ({'collect__policy': 'scripted'}, 'no scripted policies'),
    ({'source_dir': __file__}, f'{__file__} is a file, not a folder'),
    ({'teacher_from': 'no.npz'}, 'no.npz: not a file'),
  ],
)
def test_what_a_stage_would_find(overrides, message, tmp_path):
  found = problems_of(config_with(**overrides), tmp_path / 'run')
  assert found and any(message in text for text in found), found


def test_stages_that_do_not_run_need_nothing(tmp_path):
  data = tmp_path / 'data'
  for name in ('probe_wide', 'probe_count'):
    write_dataset(data / name, length=12, action_repeat=3)
  shared = {'source_dir': str(data), 'teacher_from': str(tmp_path / 'nowhere')}
  config = config_with(stages=('collect',), **shared)
  assert problems_of(config, tmp_path / 'run') == ()
  assert len(problems_of(config_with(**shared), tmp_path / 'run')) == 3
  config = config_with(stages=('collect', 'pretrain'), variant='dreamerv2')
  assert problems_of(config, tmp_path / 'run') == ()


def test_every_seed_is_checked_and_named_once(tmp_path):
  write_dataset(tmp_path / 'data-1' / 'probe_wide', size=84)
  config = config_with(
    seeds=(0, 1),
    source_dir=str(tmp_path / 'data-{seed}'),
    teacher_from=str(tmp_path / 'teacher-{seed}'),
    finetune__batch=0,
  )
  found = problems_of(config, tmp_path / 'run')
  assert [text for text in found if 'finetune.batch' in text] == [found[0]]
  assert sum('84x84' in text for text in found) == 1
  assert [re.findall(r'teacher-\d', x) for x in found if 'no teacher' in x] == [
    ['teacher-0'],
    ['teacher-1'],
  ]


def test_each_of_several_teachers_is_checked(tmp_path):
  config = config_with(
    teacher_from=f'{tmp_path}/a, {tmp_path}/b',
    learner__transfer__teachers='separate',
  )
  found = problems_of(config, tmp_path / 'run')
  assert ['/a/' in found[0], '/b/' in found[1]] == [True, True]


def test_a_probed_environment_is_not_made_again(monkeypatch):
  made, make = [], envs.make
  monkeypatch.setattr(
    envs, 'make', lambda *args: made.append(args) or make(*args)
  )
  settings = envs.Settings(action_repeat=1, time_limit=7)
  for frames, steps in ((0, 0), (5, 9), (5, 9), (8, 30), (9, 30), (9, 20)):
    env_probe.probe('probe_reward', settings, frames, steps)
  assert env_probe.probe('probe_reward', settings).lengths[:4] == (8, 8, 8, 8)
  assert len(made) == 4  # Once, and for longer episodes.


def test_short_episodes_of_the_target(tmp_path):
  """Before the first stage; both remedies work in the same folder."""
  for name, length, num_flags in (('Short', 10, 1), ('Eight', 10, 2)):
    config = config_with(
      task=f'{HERE}:{name}', variant='dreamerv2', finetune__length=length
    )
    (text,) = problems_of(config, tmp_path / 'run')
    assert text.count('--config.') == num_flags
    for flag in re.findall(r'--config\S+', text):
      config = follow(config, flag)
      assert problems_of(config, tmp_path / 'run') == ()


@pytest.mark.parametrize('begun', ['nothing', 'teacher', 'student'])
@pytest.mark.parametrize('longest', [5, 8])
def test_remedies_against_short_episodes_are_accepted(begun, longest, tmp_path):
  """In every state of a folder, what is named may be changed."""
  config = config_with(pretrain__length=12, finetune__length=12)
  runs.init_workdir(tmp_path, config)
  folders = {'nothing': [], 'teacher': ['teacher'], 'student': ['student']}
  for name in folders[begun]:
    (tmp_path / name / '3').mkdir(parents=True)
    Checkpoint(tmp_path / name).finish(3, {'env_steps': 1})
  with pytest.raises(UserError) as error:
    with remedies.for_stage(config, tmp_path, 'finetune'):
      raise TooShort('too short', longest, 40)
  text = str(error.value)
  elsewhere = begun == 'student' or (begun == 'teacher' and longest == 5)
  assert ('--workdir=...' in text) == elsewhere
  folder = tmp_path / 'new' if elsewhere else tmp_path
  for flag in re.findall(r'--config\.(?:replay|finetune)\S+', text):
    changed = follow(config, flag)
    runs.init_workdir(folder, changed)
    assert changed.replay.cross_episodes or changed.finetune.length == longest
  assert ('--config.teacher_from' in text) == (elsewhere and begun == 'teacher')


@pytest.mark.slow
def test_episodes_that_turn_out_short_can_be_learned_from(tmp_path):
  """The first start ends after its prefill, the second one learns."""
  config = config_with(
    task=f'{HERE}:Eight',
    variant='dreamerv2',
    finetune__prefill=40,
    finetune__env_steps=60,
    evaluate__episodes=0,
    finetune__video_every=0,
  )
  with pytest.raises(UserError, match='no episode is long enough') as error:
    run._run_one(config, tmp_path, stages.ALONE)
  config = follow(config, str(error.value))
  run.run(config, tmp_path)
  assert Checkpoint(tmp_path / runs.STUDENT).finished()


@pytest.mark.parametrize('begun', [False, True])
def test_remedies_against_updates_that_are_not_finite(begun, tmp_path):
  config = config_with(learner__dtype='bfloat16')
  runs.init_workdir(tmp_path, config)
  if begun:
    (tmp_path / 'teacher' / '3').mkdir(parents=True)
  with pytest.raises(UserError, match='lower rates') as error:
    with remedies.for_stage(config, tmp_path, 'pretrain'):
      raise NotFinite('not finite')
  text = str(error.value)
  assert ('--workdir=...' in text) == begun
  for flag in re.findall(r'--config\.learner\S+', text):
    changed = follow(config, flag)
    assert changed.learner != config.learner
    runs.init_workdir(tmp_path / 'new' if begun else tmp_path, changed)


@pytest.mark.parametrize(
  'overrides',
  [
    {'variant': 'vid2act_guided', 'learner__student__deter': 8},
    {'learner__transfer__rehearsal': 0.01},
    {'learner__transfer__generator_until': 0.0},
    {'replay__online_gb': 1e-5},
    {'replay__held_out': 0.5, 'collect__episodes': 1},
    {
      'sources': ('probe_wide',),
      'variant': 'vid2act_guided',
      'learner__transfer__rehearsal_domains': 'selected',
    },
    {'sources': ()},
    {'learner__transfer__states': 'prior', 'finetune__length': 30},
  ],
)
def test_named_flags_are_accepted(overrides, tmp_path):
  """The first flag of each message, as printed, solves its problem."""
  config = config_with(**overrides)
  found = problems_of(config, tmp_path / 'run')
  assert found
  for text in found:
    key = re.search(r'config\.([\w.]+)=([^\s,;]+)(?= or| and|,|;|$)', text[5:])
    flag = re.search(r'--config\S+', text) or key
    config = follow(config, f'--{flag[0].removeprefix("--")}')
  assert problems_of(config, tmp_path / 'run') == ()


@pytest.mark.parametrize('variant', ['vid2act_guided', 'finetune'])
def test_what_a_public_checkpoint_needs_is_named_at_once(variant, tmp_path):
  config = config_with(variant=variant, teacher_from='no.npz')
  text = problems_of(config, tmp_path / 'run')[0]
  for flag in re.findall(r'--config\S+', text):
    config = follow(config, flag)
  assert problems_of(config, tmp_path / 'run') == (
    'no.npz: not a file; pass a weights file.',
  )


def test_a_folder_whose_data_has_moved(tmp_path):
  """In whatever state, it goes on with the new place."""
  config = config_with()
  runs.init_workdir(tmp_path, config)
  (tmp_path / runs.STUDENT / '3').mkdir(parents=True)
  moved = {'source_dir': '/new', 'teacher_from': '/teacher'}
  runs.check_workdir(tmp_path, config_with(**moved))


def test_a_run_that_learns_from_short_episodes_goes_on(tmp_path):
  """Random episodes are short, but its policy's are not."""
  config = config_with(
    task=f'{HERE}:Short', variant='dreamerv2', replay__online_gb=1e-5
  )
  assert len(problems_of(config, tmp_path / 'run')) == 2
  (tmp_path / 'run' / runs.STUDENT / '3').mkdir(parents=True)
  assert problems_of(config, tmp_path / 'run') == ()
