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
from vid2act_jax.losses.world_model import Scales
from vid2act_jax.nets import conv
from vid2act_jax.nets.world_model import Sizes, WorldModel
from vid2act_jax.types import UserError

CHANCE = Draws()
DTYPES = ('float32', 'bfloat16')
VARIANTS = ('vid2act', 'dreamerv2')


def build_pretrainer(
  config, source_action_dims: tuple[int, ...], draws: Draws = CHANCE
) -> Pretrainer:
  """The pretraining of a teacher for these source domains.

  Args:
    config: the `learner` part of an experiment's config.
    source_action_dims: action size of each source domain.
    draws: where noise comes from.
  """
  return Pretrainer(
    _teacher(config, source_action_dims),
    tuple(source_action_dims),
    _model_loss(config),
    _adam(config.optim, 'model'),
    draws,
  )


def build_agent(
  config,
  action_dim: int,
  source_action_dims: tuple[int, ...],
  draws: Draws = CHANCE,
) -> Agent:
  """The learner of a new task.

  Args:
    config: the `learner` part of an experiment's config. `variant` says
      whether there is transfer ('vid2act') or none ('dreamerv2').
    action_dim: the target task's action size.
    source_action_dims: action size of each source domain; not looked at
      without transfer.
    draws: where noise comes from.

  Raises:
    UserError: an unknown variant or convolution form, or a horizon below 2.
  """
  if config.variant not in VARIANTS:
    known = ', '.join(VARIANTS)
    raise UserError(
      f'config.learner.variant={config.variant!r} is unknown; one of {known}'
    )
  if config.behavior.horizon < 2:
    raise UserError(
      f'config.learner.behavior.horizon={config.behavior.horizon}: a return'
      ' needs at least 2 states'
    )
  transfers = config.variant == 'vid2act'
  return Agent(
    student=_world_model(config, config.student, action_dim),
    action_dim=action_dim,
    teacher=_teacher(config, source_action_dims) if transfers else None,
    source_action_dims=tuple(source_action_dims) if transfers else (),
    loss=_model_loss(config),
    transfer=TransferSettings(**config.transfer),
    behavior=BehaviorSettings(**config.behavior),
    optimizers={k: _adam(config.optim, k) for k in _OPTIMIZERS},
    draws=draws,
  )


_OPTIMIZERS = ('model', 'actor', 'critic')


def _teacher(config, source_action_dims):
  if not source_action_dims:
    raise UserError(
      'config.sources is empty, but a teacher needs at least one source'
      ' dataset; name tasks, or set --config.learner.variant=dreamerv2 and'
      ' --config.stages="(\'finetune\',)" to learn without transfer'
    )
  width, domains = max(source_action_dims), len(source_action_dims)
  return _world_model(config, config.teacher, width, domains)


def _world_model(config, sizes, action_dim, num_domains=0):
  form = config.conv
  if form == 'auto':
    form = 'subpixel' if jax.default_backend() == 'cpu' else 'native'
  if form not in conv.FORMS:
    known = ', '.join(('auto', *conv.FORMS))
    raise UserError(f'config.learner.conv={form!r} is unknown; one of {known}')
  if config.dtype not in DTYPES:
    known = ', '.join(DTYPES)
    raise UserError(f'config.learner.dtype={config.dtype!r}; one of {known}')
  chunk = config.cpu_chunk if jax.default_backend() == 'cpu' else 0
  return WorldModel(
    Sizes(**sizes), action_dim, num_domains, form, chunk, config.dtype
  )


def _model_loss(config):
  scales = Scales(**config.scales)
  return ModelLoss(scales, config.kl.balance, config.kl.free)


def _adam(optim, name):
  return optax.chain(
    optax.clip_by_global_norm(optim[f'{name}_clip']),
    optax.adam(optim[f'{name}_lr'], eps=optim.eps),
  )
