"""Checks of a config before a run starts."""

import pathlib

from vid2act_jax import behaviours, learner
from vid2act_jax import envs as environments
from vid2act_jax.data import dataset
from vid2act_jax.learner import open_loop
from vid2act_jax.loops import (
  backends,
  embedding,
  policies,
  runs,
  sources,
  stages,
)
from vid2act_jax.types import UserError

_PERIODS = 'updates_per_call', 'log_every', 'save_every'
_POSITIVE = {'pretrain': _PERIODS, 'finetune': (*_PERIODS, 'update_every')}


def check_config(config, workdir: pathlib.Path) -> None:
  """Finds errors that would otherwise appear only after hours.

  Args:
    config: the run's.
    workdir: the run's folder; it may be missing.

  Raises:
    UserError: names the key and its valid values.
  """
  unknown = [stage for stage in config.stages if stage not in stages.STAGES]
  if unknown:
    known = ', '.join(stages.STAGES)
    raise UserError(f'config.stages has {unknown}; stages are {known}')
  backends.check(config.logger.backends)
  _check_tasks(config, workdir)
  _check_learner(config)
  if config.env.size != 64:
    raise UserError(
      f'config.env.size={config.env.size}: the networks are made for 64'
    )
  if min(config.env.num, config.evaluate.envs) < 1:
    raise UserError('config.env.num and config.evaluate.envs must be positive')
  if config.evaluate.episodes < 0:
    raise UserError(
      f'config.evaluate.episodes={config.evaluate.episodes}: set it to a'
      ' positive number, or to 0 for no evaluations'
    )
  if config.replay.embeddings not in embedding.DTYPES:
    raise UserError(
      f'config.replay.embeddings={config.replay.embeddings!r}: must be one of'
      f' {", ".join(embedding.DTYPES)}'
    )
  if not 0 <= config.replay.held_out < 1:
    raise UserError(
      f'config.replay.held_out={config.replay.held_out}: a share of the'
      ' episodes, from 0 to below 1'
    )
  for stage in ('pretrain', 'finetune'):
    settings = config[stage]
    if settings.batch < 1 or settings.length <= open_loop.CONTEXT:
      raise UserError(
        f'config.{stage}: batch={settings.batch} must be positive and'
        f' length={settings.length} more than {open_loop.CONTEXT}, the context'
        ' frames of an open-loop prediction'
      )
    for key in _POSITIVE[stage]:
      if settings[key] < 1:
        raise UserError(
          f'config.{stage}.{key}={settings[key]}: it must be at least 1'
        )
  limits = config.env.timeout, config.env.replacements, config.skip_limit
  if limits[0] <= 0 or min(limits) < 0:
    raise UserError(
      'config.env.timeout must be positive, config.env.replacements and'
      f' config.skip_limit not negative; they are {limits}'
    )


def _check_learner(config):
  variant = runs.variant_of(config)
  learner.check_settings(config.learner, variant)
  if 'finetune' not in config.stages:
    return
  sources.rehearsal_size(config, variant)
  evidence = variant.teacher and variant.weights.kind == 'evidence'
  if evidence and len(config.sources) < 2:
    raise UserError(
      'config.learner.transfer.weights=evidence: config.sources has one task,'
      ' so there is nothing to weigh; name more sources, or set'
      ' --config.learner.transfer.weights=uniform'
    )
  if variant.pretrained and config.teacher_from:
    _check_teacher_from(config, variant)


def _check_teacher_from(config, variant):
  folders = sources.teacher_folders(config, variant)
  public = [str(x) for x in folders if sources.is_public(str(x))]
  if not public:
    return
  generator = variant.generates_actions and variant.generator.pretrained
  for wrong, value, way_out in (
    (variant.teachers != 'mixture', f'teachers={variant.teachers}', 'mixture'),
    (variant.start == 'teacher', 'start=teacher', 'fresh'),
    (not variant.pretrain_actions, 'pretrain_actions=False', 'True'),
    (generator, 'generator_start=pretrained', 'fresh'),
  ):
    if wrong:
      key = f'config.learner.transfer.{value.split("=")[0]}'
      raise UserError(
        f'config.teacher_from={public[0]}: a public checkpoint only holds'
        ' encoder and recurrent model of a frozen mixture, so it does not go'
        f' with config.learner.transfer.{value}; name a run folder, or set'
        f' --{key}={way_out}'
      )


def _check_tasks(config, workdir):
  tasks, missing = [config.task], []
  if sources.uses_sources(config):
    if not config.sources:
      variant = runs.variant_of(config)
      key, way_out = (
        'config.variant=' + config.variant,
        'config.variant=dreamerv2',
      )
      if not variant.pretrained:
        key = f'config.learner.transfer.rehearsal={variant.rehearsal.share}'
        way_out = 'config.learner.transfer.rehearsal=0.'
      raise UserError(
        f'config.sources is empty, but {key} needs source tasks: name tasks, or'
        f' set --{way_out}'
      )
    # An existing dataset needs no environment: it may be imported.
    missing = [
      task
      for task in config.sources
      if not (
        sources.source_folder(config, workdir, task) / dataset.FILE
      ).exists()
    ]
    tasks += missing
    if config.collect.policy not in ('auto', 'agent'):
      policies.parse(config.collect.policy)
  for task in tasks:
    environments.check(task)
  for task in missing:
    policy = policies.resolve(config.collect.policy, task)
    if policy != 'agent':
      for path in policies.find_state_policies(policy, task).values():
        behaviours.read(path)
