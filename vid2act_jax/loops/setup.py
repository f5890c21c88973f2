"""What the stages work on, as the config names it: settings, data, teacher."""

import pathlib

import jax

from vid2act_jax import envs as environments
from vid2act_jax import learner
from vid2act_jax.data import dataset, quarantine, sources, weights
from vid2act_jax.learner import open_loop, torch_import
from vid2act_jax.loops import embedding, policies, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

# config.collect.policy='auto', by suite.
_POLICIES = {'dmc': 'agent', 'metaworld': 'scripted:0.5,noisy:0.3,random:0.2'}

_EVERY = 'updates_per_call', 'log_every', 'save_every'
_POSITIVE = {'pretrain': _EVERY, 'finetune': (*_EVERY, 'update_every')}

_WITH = {True: 'with', False: 'without'}


def uses_sources(config) -> bool:
  """Whether this config uses source tasks at all."""
  return variant(config).pretrained


def variant(config) -> learner.Variant:
  """What of the method this config uses.

  Raises:
    UserError: there is no such variant.
  """
  return learner.parse(config.variant, config.sources)


def check_config(config, workdir: pathlib.Path) -> None:
  """Finds mistakes that would else show only hours later.

  Args:
    config: the run's.
    workdir: the run's folder; need not be there.

  Raises:
    UserError: names the key and what it may be.
  """
  tasks = [config.task]
  if uses_sources(config):
    if not config.sources:
      raise UserError(
        'config.sources is empty, but there is something to transfer only from'
        ' sources: name tasks, or set --config.variant=dreamerv2'
      )
    # A dataset that is there needs no environment: it may be imported.
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
  if config.replay.embeddings not in embedding.TYPES:
    raise UserError(
      f'config.replay.embeddings={config.replay.embeddings!r}: one of '
      f'{", ".join(embedding.TYPES)}'
    )
  for stage in ('pretrain', 'finetune'):
    part = config[stage]
    if part.batch < 1 or part.length <= open_loop.CONTEXT:
      raise UserError(
        f'config.{stage}: batch={part.batch} must be positive and'
        f' length={part.length} more than {open_loop.CONTEXT}, the frames that'
        ' an open-loop prediction is given'
      )
    for key in _POSITIVE[stage]:
      if part[key] < 1:
        raise UserError(
          f'config.{stage}.{key}={part[key]}: it must be at least 1'
        )
  limits = config.env.timeout, config.env.replacements, config.skip_limit
  if limits[0] <= 0 or min(limits) < 0:
    raise UserError(
      'config.env.timeout must be positive, config.env.replacements and'
      f' config.skip_limit not negative; they are {limits}'
    )


def env_settings(config) -> environments.Settings:
  """How the run's environments are shown and stepped."""
  e = config.env
  return environments.Settings(
    e.size, e.action_repeat, e.time_limit, e.camera, e.quality
  )


def collect_policy(config, task: str) -> str:
  """How this task's dataset is to be made; 'auto' is resolved."""
  if config.collect.policy != 'auto':
    return config.collect.policy
  return _POLICIES.get(task.split('_')[0], 'random')


def scratch_folder(config, workdir: pathlib.Path) -> pathlib.Path:
  """The folder on whose disk frames are held for sampling."""
  return pathlib.Path(config.replay.scratch or workdir).expanduser()


def source_folder(config, workdir: pathlib.Path, task: str) -> pathlib.Path:
  """Where the dataset of a source task is, or will be."""
  root = config.source_dir or workdir / 'sources'
  return pathlib.Path(root).expanduser() / task


def source_metadata(config, workdir: pathlib.Path) -> dict:
  """What every checkpoint must agree on: the sources' names and action sizes.

  Raises:
    UserError: a dataset is missing, or of other pictures or repeats.
  """
  dims = []
  for task in config.sources if uses_sources(config) else ():
    folder = source_folder(config, workdir, task)
    facts = dataset.read_metadata(folder)
    dims.append(facts['action_dim'])
    # Unknown (None) of some imports.
    if facts['action_repeat'] not in (None, config.env.action_repeat):
      raise UserError(
        f'{folder}: collected with action_repeat={facts["action_repeat"]}, but'
        f' config.env.action_repeat={config.env.action_repeat}; set it to the'
        ' same, or collect anew into another folder (config.source_dir)'
      )
  names = list(config.sources) if dims else []
  return {'sources': names, 'source_action_dims': dims}


def load_sources(config, workdir: pathlib.Path, embeds=None):
  """Opens the source datasets, in the labels' order.

  Args:
    config: the run's.
    workdir: the run's folder.
    embeds: what each keeps of its frames, as `Replay` takes it.

  Returns:
    N `Replay`s.

  Raises:
    UserError: a dataset is missing or damaged.
  """
  folders = [source_folder(config, workdir, t) for t in config.sources]
  for folder in folders:
    if aside := quarantine.reasons(folder):
      print(f'{folder}: without {len(aside)} in quarantine', flush=True)
  replays, _ = sources.load_sources(
    folders,
    config.replay.source_gb * 1e9,
    config.seed,
    config.env.size,
    scratch_folder(config, workdir),
    config.replay.cross_episodes,
    embeds,
  )
  return replays


def load_teacher(config, workdir: pathlib.Path, agent):
  """The frozen teacher's parameters: this run's, another's, or public ones.

  Raises:
    UserError: it is missing, has other sizes, or knows other domains.
  """
  origin = config.teacher_from
  if origin.endswith(weights.ENDINGS):
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
      f'no teacher in {checkpoint.directory}: run the stage that makes it'
      " (--config.stages=\"('pretrain','finetune')\"), or name a run folder"
      ' or a public .npz by --config.teacher_from=...'
    )
  notes = checkpoint.finished()
  # One of an older version has seen actions, and does not tell.
  if notes and notes.get('actions', True) != agent.variant.actions:
    raise UserError(
      f'the teacher in {folder} was pretrained'
      f' {_WITH[not agent.variant.actions]} actions, but'
      f' config.variant={config.variant} wants one pretrained'
      f' {_WITH[agent.variant.actions]} them; pretrain it in another folder'
    )
  state, notes, step = checkpoint.restore(target)
  if not checkpoint.finished():
    raise UserError(
      f'the teacher in {checkpoint.directory} is half done ({step} updates):'
      ' finish its stage first (--config.stages="(\'pretrain\',)")'
    )
  if notes['sources'] != list(config.sources):
    raise UserError(
      f'the teacher in {folder} was pretrained on {notes["sources"]}, but'
      f' config.sources is {list(config.sources)}: its labels mean other'
      ' domains; set config.sources to the same tasks in the same order'
    )
  return state.params['model']
