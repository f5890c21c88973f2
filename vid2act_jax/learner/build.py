"""Builds agents from the `learner` section of a config."""

import dataclasses

import jax
import optax

from vid2act_jax.learner.agent import Agent
from vid2act_jax.learner.precision import PRECISIONS
from vid2act_jax.learner.pretrain import Pretrainer
from vid2act_jax.learner.settings import (
  BehaviorSettings,
  GeneratorFit,
  LossScales,
  LossSettings,
  Settings,
  TransferSettings,
)
from vid2act_jax.learner.variants import Variant
from vid2act_jax.nets.world_model import Compute, Sizes, WorldModel
from vid2act_jax.ops import conv
from vid2act_jax.rng import NoiseFns
from vid2act_jax.types import Problems, UserError

DEFAULT_NOISE_FNS, DEFAULT_VARIANT = NoiseFns(), Variant()
DTYPES = ('float32', 'bfloat16')
# Scan steps compiled in a row: on a GPU faster than one at a time. More take
# longer to compile. On a TPU, 10 are estimated to spare 4% of the cycles, and
# take 1.6 times the code.
_UNROLL = {'cpu': 0, 'gpu': 10, 'tpu': 1}


def build_pretrainer(
  config,
  source_action_dims: tuple[int, ...],
  noise_fns: NoiseFns = DEFAULT_NOISE_FNS,
  variant: Variant = DEFAULT_VARIANT,
  generator: bool = True,
  source_rewards: tuple[bool, ...] | None = None,
  platform: str | None = None,
) -> Pretrainer:
  """Builds the pretrainer of a teacher for these source domains.

  Args:
    config: the `learner` section of an experiment's config.
    source_action_dims: action size of each source domain.
    noise_fns: the samplers of noise.
    variant: of the agent that will use the teacher.
    generator: whether to train a generator of the source actions, too.
    source_rewards: whether each source domain has rewards; None: all have.
    platform: that the steps are compiled for: 'cpu', 'gpu' or 'tpu'; None:
      JAX's default backend.
  """
  return Pretrainer(
    _mixture(config, source_action_dims, variant, platform),
    tuple(source_action_dims),
    _loss_settings(config),
    _optimizer(config, 'model'),
    _transfer_settings(config) if generator else None,
    _generator_fit(config) if generator else None,
    noise_fns,
    source_rewards=source_rewards,
  )


def build_agent(
  config,
  action_dim: int,
  source_action_dims: tuple[int, ...],
  noise_fns: NoiseFns = DEFAULT_NOISE_FNS,
  variant: Variant = DEFAULT_VARIANT,
  num_updates: int = 0,
  platform: str | None = None,
) -> Agent:
  """Builds the agent for a new task.

  Args:
    config: the `learner` section of an experiment's config.
    action_dim: the target task's action size.
    source_action_dims: action size of each source domain; ignored if the
      variant uses no sources.
    noise_fns: the samplers of noise.
    variant: which parts of the method are used; see `variants.parse`.
    num_updates: of the whole training; required if the variant has shares of
      the training (`Variant.needs_num_updates`).
    platform: see `build_pretrainer`.

  Raises:
    UserError: an unknown convolution implementation, a horizon below 2, an
      invalid scale of the discount loss, or sizes of the student that the
      variant cannot initialise from the teacher.
  """
  check_settings(config, variant)
  if variant.needs_num_updates and not num_updates:
    raise ValueError(
      'build_agent: the variant has shares of the training; give num_updates'
    )
  used = tuple(source_action_dims) if variant.uses_sources else ()
  pretrained, embed_dim = None, 0
  if variant.pretrained:
    pretrained = _mixture(config, used, variant, platform)
    embed_dim = pretrained.feat_dim if variant.start == 'stacked' else 0
    if variant.teachers == 'separate':
      pretrained = dataclasses.replace(pretrained, num_domains=0)
  return Agent(
    student=WorldModel(
      Sizes(**config.student),
      action_dim,
      embed_dim=embed_dim,
      predict_continue=config.scales.discount > 0,
      compute=_compute(config, platform),
    ),
    action_dim=action_dim,
    pretrained=pretrained,
    source_action_dims=used,
    settings=Settings(
      _loss_settings(config),
      _transfer_settings(config),
      BehaviorSettings(**config.behavior),
      num_updates,
    ),
    optimizers={
      name: _optimizer(config, name) for name in ('model', 'actor', 'critic')
    },
    noise_fns=noise_fns,
    variant=variant,
  )


def check_settings(config, variant: Variant) -> None:
  """Checks the `learner` section of a config, without building an agent.

  Raises:
    UserError: as in `build_agent`.
  """
  problems = Problems()
  with problems.collect():
    _compute(config)
  if config.behavior.horizon < 2:
    problems.add(
      f'config.learner.behavior.horizon={config.behavior.horizon}: a return'
      ' needs at least 2 states; set it to 2 or more'
    )
  discount_scale = config.scales.discount
  if not 0 <= discount_scale < float('inf'):
    problems.add(
      f'config.learner.scales.discount={discount_scale} is not valid; set it to'
      ' 0 (no discount head) or to the positive weight of the discount loss'
    )
  if variant.start == 'teacher' and config.student != config.teacher:
    hints = (
      f'--config.learner.student.{key}={size}'
      for key, size in config.teacher.items()
      if config.student[key] != size
    )
    problems.add(
      'config.learner.transfer.start=teacher (as in config.variant=finetune and'
      ' vid2act_guided) initialises the student from the teacher, so both need'
      f' the same sizes; set {" ".join(hints)}, or'
      ' config.learner.teacher to those of the student'
    )
  problems.raise_all()


def _mixture(config, source_action_dims, variant, platform):
  if not source_action_dims:
    raise UserError(
      'config.sources is empty, but a teacher needs at least one source'
      ' dataset; name tasks, or set --config.variant=dreamerv2 and'
      ' --config.stages="(\'finetune\',)" to learn without transfer'
    )
  return WorldModel(
    Sizes(**config.teacher),
    action_dim=max(source_action_dims) if variant.pretrain_actions else 0,
    num_domains=len(source_action_dims),
    compute=_compute(config, platform),
  )


def _compute(config, platform=None):
  platform = platform or jax.default_backend()
  on_cpu = platform == 'cpu'
  conv_impl = config.conv
  if conv_impl == 'auto':
    conv_impl = conv.BY_PLATFORM.get(platform, conv.BY_PLATFORM['gpu'])
  problems = Problems()
  if conv_impl not in conv.IMPLS:
    known = ', '.join(('auto', *conv.IMPLS))
    problems.add(
      f'config.learner.conv={conv_impl!r} is unknown; set it to one of {known}'
    )
  if config.dtype not in DTYPES:
    known = ', '.join(DTYPES)
    problems.add(
      f'config.learner.dtype={config.dtype!r} is unknown; set it to one of'
      f' {known}'
    )
  if config.matmul_precision not in PRECISIONS:
    known = ', '.join(PRECISIONS)
    raise UserError(
      f'config.learner.matmul_precision={config.matmul_precision!r} is unknown;'
      f' set it to one of {known}'
    )
  if config.unroll < -1:
    problems.add(
      f'config.learner.unroll={config.unroll} is not valid; set it to -1, 0 or'
      ' more'
    )
  problems.raise_all()
  auto = _UNROLL.get(platform, _UNROLL['gpu'])
  return Compute(
    dtype=config.dtype,
    precision=config.matmul_precision,
    conv_impl=conv_impl,
    chunk=config.cpu_chunk if on_cpu else 0,
    unroll=auto if config.unroll == -1 else config.unroll,
  )


def _loss_settings(config):
  scales = LossScales(**config.scales)
  return LossSettings(scales, config.kl.balance, config.kl.free)


def _transfer_settings(config):
  t = config.transfer
  return TransferSettings(t.vae_hidden, t.guidance_size, t.vae_kl)


def _generator_fit(config):
  fit = config.generator
  return GeneratorFit(
    fit.steps,
    fit.batch,
    fit.kl,
    optax.adam(fit.lr, eps=config.optim.eps),
  )


def _optimizer(config, name):
  optim = config.optim
  return optax.chain(
    optax.clip_by_global_norm(optim[f'{name}_clip']),
    optax.adam(optim[f'{name}_lr'], eps=optim.eps),
  )
