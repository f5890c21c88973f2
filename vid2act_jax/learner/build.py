"""From the `learner` part of a config to built objects."""

import jax
import optax

from vid2act_jax.learner.agent import (
  Agent,
  BehaviorSettings,
  Draws,
  ModelLoss,
  Pretrainer,
  TransferSettings,
)
from vid2act_jax.learner.variants import Variant
from vid2act_jax.losses.world_model import Scales
from vid2act_jax.nets import conv
from vid2act_jax.nets.world_model import Sizes, WorldModel
from vid2act_jax.types import UserError

DEFAULT_DRAWS, DEFAULT_VARIANT = Draws(), Variant()
DTYPES = ('float32', 'bfloat16')
# Steps compiled in a row on an accelerator: faster than one; more take longer
# to compile.
_UNROLL = 10


def build_pretrainer(
  config,
  source_action_dims: tuple[int, ...],
  draws: Draws = DEFAULT_DRAWS,
  variant: Variant = DEFAULT_VARIANT,
) -> Pretrainer:
  """The pretraining of a teacher for these source domains.

  Args:
    config: the `learner` part of an experiment's config.
    source_action_dims: action size of each source domain.
    draws: where noise comes from.
    variant: of the learner that it is for.
  """
  teacher = _teacher(config, source_action_dims, variant)
  return Pretrainer(
    teacher,
    tuple(min(dim, teacher.action_dim) for dim in source_action_dims),
    _model_loss(config),
    _adam(config.optim, 'model'),
    draws,
  )


def build_agent(
  config,
  action_dim: int,
  source_action_dims: tuple[int, ...],
  draws: Draws = DEFAULT_DRAWS,
  variant: Variant = DEFAULT_VARIANT,
) -> Agent:
  """The learner of a new task.

  Args:
    config: the `learner` part of an experiment's config.
    action_dim: the target task's action size.
    source_action_dims: action size of each source domain; not looked at where
      the variant uses none.
    draws: where noise comes from.
    variant: what of the method is used; see `variants.parse`.

  Raises:
    UserError: an unknown convolution form, a horizon below 2, a wrong scale of
      the ends, or sizes of the student that the variant cannot start from.
  """
  if config.behavior.horizon < 2:
    raise UserError(
      f'config.learner.behavior.horizon={config.behavior.horizon}: a return'
      ' needs at least 2 states'
    )
  ends = config.scales.discount
  if not 0 <= ends < float('inf'):
    raise UserError(
      f'config.learner.scales.discount={ends}: 0, or the weight of the loss'
    )
  used = tuple(source_action_dims) if variant.pretrained else ()
  pretrained = _teacher(config, used, variant) if variant.pretrained else None
  if variant.start == 'teacher' and config.student != config.teacher:
    raise UserError(
      'config.variant=finetune starts the student from the teacher: set'
      ' config.learner.student and config.learner.teacher to the same sizes'
    )
  given = pretrained.feat_dim if variant.start == 'stacked' else 0
  return Agent(
    student=_world_model(
      config,
      config.student,
      action_dim,
      given=given,
      ends=ends > 0,
    ),
    action_dim=action_dim,
    pretrained=pretrained,
    source_action_dims=used,
    loss=_model_loss(config),
    transfer=TransferSettings(**config.transfer),
    behavior=BehaviorSettings(**config.behavior),
    optimizers={k: _adam(config.optim, k) for k in _OPTIMIZERS},
    draws=draws,
    variant=variant,
  )


_OPTIMIZERS = ('model', 'actor', 'critic')


def _teacher(config, source_action_dims, variant):
  if not source_action_dims:
    raise UserError(
      'config.sources is empty, but a teacher needs at least one source'
      ' dataset; name tasks, or set --config.variant=dreamerv2 and'
      ' --config.stages="(\'finetune\',)" to learn without transfer'
    )
  width = max(source_action_dims) if variant.actions else 0
  return _world_model(config, config.teacher, width, len(source_action_dims))


def _world_model(config, sizes, action_dim, num_domains=0, given=0, ends=False):
  on_cpu = jax.default_backend() == 'cpu'
  form = config.conv
  if form == 'auto':
    form = 'subpixel' if on_cpu else 'native'
  if form not in conv.FORMS:
    known = ', '.join(('auto', *conv.FORMS))
    raise UserError(f'config.learner.conv={form!r} is unknown; one of {known}')
  if config.dtype not in DTYPES:
    known = ', '.join(DTYPES)
    raise UserError(f'config.learner.dtype={config.dtype!r}; one of {known}')
  if config.unroll < -1:
    raise UserError(f'config.learner.unroll={config.unroll}: -1, 0 or more')
  auto = 0 if on_cpu else _UNROLL
  unroll = auto if config.unroll == -1 else config.unroll
  chunk = config.cpu_chunk if on_cpu else 0
  return WorldModel(
    Sizes(**sizes),
    action_dim,
    num_domains,
    form,
    chunk,
    config.dtype,
    given,
    unroll,
    ends,
  )


def _model_loss(config):
  scales = Scales(**config.scales)
  return ModelLoss(scales, config.kl.balance, config.kl.free)


def _adam(optim, name):
  return optax.chain(
    optax.clip_by_global_norm(optim[f'{name}_clip']),
    optax.adam(optim[f'{name}_lr'], eps=optim.eps),
  )
