"""Collecting a source dataset with a behaviour that does not learn."""

import functools
import pathlib

import jax
import numpy as np

from vid2act_jax import envs as environments
from vid2act_jax.data import dataset
from vid2act_jax.data import episodes as eps
from vid2act_jax.data.assemble import Assembler
from vid2act_jax.loops import acting, inputs, runs
from vid2act_jax.types import UserError

BEHAVIOURS = ('scripted', 'noisy', 'random')


def mixture(proportions: dict[str, float], count: int) -> list[str]:
  """A behaviour for each of `count` episodes, well mixed in time.

  At every point of the list each behaviour has had its share, up to one.

  Args:
    proportions: weights by behaviour, not negative; they need not add to 1.
    count: how many episodes.

  Raises:
    UserError: an unknown behaviour, or no positive weight.
  """
  unknown = set(proportions) - set(BEHAVIOURS)
  total = sum(proportions.values())
  if unknown or total <= 0 or min(proportions.values()) < 0:
    raise UserError(
      f'config.collect.proportions={dict(proportions)}: weights of'
      f' {", ".join(BEHAVIOURS)}, not negative and not all zero'
    )
  had = dict.fromkeys(proportions, 0)
  out = []
  for n in range(1, count + 1):
    due = {k: n * w / total - had[k] for k, w in proportions.items()}
    name = max(due, key=due.get)
    had[name] += 1
    out.append(name)
  return out


class Behaviours:
  """What an episode may be played with; each maps (obs, step) to actions."""

  def __init__(self, env, task: str, noise: float, checkpoint: str, seed: int):
    """Prepares nothing yet.

    Args:
      env: the `Env`; scripted policies read its state.
      task: its name.
      noise: standard deviation of `noisy`, in units of the action.
      checkpoint: run folder of the agent of `checkpoint`.
      seed: of all that is random.
    """
    self._env, self._task, self._seed = env, task, seed
    self._noise, self._checkpoint = noise, checkpoint

  @functools.cached_property
  def _script(self):
    return environments.scripted_policy(self._task)

  @functools.cached_property
  def _agent(self):
    if not self._checkpoint:
      raise UserError(
        "config.collect.method='checkpoint' needs the run folder of an agent"
        ' in config.collect.checkpoint'
      )
    agent, state = runs.load_agent(self._checkpoint)
    if agent.action_dim != self._env.action_dim:
      raise UserError(
        f'config.collect.checkpoint={self._checkpoint}: its agent has'
        f' {agent.action_dim} actions, {self._task} has {self._env.action_dim}'
      )
    player = acting.Player(agent, 1, jax.random.key(self._seed), explore=True)
    return functools.partial(player, state)

  def random(self, obs, step):
    """Uniform."""
    del obs
    return acting.random_actions(self._seed, step, (1, self._env.action_dim))

  def scripted(self, obs, step):
    """The suite's own policy."""
    del obs, step
    return self._script(self._env)[None]

  def noisy(self, obs, step):
    """The suite's own policy with Gaussian noise."""
    rng = np.random.default_rng([self._seed, step, 1])
    noise = rng.normal(0, self._noise, (1, self._env.action_dim))
    return (self.scripted(obs, step) + noise).clip(-1, 1)

  def checkpoint(self, obs, step):
    """An agent of a finished run, exploring."""
    return self._agent(obs, step=step)


def collect(config, task: str, folder: pathlib.Path, method: str, logger):
  """Plays episodes into a dataset folder until it is complete.

  Episodes that are there count: an interrupted collection goes on.

  Args:
    config: the run's; of it env, collect and seed.
    task: the source task.
    folder: of the dataset.
    method: 'random', 'scripted' or 'checkpoint'.
    logger: of the stage.

  Raises:
    UserError: the method, its settings or the folder will not do.
  """
  c = config.collect
  names = [method] * c.episodes
  if method == 'scripted':
    names = mixture(c.proportions.to_dict(), c.episodes)
  settings = inputs.env_settings(config)
  eps.make_folder(folder)
  eps.clean(folder)
  start = len(eps.list_episodes(folder))
  collected = {
    'method': method,
    'seed': config.seed,
    'proportions': c.proportions.to_dict() if method == 'scripted' else None,
    'noise': c.noise if method == 'scripted' else None,
    'checkpoint': c.checkpoint or None,
  }
  env = environments.make(task, settings, _seed(config.seed, task, start))
  describe = functools.partial(
    dataset.write_metadata, folder, task, collected, env.description
  )
  try:
    describe(False)
    seed = _seed(config.seed, task, 0)
    play = Behaviours(env, task, c.noise, c.checkpoint, seed)
    for index in range(start, c.episodes):
      # Numbered through, so that no two episodes draw the same noise.
      first = index * (config.env.time_limit + 1)
      episode = _episode(env, getattr(play, names[index]), first)
      eps.save(folder, index, episode)
      told = eps.summarize(episode)
      logger.scalars(
        index + 1, {f'{task}/{k}': float(v) for k, v in told.items()}
      )
      logger.progress(
        index + 1, c.episodes, 'episodes', task=task, last_return=told['return']
      )
    about = describe(True)
  finally:
    env.close()
  returns = about['return']
  logger.message(
    f'{task}: {about["episodes"]} episodes ({method}), return'
    f' {returns["mean"]:.1f} ± {returns["std"]:.1f}'
  )


def _episode(env, act, step):
  """One episode in the schema of the datasets."""
  batch = lambda obs: {k: v[None] for k, v in obs.items()}
  assembler = Assembler()
  obs = batch(env.reset())
  assembler.add(obs, np.zeros((1, env.action_dim)))
  while True:
    action = np.asarray(act(obs, step), np.float32)
    obs = batch(env.step(action[0]))
    step += 1
    if finished := assembler.add(obs, action):
      return finished[0]


def _seed(*parts) -> int:
  """A seed from numbers and names."""
  numbers = [p if isinstance(p, int) else list(p.encode()) for p in parts]
  flat = np.concatenate([np.atleast_1d(n) for n in numbers]).tolist()
  return int(np.random.SeedSequence(flat).generate_state(1)[0])
