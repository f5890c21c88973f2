"""The stages of a run, each from a config and a folder.

The only place that turns configs into built objects for the loops. A stage
whose result is there is skipped, one that is half done is resumed.
"""

import contextlib
import pathlib
import sys

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax import learner
from vid2act_jax.data import dataset, sources
from vid2act_jax.data.replay import Replay
from vid2act_jax.learner import public
from vid2act_jax.loops import acting, collect, finetune, pretrain, runs
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.logger import Logger
from vid2act_jax.types import UserError

METHODS = ('auto', 'agent', 'random', 'scripted', 'checkpoint')


def run_collect(config, workdir: pathlib.Path):
  """Builds the source datasets that are not there.

  Args:
    config: the run's.
    workdir: the run's folder.
  """
  if not transfers(config):
    print('collect: nothing to do without transfer', flush=True)
    return
  todo = []
  for task in config.sources:
    folder = source_folder(config, workdir, task)
    if (folder / dataset.FILE).exists():
      about = dataset.read_metadata(folder, partial=True)
      if about['complete']:
        text = f'{task}: {about["episodes"]} episodes are there in {folder}'
        print(f'collect: {text}', flush=True)
        continue
    todo.append((task, folder))
  for task, folder in todo:
    method = collect_method(config, task)
    if method == 'agent':
      _collect_by_agent(config, task, folder)
      continue
    with Logger(workdir, 'collect', resume_step=sys.maxsize) as logger:
      collect.collect(config, task, folder, method, logger)


def collect_method(config, task: str) -> str:
  """How this task's dataset is to be made; 'auto' is resolved."""
  method = config.collect.method
  if method not in METHODS:
    known = ', '.join(METHODS)
    raise UserError(f'config.collect.method={method!r}; one of {known}')
  if method != 'auto':
    return method
  kinds = {'dmc': 'agent', 'metaworld': 'scripted'}
  return kinds.get(task.split('_')[0], 'random')


def _collect_by_agent(config, task, folder):
  """Keeps the whole replay of an agent that learns the task from scratch."""
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.task, own.sources = task, ()
    own.learner.variant = 'dreamerv2'
    own.finetune.env_steps = config.collect.agent_env_steps
    own.finetune.capacity = config.collect.agent_env_steps
  run_finetune(own, folder / 'agent', folder)
  with environments.VectorEnv(task, env_settings(own), 1, 0, False) as envs:
    collected = {
      'method': 'agent',
      'env_steps': own.finetune.env_steps,
      'seed': own.seed,
    }
    dataset.write_metadata(folder, task, collected, envs.description, True)


def run_pretrain(config, workdir: pathlib.Path):
  """Trains the teacher on the source datasets.

  Args:
    config: the run's.
    workdir: the run's folder.
  """
  if not transfers(config) or config.teacher_from:
    why = 'the teacher is given' if config.teacher_from else 'no transfer'
    print(f'pretrain: nothing to do, {why}', flush=True)
    return
  checkpoint = Checkpoint(workdir / runs.TEACHER)
  done = checkpoint.finished()
  if done and done['step'] >= config.pretrain.steps:
    print(f'pretrain: done, {done["step"]} updates', flush=True)
    return
  p = config.pretrain
  replays, about = load_sources(config, workdir, p.capacity)
  dims = tuple(a['action_dim'] for a in about)
  pretrainer = learner.build_pretrainer(config.learner, dims)
  notes = {'sources': list(config.sources), 'source_action_dims': list(dims)}
  state, resumed = runs.start(
    checkpoint, pretrainer.init, config.seed, notes, 'pretrain'
  )
  schedule = pretrain.Schedule(
    steps=p.steps,
    batch=p.batch,
    length=p.length,
    log_every=p.log_every,
    video_every=p.video_every,
    save_every=p.save_every,
    seed=config.seed,
  )
  step = int(state.step) if resumed else None
  with Logger(workdir, 'pretrain', step) as logger:
    pretrain.pretrain(
      pretrainer, state, replays, logger, checkpoint, schedule, notes
    )
  checkpoint.finish(p.steps, notes)


def run_finetune(config, workdir: pathlib.Path, replay_dir=None):
  """Learns the target task online.

  Args:
    config: the run's.
    workdir: the run's folder.
    replay_dir: of the online episodes; None: replay/ in the run's folder.
  """
  f = config.finetune
  checkpoint = Checkpoint(workdir / runs.STUDENT)
  done = checkpoint.finished()
  if done and done['env_steps'] >= f.env_steps:
    text = f'{done["env_steps"]} env steps on {config.task}'
    print(f'finetune: done, {text}', flush=True)
    return
  replays, dims, teacher = [], (), None
  if transfers(config):
    replays, about = load_sources(config, workdir, config.pretrain.capacity)
    dims = tuple(a['action_dim'] for a in about)
  with contextlib.ExitStack() as stack:
    settings = env_settings(config)
    make = lambda num, seed: stack.enter_context(
      environments.VectorEnv(
        config.task, settings, num, seed, config.env.parallel
      )
    )
    envs = make(config.env.num, config.seed)
    eval_envs = make(config.evaluate.envs, config.seed + 1)
    agent = learner.build_agent(config.learner, envs.action_dim, dims)
    if agent.teacher:
      teacher = load_teacher(config, workdir, agent)
    notes = {
      'task': config.task,
      'action_dim': envs.action_dim,
      'sources': list(config.sources) if agent.teacher else [],
      'source_action_dims': list(dims),
    }
    state, resumed = runs.start(
      checkpoint,
      lambda key: agent.init(key, teacher),
      config.seed,
      notes,
      'finetune',
    )
    counters = None
    if resumed:
      fields = finetune.Counters.__dataclass_fields__
      counters = finetune.Counters(**{k: resumed[k] for k in fields})
    replay = Replay(
      replay_dir or workdir / 'replay',
      f.capacity,
      config.seed,
      envs.action_dim,
      config.env.size,
      owner=True,
      keep_episodes=resumed['total_episodes'] if resumed else 0,
    )
    repeat = config.env.action_repeat
    step = counters.agent_steps * repeat if counters else None
    logger = stack.enter_context(Logger(workdir, 'finetune', step))
    eval_key = jax.random.key(config.seed + 1)
    loop = finetune.Finetuner(
      agent,
      state,
      envs,
      acting.Evaluator(agent, eval_envs, config.evaluate.episodes, eval_key),
      replay,
      replays,
      logger,
      checkpoint,
      finetune.Schedule(
        env_steps=f.env_steps,
        prefill=f.prefill,
        first_updates=f.first_updates,
        update_every=f.update_every,
        batch=f.batch,
        length=f.length,
        log_every=f.log_every,
        video_every=f.video_every,
        save_every=f.save_every,
        eval_every=config.evaluate.every,
        action_repeat=repeat,
        seed=config.seed,
      ),
      tuple(notes['sources']),
      counters,
      notes,
    )
    loop.run()
    dataset.write_metadata(
      replay.directory,
      config.task,
      {'method': 'online replay', 'env_steps': loop.env_steps},
      envs.description,
      True,
    )
    checkpoint.finish(loop.counters.updates, {'env_steps': loop.env_steps})


def transfers(config) -> bool:
  """Whether this config uses source tasks at all."""
  return config.learner.variant != 'dreamerv2'


def env_settings(config) -> environments.Settings:
  """How the run's environments are shown and stepped."""
  e = config.env
  return environments.Settings(
    e.size, e.action_repeat, e.time_limit, e.camera, e.quality
  )


def source_folder(config, workdir: pathlib.Path, task: str) -> pathlib.Path:
  """Where the dataset of a source task is, or will be."""
  root = config.source_dir or workdir / 'sources'
  return pathlib.Path(root).expanduser() / task


def load_sources(config, workdir, capacity: int):
  """Opens the source datasets: (replays, metadata), in the labels' order."""
  folders = [source_folder(config, workdir, t) for t in config.sources]
  size = config.env.size
  return sources.load_sources(folders, capacity, config.seed, size)


def load_teacher(config, workdir: pathlib.Path, agent):
  """The frozen teacher's parameters: this run's, another's, or public ones.

  Raises:
    UserError: it is missing, has other sizes, or knows other domains.
  """
  origin = config.teacher_from
  if origin.endswith('.npz'):
    try:
      with np.load(origin, allow_pickle=False) as file:
        return public.load_teacher(file, agent)
    except (OSError, ValueError) as error:
      raise UserError(
        f'config.teacher_from={origin}: not a readable .npz ({error})'
      ) from error
  folder = pathlib.Path(origin).expanduser() if origin else workdir
  pretrainer = learner.build_pretrainer(
    config.learner, agent.source_action_dims
  )
  target = jax.eval_shape(pretrainer.init, jax.random.key(0))
  checkpoint = Checkpoint(folder / runs.TEACHER)
  if not checkpoint.finished() and checkpoint.latest() is None:
    raise UserError(
      f'no teacher in {checkpoint.directory}: run the stage that makes it'
      " (--config.stages=\"('pretrain','finetune')\"), or name a run folder"
      ' or a public .npz by --config.teacher_from=...'
    )
  state, notes, _ = checkpoint.restore(target)
  if notes['sources'] != list(config.sources):
    raise UserError(
      f'the teacher in {folder} was pretrained on {notes["sources"]}, but'
      f' config.sources is {list(config.sources)}: its labels mean other'
      ' domains; set config.sources to the same tasks in the same order'
    )
  return state.params['model']
