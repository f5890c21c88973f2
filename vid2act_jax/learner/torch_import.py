"""Imports checkpoints of the public PyTorch code (panmt/Vid2Act).

Such a checkpoint is a mapping of names to arrays. Its layouts: Dense [out,
in], convolution [out, in, k, k], transposed convolution [in, out, k, k];
embeddings flattened channel-first.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import traverse_util

from vid2act_jax.types import Params, UserError

# Public name -> path in the parameter trees; for weight and bias.
_DENSE = {
  '_inp_layers.0': 'inp',
  '_cell._layer': 'cell/dense',
  '_img_out_layers.0': 'prior_hidden',
  '_obs_out_layers.0': 'post_hidden',
  '_ims_stat_layer': 'prior_out',
  '_obs_stat_layer': 'post_out',
}
# Public name -> path, and the conversion of the array's layout.
_Table = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]
_VAE = ('e1', 'e2', 'mean', 'log_std', 'd1', 'd2', 'd3')


def load(
  weights: Mapping[str, np.ndarray], agent, only: tuple[str, ...] = ()
) -> dict[str, Params]:
  """Converts public weights to this project's names and layouts.

  Args:
    weights: arrays by public name; unknown names are ignored.
    agent: the `Agent` whose sizes the weights must have.
    only: the groups to convert, see below; () for all.

  Returns:
    Groups of parameters as NumPy arrays: `teacher`, `model`, `actor`,
    `critic`, `slow_critic`.

  Raises:
    UserError: arrays are missing or have wrong shapes; it lists all of them.
  """
  if not agent.teacher:
    raise UserError(
      'a public checkpoint holds a frozen teacher and the transfer modules, but'
      ' this variant has neither; set config.variant=vid2act to use it'
    )
  template = jax.eval_shape(lambda: _init(agent))
  errors, out = [], {}
  for group, table in _tables(agent).items():
    if only and group not in only:
      continue
    flat = traverse_util.flatten_dict(template[group], sep='/')
    tree = {}
    for name, (path, convert) in table.items():
      if name not in weights:
        errors.append(f'missing: {name}')
        continue
      value = np.asarray(weights[name], np.float32)
      if value.ndim == len(flat[path].shape):
        value = convert(value)
      if value.shape != flat[path].shape:
        errors.append(
          f'wrong shape: {name} {np.shape(weights[name])}, which gives'
          f' {path} {value.shape} instead of {flat[path].shape}'
        )
      tree[path] = value
    out[group] = traverse_util.unflatten_dict(tree, sep='/')
  if errors:
    raise UserError(
      'the public checkpoint does not match the config (sizes under'
      ' config.learner.teacher and config.learner.student):\n  '
      + '\n  '.join(errors)
    )
  return out


def load_teacher(weights: Mapping[str, np.ndarray], agent) -> Params:
  """The frozen teacher {encoder, rssm} of a public checkpoint."""
  return load(weights, agent, ('teacher',))['teacher']


def _init(agent):
  key = jax.random.key(0)
  teacher = agent.teacher.init(key)
  state = agent.init(key, teacher)
  return {
    **state.params,
    'teacher': state.teacher,
    'slow_critic': state.slow_critic,
  }


def _tables(agent):
  teacher, student = agent.teacher, agent.student
  model = {
    **_world(
      'world_model.encoder', 'world_model.dynamics', student, 'world_model/'
    ),
    **_heads(student),
    **_linear('world_model.imp', 'transfer/similarity/dense'),
    **_linear('world_model.distiller', 'transfer/distill/out'),
  }
  for name in _VAE:
    model |= _linear(f'world_model.vae.{name}', f'transfer/vae/{name}')
  b = agent.settings.behavior
  layers = agent.settings.behavior.critic_layers
  actor = _mlp('behavior.actor._pre_layers', 'mlp', b.actor_layers, False)
  return {
    'teacher': _world(
      'world_model.encoder_teachers',
      'world_model.dynamics_teachers',
      teacher,
      '',
    ),
    'model': model,
    'actor': actor | _linear('behavior.actor._dist_layer', 'mlp/out'),
    'critic': _mlp('behavior.value._mean_layers', 'mlp', layers),
    'slow_critic': _mlp('behavior._slow_value._mean_layers', 'mlp', layers),
  }


def _world(encoder, dynamics, model, prefix):
  table: _Table = {}
  for i in range(4):
    path = f'{prefix}encoder/layers_{i}'
    table |= _pair(f'{encoder}.layers.{2 * i}', path, _conv)
  for name, path in _DENSE.items():
    table |= _linear(f'{dynamics}.{name}', f'{prefix}rssm/{path}')
  name = f'{dynamics}._obs_out_layers.0.weight'
  table[name] = (table[name][0], lambda x: _embed_rows(x.T, model))
  norm, path = f'{dynamics}._cell._norm', f'{prefix}rssm/cell/norm'
  table[f'{norm}.weight'] = (f'{path}/scale', np.asarray)
  table[f'{norm}.bias'] = (f'{path}/bias', np.asarray)
  return table


def _heads(model):
  image, reward = 'world_model.heads.image', 'world_model.heads.reward'
  table = _linear(f'{image}._linear_layer', 'world_model/decoder/inp')
  for i in range(4):
    path = f'world_model/decoder/layers_{i}'
    table |= _pair(f'{image}._cnnt_layers.{2 * i}', path, _conv_transpose)
  path, layers = 'world_model/reward/mlp', model.sizes.reward_layers
  return table | _mlp(f'{reward}._mean_layers', path, layers)


def _mlp(name, path, layers, output=True):
  table: _Table = {}
  for i in range(layers):
    table |= _linear(f'{name}.{2 * i}', f'{path}/hidden{i}')
  if output:
    table |= _linear(f'{name}.{2 * layers}', f'{path}/out')
  return table


def _linear(name, path):
  return _pair(name, path, np.transpose)


def _pair(name, path, convert):
  return {
    f'{name}.weight': (f'{path}/kernel', convert),
    f'{name}.bias': (f'{path}/bias', np.asarray),
  }


def _conv(x):
  return x.transpose(2, 3, 1, 0)


def _conv_transpose(x):
  return x.transpose(2, 3, 0, 1)


def _embed_rows(kernel, model):
  """Reorders the rows for the embedding from channel-first to channel-last."""
  split = model.sizes.deter
  if len(kernel) != split + model.encoder.embed_dim:
    return kernel  # The caller reports the wrong shape.
  deter, embed = np.split(kernel, [split])
  embed = embed.reshape(-1, 2, 2, kernel.shape[1]).transpose(1, 2, 0, 3)
  return np.concatenate([deter, embed.reshape(-1, kernel.shape[1])])
