"""Tests of what the fields of the transfer mean for a run's stages."""

import types

import pytest

from experiments import debug
from vid2act_jax.loops import config_checks, interaction, runs, sources, stages
from vid2act_jax.loops.schedule import Counters
from vid2act_jax.types import UserError


def config_with(teacher_from='', variant='vid2act', **fields):
  config = debug.get_config()
  config.variant, config.teacher_from = variant, teacher_from
  config.learner.transfer.update(fields)
  return config


GUIDED = {'variant': 'vid2act_guided', 'start': 'fresh'}


@pytest.mark.parametrize(
  'given, message',
  [
    ({'teacher_from': 'a.npz', 'start': 'teacher'}, 'start=fresh'),
    ({'teacher_from': 'a.npz', 'variant': 'finetune'}, 'teachers=mixture'),
    ({'teacher_from': 'a.npz', 'pretrain_actions': False}, 'actions=True'),
    ({'teacher_from': 'a.npz', **GUIDED}, 'generator_start=fresh'),
    ({'teacher_from': 'a,b.npz', 'teachers': 'separate'}, 'teachers=mixture'),
    ({'teacher_from': 'a,b'}, 'several run folders.*teachers=separate'),
    ({'teacher_from': 'a', 'teachers': 'separate'}, 'names 1 .*has 2 tasks'),
  ],
)
def test_teachers_that_do_not_go_with_the_variant(given, message, tmp_path):
  """They are found before anything is collected."""
  with pytest.raises(UserError, match=message) as error:
    config_checks.check_config(config_with(**given), tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'given',
  [
    {'teacher_from': 'a.npz'},
    {'teacher_from': 'a.npz', 'start': 'stacked'},
    {'teacher_from': 'a,b', 'teachers': 'separate'},
    {'teacher_from': 'a.npz', 'variant': 'dreamerv2'},
  ],
)
def test_teachers_that_go_with_the_variant(given, tmp_path):
  config_checks.check_config(config_with(**given), tmp_path)


def test_an_agent_that_collects_uses_no_sources(tmp_path, monkeypatch):
  config = config_with(
    teachers='mixture', rehearsal=0.5, weights='single:probe_wide'
  )
  config.collect.policy = 'agent'
  trained = []
  monkeypatch.setattr(
    stages, 'run_finetune', lambda config, *_: trained.append(config)
  )
  stages.run_collect(config, tmp_path)
  assert [c.task for c in trained] == list(config.sources)
  assert not any(runs.variant_of(c).uses_sources for c in trained)


def test_folders_of_separate_teachers_can_be_listed(tmp_path):
  task = 'dmc_cartpole_swingup@camera=1,gravity=0.75'
  folder = sources.teacher_folder(tmp_path, task)
  config = config_with(f'{folder},{folder}', teachers='separate')
  found = sources.teacher_folders(config, runs.variant_of(config))
  assert found == [folder, folder]


def test_a_moved_run_keeps_its_separate_teachers(tmp_path, monkeypatch):
  config, trained = config_with(teachers='separate'), []

  def stop(config, *_):
    trained.append(config)
    raise KeyboardInterrupt

  monkeypatch.setattr(stages.pretrain_setup, 'setup_pretrain', stop)
  for name in ('before', 'after'):
    with pytest.raises(KeyboardInterrupt):
      stages.run_pretrain(config, tmp_path / name)
    if name == 'before':
      (tmp_path / 'before').rename(tmp_path / 'after')
  assert [c.source_dir for c in trained] == [
    str(tmp_path / name / 'sources') for name in ('before', 'after')
  ]


@pytest.mark.parametrize('is_random', [True, False])
def test_returns_of_the_prefill_are_random_ones(is_random):
  acting = interaction.Interaction(
    types.SimpleNamespace(num=1, action_dim=2, faults=[]),
    types.SimpleNamespace(reset=lambda: None),
    replay=None,
    counters=Counters(agent_steps=8),
    prefill=8,
    seed=0,
    profiler=None,
    random_prefill=is_random,
  )
  acting._prefill_episodes, acting._hosts_ready = [{'return': 2.0}], 1
  means = acting.end_prefill_if_due()
  assert means == ({'return': 2.0} if is_random else {})
  assert acting.counters.warm == 8
