"""The online stage: acting in the target task and learning from it."""

import dataclasses
import functools

import jax
import numpy as np

from vid2act_jax.data.sources import sample_sources
from vid2act_jax.loops import acting, telling
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.types import Batch, FinetuneBatch


@dataclasses.dataclass
class Counters:
  """Where the stage stands; saved with every checkpoint."""

  agent_steps: int = 0  # frames acted for, resets not counted
  updates: int = 0
  warm: int = -1  # agent steps when the learning began; -1: not yet
  evaluated: int = -1  # env steps at the last evaluation; -1: none yet


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When what happens; units as in experiments/base.py."""

  env_steps: int
  prefill: int
  first_updates: int
  update_every: int
  batch: int
  length: int
  log_every: int
  video_every: int
  save_every: int
  eval_every: int
  action_repeat: int
  seed: int


class Finetuner:
  """Acts, learns, evaluates and tells, from built objects."""

  def __init__(
    self,
    agent,
    state,
    envs,
    evaluator,
    replay,
    sources,
    logger,
    checkpoint,
    schedule: Schedule,
    counters: Counters,
    notes: dict,
    profiler: Profiler,
  ):
    """Takes everything that the loop uses.

    Args:
      agent: an `Agent`.
      state: its LearnerState, fresh or restored.
      envs: the target task's `VectorEnv`.
      evaluator: state -> (values, video).
      replay: the online `Replay`, an owner.
      sources: N `Replay`s of the source datasets; [] without transfer.
      logger: of this stage.
      checkpoint: of this stage.
      schedule: when what happens.
      counters: fresh, or of the checkpoint that `state` came from.
      notes: what else to write into every checkpoint: `sources`, the names of
        the N source tasks, and what is needed to build the agent again.
      profiler: where the time goes.
    """
    self.agent, self.state = agent, state
    self.replay, self.sources = replay, sources
    self.evaluator, self.logger = evaluator, logger
    self.checkpoint, self.schedule = checkpoint, schedule
    self.counters = counters
    self._notes = notes
    self._profiler = profiler
    self._driver = acting.Driver(envs)
    root = jax.random.key(schedule.seed)
    act_key, self._step_key, self._video_key = jax.random.split(root, 3)
    self._player = acting.Player(agent, envs.num, act_key, explore=True)
    self._update = jax.jit(agent.finetune_step, donate_argnums=0)
    self._open_loop = jax.jit(agent.open_loop)
    self._tally = telling.Tally(notes['sources'])
    self._ahead = None, None  # A batch, and what it was drawn for.
    self._recent: dict[str, float] = {}
    self._random_returns: list[float] = []

  @property
  def env_steps(self) -> int:
    """Env steps taken in the training environments."""
    return self.counters.agent_steps * self.schedule.action_repeat

  def run(self):
    """Trains to the end of the schedule; the final LearnerState."""
    while self.env_steps < self.schedule.env_steps:
      self._act()
      while self.counters.updates < self._due():
        self._learn()
      self._evaluate_if_due()
      self.logger.progress(
        self.env_steps,
        self.schedule.env_steps,
        'env steps',
        updates=self.counters.updates,
        **self._recent,
      )
    if self.counters.evaluated < self.env_steps:
      self._evaluate()
    self._save()
    return self.state

  def _act(self):
    c, warm = self.counters, self.counters.warm >= 0
    step = c.agent_steps
    if warm:
      choose = functools.partial(self._player, self.state, step=step)
    else:
      envs = self._driver.envs
      shape = (envs.num, envs.action_dim)
      choose = lambda _: acting.random_actions(self.schedule.seed, step, shape)
    with self._profiler.part('stepping'):
      obs, led = self._driver.step(self._timed(choose))
    c.agent_steps += int((~obs['is_first']).sum())
    with self._profiler.part('storing'):
      episodes = self.replay.add(obs, led)
    for episode in episodes:
      self._recent['last_return'] = episode['return']
      values = {f'episode/{k}': float(v) for k, v in episode.items()}
      self.logger.scalars(self.env_steps, values)
      if not warm:
        self._random_returns.append(episode['return'])
    enough = c.agent_steps >= self.schedule.prefill
    if not warm and enough and self.replay.num_episodes:
      c.warm = c.agent_steps
      self._player.reset()
      mean = float(np.mean(self._random_returns))
      self.logger.scalars(self.env_steps, {'random/return': mean})

  def _timed(self, choose):
    def timed(obs):
      with self._profiler.part('acting'):
        return choose(obs)

    return timed

  def _due(self) -> int:
    """Updates that should have been done by now."""
    c, s = self.counters, self.schedule
    if c.warm < 0:
      return 0
    return s.first_updates + (c.agent_steps - c.warm) // s.update_every

  def _take_batch(self, index: int) -> FinetuneBatch:
    """The batch of this number, from the episodes that are held now."""
    key = index, self.replay.total_episodes
    if self._ahead[0] != key:
      with self._profiler.part('sampling'):
        self._ahead = key, self._batch(index)
    return self._ahead[1]

  def _batch(self, index: int) -> FinetuneBatch:
    s = self.schedule
    target = _to_batch(self.replay.sample(index, s.batch, s.length))
    sources = None, None
    if self.sources:
      rows = sample_sources(self.sources, index, s.batch, s.length)
      sources = _to_batch(rows)
    (target, target_embed), (sources, source_embed) = target, sources
    return jax.device_put(
      FinetuneBatch(target, sources, target_embed, source_embed)
    )

  def _learn(self):
    c, s = self.counters, self.schedule
    batch = self._take_batch(c.updates)
    with self._profiler.part('updating'):
      self.state, metrics = self._update(self.state, batch, self._step_key)
      self._profiler.updated((self.state, metrics))
    # Copied out while the device is busy; the step that follows may end an
    # episode, and then it is drawn anew.
    self._take_batch(c.updates + 1)
    self._tally.add(metrics)
    c.updates += 1
    with self._profiler.part('telling'):
      if c.updates % s.log_every == 0:
        self.logger.scalars(self.env_steps, self._tally.take())
      if s.video_every and c.updates % s.video_every == 0:
        self._tell_open_loop(batch)
    if c.updates % s.save_every == 0:
      self._save()

  def _evaluate_if_due(self):
    every = self.schedule.eval_every
    c = self.counters
    if not every or c.warm < 0:
      return
    if c.evaluated < 0 or self.env_steps // every > c.evaluated // every:
      self._evaluate()

  def _evaluate(self):
    with self._profiler.part('evaluating'):
      values, video = self.evaluator(self.state)
    self.counters.evaluated = self.env_steps
    told = {f'eval/{k}': v for k, v in values.items()}
    self.logger.scalars(self.env_steps, told)
    self.logger.video(self.env_steps, 'eval', video)
    self._recent['eval_return'] = values['return']
    text = ', '.join(f'{k} {v:.1f}' for k, v in values.items())
    self.logger.message(f'evaluation at {self.env_steps} env steps: {text}')

  def _tell_open_loop(self, batch):
    video = self._open_loop(self.state, batch.target, self._video_key)
    telling.open_loop(self.logger, self.env_steps, np.asarray(video))

  def _save(self):
    extra = {
      **dataclasses.asdict(self.counters),
      **self._notes,
      'total_episodes': self.replay.total_episodes,
    }
    with self._profiler.part('saving'):
      self.checkpoint.save(self.counters.updates, self.state, extra)
      self.replay.release()


def _to_batch(rows):
  """A `Batch` and the embeddings, or None, of what a replay has sampled."""
  embed = rows.pop('embed', None)
  return Batch(image=rows.pop('image', None), **rows), embed
