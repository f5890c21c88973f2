"""Checks of a config's values and names, without looking at any data."""

import difflib
import pathlib

from vid2act_jax import behaviours, learner
from vid2act_jax import envs as environments
from vid2act_jax.data import bucket, dataset
from vid2act_jax.learner import open_loop
from vid2act_jax.loops import (
  backends,
  config_keys,
  embedding,
  policies,
  runs,
  setup,
  sources,
  stages,
)
from vid2act_jax.types import Problems, UserError

# Numbers by the least value that they may have; for a section, all in it.
_AT_LEAST = {
  0: (
    'seed',
    'skip_limit',
    'env.replacements',
    'learner.cpu_chunk',
    'learner.kl.free',
    'learner.scales',
    'learner.generator.kl',
    'learner.transfer.vae_kl',
    'collect.workers',
    'collect.noise',
    'pretrain.video_every',
    'finetune.video_every',
    'finetune.prefill',
    'finetune.first_updates',
    'evaluate.every',
  ),
  1: (
    'env.num',
    'learner.teacher',
    'learner.student',
    'learner.transfer.vae_hidden',
    'learner.transfer.guidance_size',
    'learner.generator.steps',
    'learner.generator.batch',
    'learner.generator.frames',
    'learner.behavior.slow_period',
    'learner.behavior.actor_layers',
    'learner.behavior.critic_layers',
    'collect.episodes',
    'collect.agent_env_steps',
    'pretrain.steps',
    'pretrain.batch',
    'pretrain.updates_per_call',
    'pretrain.log_every',
    'pretrain.save_every',
    'finetune.env_steps',
    'finetune.update_every',
    'finetune.batch',
    'finetune.updates_per_call',
    'finetune.log_every',
    'finetune.save_every',
    'evaluate.envs',
  ),
}
_POSITIVE = (
  'env.timeout',
  'learner.generator.lr',
  'learner.optim',
  'replay.source_gb',
  'replay.online_gb',
)
_SHARES = (
  'learner.behavior.discount',
  'learner.behavior.lambda_',
  'learner.kl.balance',
)


def check_config(config, workdir: pathlib.Path) -> None:
  """Finds errors in values and names.

  Args:
    config: the run's.
    workdir: the run's folder; it may be missing.

  Raises:
    UserError: names the keys and their valid values, all of them.
  """
  problems = Problems()
  with problems.collect():
    backends.check(config.logger.backends)
  _check_stages(config, problems)
  _check_numbers(config, problems)
  for check in (
    _check_scratch,
    _check_learner,
    _check_transfer,
    setup.env_settings,
  ):
    with problems.collect():
      check(config)
  _check_tasks(config, workdir, problems)
  problems.raise_all()


def _check_stages(config, problems):
  known = list(stages.STAGES)
  for stage in config.stages:
    if stage not in known:
      matches = difflib.get_close_matches(str(stage), known, 1)
      hint = f'did you mean {matches[0]!r}? ' if matches else ''
      problems.add(
        f'config.stages has {stage!r}; {hint}stages are {", ".join(known)}'
      )
  order = [known.index(stage) for stage in config.stages if stage in known]
  if not config.stages or order != sorted(set(order)):
    problems.add(
      f'config.stages={tuple(config.stages)}: name at least one stage, each'
      f' once and in the order {", ".join(known)}'
    )


def _check_numbers(config, problems):
  """Adds the numbers that are out of their range."""
  values = {
    key: value
    for key, value in config_keys.leaves(config.to_dict()).items()
    if type(value) in (int, float)
  }

  def check(names, is_valid, valid):
    for key, value in values.items():
      # Not a number is never valid.
      if config_keys.matches(key, names) and not is_valid(value):
        problems.add(f'config.{key}={value}: it must be {valid}')

  for least, names in _AT_LEAST.items():
    # Late bindings are used at once.
    check(names, lambda x, n=least: n <= x < float('inf'), f'at least {least}')
  check(_POSITIVE, lambda x: 0 < x < float('inf'), 'positive')
  check(_SHARES, lambda x: 0 <= x <= 1, 'from 0 to 1')
  check(('env.size',), lambda x: x == 64, '64, which the networks are made for')
  check(
    ('pretrain.length', 'finetune.length'),
    lambda x: x > open_loop.CONTEXT,
    f'more than {open_loop.CONTEXT}, the context frames of an open-loop'
    ' prediction',
  )
  check(
    ('replay.held_out',),
    lambda x: 0 <= x < 1,
    'a share of the episodes, from 0 to below 1',
  )
  check(
    ('replay.device_gb',),
    lambda x: x == -1 or 0 <= x < float('inf'),
    'at least 0, or -1',
  )
  check(
    ('evaluate.episodes',),
    lambda x: x >= 0,
    'a positive number, or 0 for no evaluations',
  )
  if config.replay.embeddings not in embedding.DTYPES:
    problems.add(
      f'config.replay.embeddings={config.replay.embeddings!r}: must be one of'
      f' {", ".join(embedding.DTYPES)}'
    )


def _check_learner(config):
  learner.check_settings(config.learner, runs.variant_of(config))


def _check_scratch(config):
  if bucket.is_url(config.replay.scratch):
    raise UserError(
      f'config.replay.scratch={config.replay.scratch}: must be on a file system'
      ' of this machine'
    )


def _check_transfer(config):
  if 'finetune' not in config.stages:
    return
  variant = runs.variant_of(config)
  sources.rehearsal_size(config, variant)
  evidence = variant.teacher and variant.weights.kind == 'evidence'
  if evidence and len(config.sources) == 1:
    raise UserError(
      'config.learner.transfer.weights=evidence: config.sources has one task,'
      ' so there is nothing to weigh; name more sources, or set'
      f' --config.learner.transfer.weights=single:{config.sources[0]}'
    )
  if variant.pretrained and config.teacher_from:
    _check_teacher_from(config, variant)


def _check_teacher_from(config, variant):
  folders = sources.teacher_folders(config, variant)
  public = [str(x) for x in folders if sources.is_public(str(x))]
  if not public:
    return
  generator = variant.generates_actions and variant.generator.pretrained
  given, hints = [], []
  for wrong, field, value, hint in (
    (variant.teachers != 'mixture', 'teachers', variant.teachers, 'mixture'),
    (variant.start == 'teacher', 'start', 'teacher', 'fresh'),
    (not variant.pretrain_actions, 'pretrain_actions', False, True),
    (generator, 'generator_start', 'pretrained', 'fresh'),
    # A fresh generator must be trained.
    (generator and not variant.generator.until, 'generator_until', 0.0, 1.0),
  ):
    if wrong:
      given.append(f'config.learner.transfer.{field}={value}')
      hints.append(f'--config.learner.transfer.{field}={hint}')
  if given:
    raise UserError(
      f'config.teacher_from={public[0]}: a public checkpoint only holds'
      ' encoder and recurrent model of a frozen mixture, so it does not go'
      f' with {", ".join(given)}; name a run folder, or set'
      f' {" ".join(hints)}'
    )


def _check_tasks(config, workdir, problems):
  tasks, missing = [config.task], []
  try:
    uses_sources = sources.uses_sources(config)
  except UserError:  # It has been collected.
    uses_sources = True
  if uses_sources and not config.sources:
    with problems.collect():
      _raise_no_sources(config)
  elif uses_sources:
    # An existing dataset needs no environment: it may be imported.
    for task in config.sources:
      with problems.collect():
        folder = sources.source_folder(config, workdir, task)
        if not (folder / dataset.FILE).exists():
          missing.append(task)
    tasks += missing
    if config.collect.policy not in ('auto', 'agent'):
      with problems.collect():
        policies.parse(config.collect.policy)
  for task in dict.fromkeys(tasks):
    if not task:
      problems.add(
        'config.task or config.sources has an empty name; name tasks, and for'
        " no sources set --config.sources='()'"
      )
      continue
    with problems.collect():
      environments.check(task)
  for task in filter(None, missing):
    with problems.collect():
      policy = policies.resolve(config.collect.policy, task)
      if policy != 'agent':
        for path in policies.find_state_policies(policy, task).values():
          behaviours.read(path)


def _raise_no_sources(config):
  variant = runs.variant_of(config)
  key, hint = (
    'config.variant=' + config.variant,
    'config.variant=dreamerv2',
  )
  if not variant.pretrained:
    key = f'config.learner.transfer.rehearsal={variant.rehearsal.share}'
    hint = 'config.learner.transfer.rehearsal=0.'
  raise UserError(
    f'config.sources is empty, but {key} needs source tasks: name tasks, or'
    f' set --{hint}'
  )
