"""Tests of importing checkpoints of the public PyTorch code."""

import json
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from tests import check_parity
from vid2act_jax.learner import torch_import
from vid2act_jax.types import UserError

_FILE = pathlib.Path(__file__).parents[1] / 'golden' / 'step_eps0.npz'
_GROUPS = ('teacher', 'model', 'actor', 'critic', 'slow_critic')
_POSTERIOR = 'world_model.dynamics._obs_out_layers.0.weight'


@pytest.fixture(scope='module')
def meta():
  with np.load(_FILE, allow_pickle=False) as file:
    return json.loads(file['meta'].tobytes())


@pytest.fixture(scope='module')
def all_weights():
  with np.load(_FILE, allow_pickle=False) as file:
    return {
      k.removeprefix('weight/'): file[k]
      for k in file.files
      # Constants of the public code, not parameters.
      if k.startswith('weight/') and not k.endswith('.label_use')
    }


@pytest.fixture
def weights(all_weights):
  return dict(all_weights)


@pytest.fixture(scope='module')
def agent(meta):
  return check_parity.agent_of(meta)


def _lines(error):
  return str(error.value).splitlines()[1:]


def test_all_parameters_have_the_right_shapes(weights, agent):
  groups = torch_import.load(weights, agent)
  assert tuple(groups) == _GROUPS
  key = jax.random.key(0)
  state = jax.eval_shape(lambda: agent.init(key, agent.teacher.init(key)))
  expected = {**state.params, 'teacher': state.teacher}
  expected['slow_critic'] = state.slow_critic
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(groups) == shapes(expected)
  # Every weight of the file is used exactly once.
  assert len(jax.tree.leaves(groups)) == len(weights)


def test_layouts(weights, agent, meta):
  groups = torch_import.load(weights, agent)
  model = groups['model']
  flat = traverse_util.flatten_dict(groups, sep='/')
  dense = weights['behavior.actor._dist_layer.weight']
  np.testing.assert_array_equal(flat['actor/mlp/out/kernel'], dense.T)
  kernel = weights['world_model.encoder_teachers.layers.0.weight']
  ours = flat['teacher/encoder/layers_0/kernel']  # the labels' planes first
  assert ours.shape == (4, 4, meta['num_domains'] + 3, meta['cnn_depth'])
  assert ours[1, 2, 4, 3] == kernel[3, 4, 1, 2]
  kernel = weights['world_model.heads.image._cnnt_layers.0.weight']
  ours = flat['model/world_model/decoder/layers_0/kernel']
  assert ours[1, 2, 7, 3] == kernel[7, 3, 1, 2]
  # The posterior reads the recurrent state, then the embedding.
  split, rng = meta['deter'], np.random.default_rng(0)
  deter, embed = rng.normal(size=split), rng.normal(size=(32, 2, 2))
  theirs = weights[_POSTERIOR] @ np.concatenate([deter, embed.ravel()])
  inputs = np.concatenate([deter, embed.transpose(1, 2, 0).ravel()])
  ours = inputs @ model['world_model']['rssm']['post_hidden']['kernel']
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_unknown_names_are_ignored(weights, agent):
  expected = torch_import.load(weights, agent)
  weights['world_model.more'] = np.zeros(3)
  more = torch_import.load(weights, agent)
  jax.tree.map(np.testing.assert_array_equal, more, expected)


def test_the_error_lists_all_missing_arrays(weights, agent):
  missing = [
    'behavior.actor._pre_layers.2.bias',
    'world_model.vae.log_std.weight',
    'world_model.dynamics_teachers._cell._norm.weight',
  ]
  for name in missing:
    del weights[name]
  with pytest.raises(UserError, match='config.learner') as error:
    torch_import.load(weights, agent)
  assert sorted(_lines(error)) == sorted(f'  missing: {x}' for x in missing)


def test_an_empty_checkpoint_is_an_error(weights, agent):
  with pytest.raises(UserError) as error:
    torch_import.load({}, agent)
  assert set(_lines(error)) == {f'  missing: {x}' for x in weights}


def test_the_error_lists_wrong_and_expected_shapes(weights, agent):
  name, norm = 'world_model.distiller.weight', 'world_model.distiller.bias'
  weights[name] = weights[name][:, 1:]
  weights[norm] = weights[norm][:-2]
  del weights['world_model.imp.bias']
  with pytest.raises(UserError) as error:
    torch_import.load(weights, agent)
  assert len(_lines(error)) == 3
  for line in _lines(error):
    if name in line:
      assert '(16, 15)' in line  # as it is in the file
      assert '(15, 16) instead of (16, 16)' in line
    elif norm in line:
      assert '(14,)' in line and 'instead of (16,)' in line
    else:
      assert line == '  missing: world_model.imp.bias'


@pytest.mark.parametrize(
  'name, shape',
  [
    ('world_model.encoder.layers.0.weight', (4, 48)),
    ('world_model.heads.image._cnnt_layers.2.weight', (7,)),
    ('world_model.imp.weight', ()),
    (_POSTERIOR, (138,)),
    (_POSTERIOR, (12, 2, 138)),
    ('behavior.value._mean_layers.0.weight', (16, 16, 1)),
  ],
)
def test_a_wrong_number_of_axes_is_an_error(weights, agent, name, shape):
  weights[name] = np.zeros(shape)
  with pytest.raises(UserError, match='wrong shape') as error:
    torch_import.load(weights, agent)
  assert len(_lines(error)) == 1
  assert name in _lines(error)[0] and str(shape) in _lines(error)[0]


@pytest.mark.parametrize(
  'key, value, named',
  [
    # The rows for the embedding cannot be reordered at another depth.
    ('cnn_depth', 3, _POSTERIOR),
    ('cnn_depth', 8, _POSTERIOR),
    ('deter', 12, _POSTERIOR),
    ('stoch', 5, 'world_model.imp.weight'),
    ('num_domains', 2, 'world_model.encoder_teachers.layers.0.weight'),
    ('action_dim', 6, 'behavior.actor._dist_layer.weight'),
    ('value_layers', 4, 'behavior.value._mean_layers.8.weight'),
  ],
)
def test_other_sizes_are_an_error(weights, meta, key, value, named):
  agent = check_parity.agent_of({**meta, key: value})
  with pytest.raises(UserError) as error:
    torch_import.load(weights, agent)
  assert any(named in line for line in _lines(error))


def test_load_teacher_reads_only_the_teacher(weights, agent):
  names = [k for k in weights if '_teachers' in k]
  teacher_weights = {k: weights[k] for k in names}
  teacher = torch_import.load_teacher(teacher_weights, agent)
  assert set(teacher) == {'encoder', 'rssm'}
  assert len(jax.tree.leaves(teacher)) == len(names)
  expected = torch_import.load(weights, agent)['teacher']
  jax.tree.map(np.testing.assert_array_equal, teacher, expected)
  del teacher_weights[names[0]]
  with pytest.raises(UserError) as error:
    torch_import.load_teacher(teacher_weights, agent)
  assert _lines(error) == [f'  missing: {names[0]}']
