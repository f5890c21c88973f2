"""Builds agents from the `learner` section of a config."""

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
from vid2act_jax.nets.world_model import Sizes, WorldModel
from vid2act_jax.ops import conv
from vid2act_jax.types import UserError

DEFAULT_DRAWS, DEFAULT_VARIANT = Draws(), Variant()
DTYPES = ('float32', 'bfloat16')
# Scan steps compiled in a row on an accelerator: faster than one at a time.
# More take longer to compile.
_UNROLL = 10


def build_pretrainer(
  config,
  source_action_dims: tuple[int, ...],
  draws: Draws = DEFAULT_DRAWS,
  variant: Variant = DEFAULT_VARIANT,
) -> Pretrainer:
  """Builds the pretrainer of a teacher for these source domains.

  Args:
    config: the `learner` section of an experiment's config.
    source_action_dims: action size of each source domain.
    draws: the samplers of noise.
    variant: of the agent that will use the teacher.
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
  """Builds the agent for a new task.

  Args:
    config: the `learner` section of an experiment's config.
    action_dim: the target task's action size.
    source_action_dims: action size of each source domain; ignored if the
      variant uses no sources.
    draws: the samplers of noise.
    variant: which parts of the method are used; see `variants.parse`.

  Raises:
    UserError: an unknown convolution implementation, a horizon below 2, an
      invalid scale of the discount loss, or sizes of the student that the
      variant cannot initialise from the teacher.
  """
  if config.behavior.horizon < 2:
    raise UserError(
      f'config.learner.behavior.horizon={config.behavior.horizon}: a return'
      ' needs at least 2 states; set it to 2 or more'
    )
  discount_scale = config.scales.discount
  if not 0 <= discount_scale < float('inf'):
    raise UserError(
      f'config.learner.scales.discount={discount_scale} is not valid; set it to'
      ' 0 (no discount head) or to the positive weight of the discount loss'
    )
  used = tuple(source_action_dims) if variant.pretrained else ()
  pretrained = _teacher(config, used, variant) if variant.pretrained else None
  if variant.start == 'teacher' and config.student != config.teacher:
    raise UserError(
      'config.variant=finetune initialises the student from the teacher; set'
      ' config.learner.student and config.learner.teacher to the same sizes'
    )
  embed_dim = pretrained.feat_dim if variant.start == 'stacked' else 0
  return Agent(
    student=_world_model(
      config,
      config.student,
      action_dim,
      embed_dim=embed_dim,
      predict_continue=discount_scale > 0,
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
  action_dim = max(source_action_dims) if variant.actions else 0
  return _world_model(
    config, config.teacher, action_dim, len(source_action_dims)
  )


def _world_model(
  config, sizes, action_dim, num_domains=0, embed_dim=0, predict_continue=False
):
  on_cpu = jax.default_backend() == 'cpu'
  conv_impl = config.conv
  if conv_impl == 'auto':
    conv_impl = 'subpixel' if on_cpu else 'native'
  if conv_impl not in conv.IMPLS:
    known = ', '.join(('auto', *conv.IMPLS))
    raise UserError(
      f'config.learner.conv={conv_impl!r} is unknown; set it to one of {known}'
    )
  if config.dtype not in DTYPES:
    known = ', '.join(DTYPES)
    raise UserError(
      f'config.learner.dtype={config.dtype!r} is unknown; set it to one of'
      f' {known}'
    )
  if config.unroll < -1:
    raise UserError(
      f'config.learner.unroll={config.unroll} is not valid; set it to -1, 0 or'
      ' more'
    )
  auto = 0 if on_cpu else _UNROLL
  unroll = auto if config.unroll == -1 else config.unroll
  chunk = config.cpu_chunk if on_cpu else 0
  return WorldModel(
    Sizes(**sizes),
    action_dim,
    num_domains,
    conv_impl,
    chunk,
    config.dtype,
    embed_dim,
    unroll,
    predict_continue,
  )


def _model_loss(config):
  scales = Scales(**config.scales)
  return ModelLoss(scales, config.kl.balance, config.kl.free)


def _adam(optim, name):
  return optax.chain(
    optax.clip_by_global_norm(optim[f'{name}_clip']),
    optax.adam(optim[f'{name}_lr'], eps=optim.eps),
  )
