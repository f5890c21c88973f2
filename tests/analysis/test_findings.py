"""What the checks find in runs that are broken, and not in sound ones."""

import json
import re

import numpy as np
import pytest

from experiments import base
from tests import fake_runs
from vid2act_jax import learner
from vid2act_jax.analysis import findings, load_runs, transfer_findings
from vid2act_jax.analysis import model_sections as sections


@pytest.fixture
def make(tmp_path):
  """(rows, diagnosis, **config) -> the run, read from its files."""

  def make(rows=None, diagnosis=None, **config):
    path = tmp_path / str(len(list(tmp_path.iterdir())))
    rows = fake_runs.rows() if rows is None else rows
    fake_runs.write(path, fake_runs.config(**config), rows, diagnosis)
    return load_runs.load(path)

  return make


def _weights(values, entropy=None, names=fake_runs.SOURCES):
  """Rows of similarities: values [T, N]."""
  out = []
  for i, weights in enumerate(values):
    keys = (f'similarity/{name}' for name in names)
    row = dict(zip(keys, map(float, weights), strict=True))
    if entropy is not None:
      row['train/similarity_entropy'] = entropy
    out.append({'stage': 'finetune', 'step': i * 100, 'time': i, **row})
  return out


def _train(key, values, stage='finetune'):
  return [
    {'stage': stage, 'step': i, 'time': i, f'train/{key}': float(v)}
    for i, v in enumerate(values)
  ]


def _found(run, check):
  """What a check found, or None."""
  return findings.find(run).get(check)


def test_sound_runs_have_no_findings(make):
  run = make(fake_runs.rows(vae_kl=0.4, vae_loss=0.1), fake_runs.diagnosis())
  assert findings.find(run) == {} and run.problems == []


def test_one_weight_that_takes_all(make):
  early = [(0.34, 0.33, 0.33)] * 20
  run = make(_weights([*early, *[(0.98, 0.01, 0.01)] * 10]))
  assert 'dmc_walker_walk' in _found(run, 'weights collapsed')
  assert list(findings.find(run)) == ['weights collapsed']
  # It had recovered by the end, or it was not for long.
  again = make(_weights([*early, *[(0.98, 0.01, 0.01)] * 8, (0.5, 0.3, 0.2)]))
  assert _found(again, 'weights collapsed') is None
  late = make(_weights([*early, *[(0.98, 0.01, 0.01)] * 3]))
  assert _found(late, 'weights collapsed') is None


def test_entropy_that_is_gone(make):
  # On average alike, but in every state one source takes all.
  values = [(0.4, 0.3, 0.3)] * 12
  for settings in (
    {'variant': 'vid2act_guided'},
    {'learner': {'transfer': {'weights': 'evidence'}}},
  ):  # A posterior over the domains may be sure.
    run = make(_weights(values, 0.05), **settings)
    assert _found(run, 'weights collapsed') is None
  assert 'entropy' in _found(make(_weights(values, 0.05)), 'weights collapsed')
  assert _found(make(_weights(values, 0.5)), 'weights collapsed') is None


def test_fixed_weights_are_not_judged(make):
  rows = _weights([(1, 0, 0)] * 12, 0.0)
  for variant in ('single:dmc_walker_walk', 'frozen_weights'):
    assert findings.find(make(rows, variant=variant)) == {}
  rows = _weights([(1 / 3, 1 / 3, 1 / 3)] * 12)
  assert findings.find(make(rows, variant='uniform')) == {}
  assert _found(make(_weights([[1]], 0, ['a'])), 'weights collapsed') is None


def test_weights_that_mean_nothing(make):
  flat = [(0.335, 0.333, 0.332)] * 12
  assert _found(make(_weights(flat)), 'weights mean nothing')
  assert _found(make(_weights(flat, np.log(3))), 'weights mean nothing')
  once = make(_weights([*flat, (0.4, 0.3, 0.3)]))
  assert _found(once, 'weights mean nothing') is None
  # In single states they do choose.
  assert _found(make(_weights(flat, 0.3)), 'weights mean nothing') is None


def test_dead_vae_of_the_diagnosis(make):
  found = fake_runs.diagnosis()
  found['vae']['dmc_cheetah_run']['active'] = 0
  assert 'dmc_cheetah_run' in _found(make(None, found), 'dead VAE')
  found = fake_runs.diagnosis()
  found['vae']['dmc_hopper_stand'].update(error=0.3, variance=0.31)
  assert '97%' in _found(make(None, found), 'dead VAE')


def test_dead_vae_of_the_metrics_alone(make):
  rows = _train('vae_kl', [0.5, 0.1, 0.001, 0.002, 0.001])
  assert 'train/vae_kl' in _found(make(rows), 'dead VAE')
  assert (
    _found(make(_train('vae_kl', [0.001, 0.2, 0.3, 0.3])), 'dead VAE') is None
  )


@pytest.mark.parametrize(
  'values, found',
  [
    ([5, 6, 5, 6, 5, 6, 5, 80, 5], 'step 7'),
    ([5, 6, 5, 130, 5], '130 nats'),
    ([5, 6, 5, 6, 5, 6, 5, 20, 5], None),
    ([0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 3.0], None),  # Free nats.
    ([0.1, 5, 30], None),  # No median to speak of yet.
  ],
)
def test_exploding_kl(make, values, found):
  text = _found(make(_train('kl', values)), 'exploding KL')
  assert text is None if found is None else found in text


def test_skipped_updates(make):
  text = _found(make(_train('skipped', [0, 0, 0.002, 0])), 'skipped updates')
  assert 'finetune 0.05%' in text and 'many' not in text
  text = _found(
    make(_train('skipped', [0.5, 0], 'pretrain')), 'skipped updates'
  )
  assert 'pretrain many: 25.00%' in text
  assert _found(make(_train('skipped', [0, 0])), 'skipped updates') is None


def test_guidance_that_is_ignored(make):
  found = fake_runs.diagnosis(guidance={'shuffled': 0.01, 'across_states': 0.5})
  assert '2.0%' in _found(make(None, found), 'guidance ignored')
  found['guidance'].update(shuffled=0.05, across_domains=0.01)
  text = _found(make(None, found), 'guidance ignored')
  assert "another domain's" in text and '2.0%' in text
  found['guidance']['across_domains'] = 0.05
  assert _found(make(None, found), 'guidance ignored') is None
  assert _found(make(None, None), 'guidance ignored') is None


def test_no_better_than_random(make):
  assert _found(make(fake_runs.rows(level=-80)), 'no better than random')
  assert _found(make(fake_runs.rows()), 'no better than random') is None
  rows = [r for r in fake_runs.rows(level=-80) if 'random/return' not in r]
  assert _found(make(rows), 'no better than random') is None


@pytest.mark.parametrize(
  'damage',
  [
    [],
    {'vae': 3, 'guidance': [], 'prediction': None},
    {'vae': {'a': None, 'b': {'error': 'x', 'variance': 0}}},
    {'vae': {'a': {'edges': [0, 1], 'recorded': [[1, 2]], 'replayed': [[1]]}}},
    {'vae': {'a': {'edges': [1, 0], 'recorded': [[1]], 'replayed': [[1]]}}},
    {'prediction': {'student': [1, None], 'teachers': {'a': 'b'}}},
    {'prediction': {'student': [], 'last_frame': []}},
    {'guidance': {'shuffled': True, 'across_states': 1e300}},
  ],
)
def test_damaged_diagnoses_are_ignored(make, damage):
  run = make(None, damage)
  assert findings.find(run) == {}
  for part in ('prediction', 'guidance', 'vae'):
    assert sections.read_diagnosis(run, part) == {}


def test_reasons_for_missing_parts(make):
  assert 'analysis diagnose' in sections.undiagnosed([make()])['vae']
  run = make(None, {'vae': None, 'vae_missing': 'no VAE in this variant'})
  assert sections.undiagnosed([run])['vae'] == 'no VAE in this variant'


@pytest.mark.parametrize(
  'task, name',
  [
    ('dmc_walker_walk', 'dmc_walker_walk'),
    ('a@copy=1', 'a'),
    ('a@copy', 'a'),
    ('a@mass=1.0,gravity=2', 'a@gravity=2'),
    ('a@gravity=1', 'a'),
    ('a@gain=x,actions=1', 'a@actions=1,gain=x'),
  ],
)
def test_modifiers_that_change_nothing(task, name):
  assert sections.canonical_task(task) == name


def _verdicts(make, names, values, **config):
  rows = _weights([values] * 10, names=names)
  run = make(rows, sources=list(names), **config)
  return {row['what']: row['verdict'] for row in sections.relevance(run)}


def test_relevance_where_the_truth_is_known(make):
  names = ('t', 'other', 'other@copy=1', 'probe_noise')
  good = _verdicts(make, names, (0.5, 0.22, 0.2, 0.08), task='t')
  assert set(good.values()) == {'as expected'} and len(good) == 3
  bad = _verdicts(make, names, (0.1, 0.3, 0.15, 0.45), task='t')
  assert set(bad.values()) == {'NOT as expected'} and len(bad) == 3
  near = _verdicts(make, names, (0.35, 0.345, 0.3, 0.005), task='t')
  assert near['same task as the target'].startswith('too close')
  assert _verdicts(make, ('a', 'b'), (0.9, 0.1), task='t') == {}
  given = _verdicts(
    make, names, (0.7, 0.1, 0.1, 0.1), task='t', variant='uniform'
  )
  assert given == {}


def test_a_changed_target_is_another_task(make):
  names = ('t', 't@gravity=2')
  found = _verdicts(make, names, (0.3, 0.7), task='t@gravity=2')
  assert found == {'same task as the target': 'as expected'}


def test_duplicates_do_not_add_up(make):
  names = ('t', 'b', 'b@copy=1')
  found = _verdicts(make, names, (0.4, 0.3, 0.3), task='t')
  assert set(found.values()) == {'as expected'} and len(found) == 2
  found = _verdicts(make, ('t', 't@copy=1'), (0.5, 0.5), task='t')
  assert found == {'the same data twice': 'as expected'}


def test_entropy_of_mean_weights_where_none_was_logged(make):
  values, logged = sections.entropy(make(_weights([(0.5, 0.5, 0)] * 3)))
  assert not logged and values.index.tolist() == [0, 100, 200]
  np.testing.assert_allclose(values, np.log(2), rtol=1e-6)
  values, logged = sections.entropy(make(_weights([(0.5, 0.5, 0)], 0.25)))
  assert logged and values.tolist() == [0.25]
  assert json.dumps(sections.final_weights(make(_weights([(0.5, 0.5, 0)]))))


def test_hints_name_keys_that_exist():
  config = base.get_config()
  hints = [*findings.HINTS.values(), *transfer_findings.HINTS.values()]
  found = [
    m for hint in hints for m in re.findall(r'config\.([\w.]+)(=\S+)?', hint)
  ]
  assert len(found) > 10
  for key, value in found:
    node = config
    for name in key.rstrip('.').split('.'):
      node = node[name]
    if key.startswith('learner.transfer.') and value:
      field = {key.removeprefix('learner.transfer.'): value.strip('=,;')}
      learner.parse('vid2act', ('a', 'b'), field)
