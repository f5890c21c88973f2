"""Initialises a student from a pretrained teacher.

The student has no domain label. It takes the teacher's parameters with every
entry of the label at 1/N. A label acts as a bias, so the student computes the
same function as the teacher with the mean of its label biases.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vid2act_jax.nets.world_model import WorldModel
from vid2act_jax.types import Params

# Groups of parameters that a teacher does not have.
_STUDENT_ONLY: tuple[str, ...] = ('discount',)


def start_from(
  fresh: Params, teacher: WorldModel, teacher_params: Params
) -> Params:
  """Returns parameters for a model, taken from a pretrained one.

  Args:
    fresh: initial parameters of the model, without domains, of the teacher's
      sizes; the action size may differ. Of these, the rows of action
      dimensions that the teacher does not have and the discount head are kept.
    teacher: the pretrained model, with N domains.
    teacher_params: its parameters; only the groups in `fresh` are used. Without
      `reward`, the head was not trained: the fresh one is kept.
  """
  kept = _STUDENT_ONLY
  if 'reward' not in teacher_params:
    kept = (*kept, 'reward')
  out = {name: teacher_params[name] for name in fresh if name not in kept}
  latent_dim = teacher.feat_dim - teacher.sizes.deter
  action_rows = fresh['rssm']['inp']['kernel'][latent_dim:]
  out |= unlabel(teacher, teacher_params, action_rows)
  # Donated buffers must not be the caller's.
  return jax.tree.map(jnp.array, {**fresh, **out})


def unlabel(
  teacher: WorldModel, params: Params, action_rows: jax.Array
) -> dict[str, Params]:
  """Returns {encoder, rssm} of a model without a label.

  Args:
    teacher: the pretrained model, with N domains.
    params: its parameters.
    action_rows: f32 [A, hidden], the kernel's rows of the model's actions; the
      teacher's rows replace them as far as it has them.
  """
  encoder = _unlabel_encoder(params['encoder'], teacher.num_domains)
  return {
    'encoder': encoder,
    'rssm': _unlabel_rssm(teacher, params['rssm'], action_rows),
  }


def _unlabel_encoder(params, domains) -> Mapping:
  first = params['layers_0']
  planes, kernel = jnp.split(first['kernel'], [domains], 2)
  bias = first['bias'] + planes.sum((0, 1)).mean(0)
  return {**params, 'layers_0': {'kernel': kernel, 'bias': bias}}


def _unlabel_rssm(teacher, params, action_rows) -> Mapping:
  action_dim = teacher.action_dim
  latent_dim = teacher.feat_dim - teacher.sizes.deter
  latent, action, labels = jnp.split(
    params['inp']['kernel'], [latent_dim, latent_dim + action_dim]
  )
  shared = min(action_dim, len(action_rows))
  kernel = jnp.concatenate([latent, action[:shared], action_rows[shared:]])
  bias = params['inp']['bias'] + labels.mean(0)
  return {**params, 'inp': {'kernel': kernel, 'bias': bias}}
