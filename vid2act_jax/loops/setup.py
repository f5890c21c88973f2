"""Settings, datasets and the teacher of a run, from its config."""

import pathlib

import jax

from vid2act_jax import envs as environments
from vid2act_jax import learner
from vid2act_jax.data import dataset, quarantine, sources, weights
from vid2act_jax.data.replay import ReplayOptions
from vid2act_jax.learner import open_loop, torch_import
from vid2act_jax.loops import embedding, policies, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

# The policy of config.collect.policy='auto', by suite.
_POLICIES = {'dmc': 'agent', 'metaworld': 'scripted:0.5,noisy:0.3,random:0.2'}

_PERIODS = 'updates_per_call', 'log_every', 'save_every'
_POSITIVE = {'pretrain': _PERIODS, 'finetune': (*_PERIODS, 'update_every')}

_WITH = {True: 'with', False: 'without'}


def uses_sources(config) -> bool:
  """Whether this config uses source tasks."""
  return variant(config).pretrained


def variant(config) -> learner.Variant:
  """Returns the variant of the method that this config uses.

  Raises:
    UserError: the variant is unknown.
  """
  return learner.parse(config.variant, config.sources)


def check_config(config, workdir: pathlib.Path) -> None:
  """Finds errors that would otherwise appear only after hours.

  Args:
    config: the run's.
    workdir: the run's folder; it may be missing.

  Raises:
    UserError: names the key and its valid values.
  """
  tasks = [config.task]
  if uses_sources(config):
    if not config.sources:
      raise UserError(
        f'config.sources is empty, but config.variant={config.variant} needs'
        ' source tasks: name tasks, or set --config.variant=dreamerv2'
      )
    # An existing dataset needs no environment: it may be imported.
    tasks += [
      task
      for task in config.sources
      if not (source_folder(config, workdir, task) / dataset.FILE).exists()
    ]
    if config.collect.policy not in ('auto', 'agent'):
      policies.parse(config.collect.policy)
  for task in tasks:
    environments.check(task)
  if config.env.size != 64:
    raise UserError(
      f'config.env.size={config.env.size}: the networks are made for 64'
    )
  if min(config.env.num, config.evaluate.envs, config.evaluate.episodes) < 1:
    raise UserError(
      'config.env.num, config.evaluate.envs and config.evaluate.episodes must'
      ' be positive'
    )
  if config.replay.embeddings not in embedding.DTYPES:
    raise UserError(
      f'config.replay.embeddings={config.replay.embeddings!r}: must be one of'
      f' {", ".join(embedding.DTYPES)}'
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


def env_settings(config) -> environments.Settings:
  """Settings of the run's environments."""
  e = config.env
  return environments.Settings(
    e.size, e.action_repeat, e.time_limit, e.camera, e.quality
  )


def collect_policy(config, task: str) -> str:
  """Policy that collects this task's dataset, with 'auto' resolved."""
  if config.collect.policy != 'auto':
    return config.collect.policy
  return _POLICIES.get(task.split('_')[0], 'random')


def scratch_folder(config, workdir: pathlib.Path) -> pathlib.Path:
  """Folder that holds frames on disk for sampling."""
  return pathlib.Path(config.replay.scratch or workdir).expanduser()


def source_folder(config, workdir: pathlib.Path, task: str) -> pathlib.Path:
  """Folder of the dataset of a source task; it may not exist yet."""
  root = config.source_dir or workdir / 'sources'
  return pathlib.Path(root).expanduser() / task


def source_metadata(config, workdir: pathlib.Path) -> dict:
  """Metadata of every checkpoint: the sources' names and action sizes.

  Raises:
    UserError: a dataset is missing, or has another action repeat.
  """
  dims = []
  for task in config.sources if uses_sources(config) else ():
    folder = source_folder(config, workdir, task)
    metadata = dataset.read_metadata(folder)
    dims.append(metadata['action_dim'])
    # None: not known for some imports.
    if metadata['action_repeat'] not in (None, config.env.action_repeat):
      raise UserError(
        f'{folder}: collected with action_repeat={metadata["action_repeat"]},'
        f' but config.env.action_repeat={config.env.action_repeat}; set it to'
        ' the same, or collect again into another folder (config.source_dir)'
      )
  names = list(config.sources) if dims else []
  return {'sources': names, 'source_action_dims': dims}


def load_sources(config, workdir: pathlib.Path, embeds=None):
  """Opens the source datasets, in the order of the labels.

  Args:
    config: the run's.
    workdir: the run's folder.
    embeds: the embedding column of each `Replay`.

  Returns:
    N `Replay`s.

  Raises:
    UserError: a dataset is missing or damaged.
  """
  folders = [source_folder(config, workdir, t) for t in config.sources]
  for folder in folders:
    if reasons := quarantine.read_reasons(folder):
      text = f'{folder}: {len(reasons)} episodes in quarantine are not used'
      print(text, flush=True)
  replays, _ = sources.load_sources(
    folders,
    config.replay.source_gb * 1e9,
    config.seed,
    ReplayOptions(
      size=config.env.size,
      scratch=scratch_folder(config, workdir),
      cross_episodes=config.replay.cross_episodes,
    ),
    embeds,
  )
  return replays


def load_teacher(config, workdir: pathlib.Path, agent):
  """Loads the frozen teacher's parameters.

  They are from this run, another run or a public checkpoint.

  Raises:
    UserError: it is missing, has other sizes, or was pretrained on other
      domains.
  """
  origin = config.teacher_from
  if origin.endswith(weights.SUFFIXES):
    return torch_import.load_teacher(weights.read(origin), agent)
  folder = pathlib.Path(origin).expanduser() if origin else workdir
  dims = agent.source_action_dims
  pretrainer = learner.build_pretrainer(
    config.learner, dims, variant=agent.variant
  )
  target = jax.eval_shape(pretrainer.init, jax.random.key(0))
  checkpoint = Checkpoint(folder / runs.TEACHER)
  if checkpoint.latest() is None:
    raise UserError(
      f'no teacher in {checkpoint.directory}: run the stage that trains it'
      " (--config.stages=\"('pretrain','finetune')\"), or name a run folder"
      ' or a public .npz with --config.teacher_from=...'
    )
  metadata = checkpoint.finished()
  # Older versions always pretrained with actions, and did not record it.
  if metadata and metadata.get('actions', True) != agent.variant.actions:
    raise UserError(
      f'the teacher in {folder} was pretrained'
      f' {_WITH[not agent.variant.actions]} actions, but'
      f' config.variant={config.variant} needs one pretrained'
      f' {_WITH[agent.variant.actions]} them; pretrain it in another folder'
    )
  state, metadata, step = checkpoint.restore(target)
  if not checkpoint.finished():
    raise UserError(
      f'the teacher in {checkpoint.directory} is not complete ({step} updates):'
      ' finish its stage first (--config.stages="(\'pretrain\',)")'
    )
  if metadata['sources'] != list(config.sources):
    raise UserError(
      f'the teacher in {folder} was pretrained on {metadata["sources"]}, but'
      f' config.sources is {list(config.sources)}: its labels mean other'
      ' domains; set config.sources to the same tasks in the same order'
    )
  return state.params['model']
