"""Starting a student from what was pretrained, instead of from chance.

The student has no domain label. It takes the pretrained model's parameters as
if every label were on by 1/N: a label is a bias, so the student computes what
the teacher would with the mean of its biases.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.types import Params

_OWN = ('discount',)  # Groups that a teacher does not have.


def start_from(
  model: WorldModel, fresh: Params, teacher: WorldModel, taught: Params
) -> Params:
  """A model's parameters, taken from a pretrained one.

  Args:
    model: without domains, of the teacher's sizes; its action may be another.
    fresh: its initial parameters. Kept are the rows of action dimensions that
      the teacher does not have, and the prediction of ends.
    teacher: the pretrained model, with N domains.
    taught: its parameters; only groups that `fresh` has, too, are read.
  """
  out = {name: taught[name] for name in fresh if name not in _OWN}
  out['encoder'] = _unlabel_encoder(taught['encoder'], teacher.num_domains)
  out['rssm'] = _unlabel_rssm(model, fresh['rssm'], teacher, taught['rssm'])
  # Donated buffers must not alias.
  return {**fresh, **jax.tree.map(jnp.array, out)}


def _unlabel_encoder(params, domains) -> Mapping:
  first = params['layers_0']
  planes, kernel = jnp.split(first['kernel'], [domains], 2)
  bias = first['bias'] + planes.sum((0, 1)).mean(0)
  return {**params, 'layers_0': {'kernel': kernel, 'bias': bias}}


def _unlabel_rssm(model, fresh, teacher, params) -> Mapping:
  stoch, known = teacher.sizes.stoch, teacher.action_dim
  latent, action, labels = jnp.split(
    params['inp']['kernel'], [stoch, stoch + known]
  )
  own = fresh['inp']['kernel'][stoch:]
  shared = min(known, model.action_dim)
  kernel = jnp.concatenate([latent, action[:shared], own[shared:]])
  bias = params['inp']['bias'] + labels.mean(0)
  return {**params, 'inp': {'kernel': kernel, 'bias': bias}}
