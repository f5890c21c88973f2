"""The online stage: acting in the target task and learning from it."""

import dataclasses
import functools

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.sources import sample_sources
from vid2act_jax.loops import acting
from vid2act_jax.loops import metrics as metrics_lib
from vid2act_jax.loops.preemption import Preempted, PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.loops.train_step import TrainStep
from vid2act_jax.types import Batch, FinetuneBatch


@dataclasses.dataclass
class Counters:
  """Where the stage stands; saved with every checkpoint.

  With several hosts all of them count what all of them do.
  """

  steps: int = 0  # of all environments at once
  agent_steps: int = 0  # frames acted for, resets not counted
  updates: int = 0
  warm: int = -1  # agent steps when the learning began; -1: not yet
  evaluated: int = -1  # env steps at the last evaluation; -1: none yet
  replaced: int = 0  # environment workers of this host that were lost


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When what happens; units as in experiments/base.py."""

  env_steps: int
  prefill: int
  first_updates: int
  update_every: int
  batch: int
  length: int
  updates_per_call: int
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
    updates: TrainStep,
    devices: sharding.Devices,
    interrupt: PreemptionHandler,
    resumed: dict | None = None,
  ):
    """Takes everything that the loop uses.

    Args:
      agent: an `Agent`.
      state: its LearnerState, fresh or restored.
      envs: the target task's `VectorEnv`.
      evaluator: (state, number) -> (values, video).
      replay: the online `Replay`, an owner.
      sources: N `Replay`s of the source datasets; [] without transfer.
      logger: of this stage.
      checkpoint: of this stage.
      schedule: when what happens.
      counters: fresh, or of the checkpoint that `state` came from.
      notes: what else to write into every checkpoint: `sources`, the names of
        the N source tasks, and what is needed to build the agent again.
      profiler: where the time goes.
      updates: of the agent's step.
      devices: what they are made on.
      interrupt: the wish to stop.
      resumed: what the checkpoint holds beside the state; None: a fresh start.
    """
    self.agent, self.state = agent, state
    self.replay, self.sources = replay, sources
    self.evaluator, self.logger = evaluator, logger
    self.checkpoint, self.schedule = checkpoint, schedule
    self.counters = counters
    self._notes = notes
    self._profiler = profiler
    self._updates, self._devices = updates, devices
    self._interrupt = interrupt
    self._driver = acting.Driver(envs)
    root = jax.random.key(schedule.seed)
    act_key, self._step_key, self._video_key = jax.random.split(root, 3)
    # Hosts learn from the same noise, and act with noise of their own.
    act_key = jax.random.fold_in(act_key, devices.process)
    self._player = acting.PolicyRunner(agent, envs.num, act_key, explore=True)
    self._open_loop = jax.jit(agent.open_loop)
    self._rows = devices.rows(schedule.batch, 'config.finetune.batch')
    self._ahead = None, None  # A call's batch, and what it was drawn for.
    self._here = None  # This host's own copy of the state, to act with.
    self._recent: dict[str, float] = {}
    resumed = resumed or {}
    self._random = list(resumed.get('random', ()))  # Episodes of the prefill.
    self._tally = metrics_lib.MetricAverager(
      notes['sources'], resumed.get('tally')
    )
    acted = resumed.get('acting')
    if acted and devices.processes == 1:
      self._driver.resume(acted['driver'], replay.reopen)
      self._player.resume(acted['carry'])
    else:
      self._driver.begin(*([counters.steps] if counters.steps else []))

  @property
  def env_steps(self) -> int:
    """Env steps taken in the training environments."""
    return self.counters.agent_steps * self.schedule.action_repeat

  def run(self):
    """Trains to the end of the schedule; the final LearnerState.

    Raises:
      Preempted: the run was asked to stop; a checkpoint has been written.
    """
    try:
      self._train()
    except Preempted:
      self._save()
      raise
    self._save()
    return self.state

  def _train(self):
    # What is due comes before acting: a run that goes on begins with it.
    while True:
      while self.counters.updates < self._due():
        self._learn()
        self._interrupt.check(together=True)
      self._evaluate_if_due()
      self.logger.progress(
        self.env_steps,
        self.schedule.env_steps,
        'env steps',
        updates=self.counters.updates,
        **self._recent,
      )
      if self.env_steps >= self.schedule.env_steps:
        break
      self._interrupt.check(together=True)
      self._act()
    if self.counters.evaluated < self.env_steps:
      self._evaluate()

  def _act(self):
    c, warm = self.counters, self.counters.warm >= 0
    if warm:
      choose = self._timed(
        functools.partial(self._player, self._local(), step=c.steps)
      )
    else:
      envs = self._driver.envs
      shape = (envs.num, envs.action_dim)
      choose = lambda _: acting.random_actions(
        self.schedule.seed, c.steps, shape, self._devices.process
      )
    with self._profiler.part('stepping'):
      obs, led = self._driver.step(choose)
    with self._profiler.part('storing'):
      episodes = self.replay.add(obs, led)
    c.steps += 1
    frames = int((~obs['is_first']).sum())
    ready = bool(self.replay.num_episodes)
    frames, ready = sharding.all_sum([frames, ready])
    c.agent_steps += int(frames)
    self._tell_faults()
    for episode in episodes:
      self._recent['last_return'] = episode['return']
      values = {f'episode/{k}': float(v) for k, v in episode.items()}
      self.logger.scalars(self.env_steps, values)
      if not warm:
        self._random.append({k: float(v) for k, v in episode.items()})
    enough = c.agent_steps >= self.schedule.prefill
    if not warm and enough and ready == self._devices.processes:
      self._begin_learning()

  def _begin_learning(self):
    self.counters.warm = self.counters.agent_steps
    self._player.reset()
    for key in ('return', 'success'):
      values = [episode[key] for episode in self._random if key in episode]
      total, num = sharding.all_sum([float(np.sum(values)), len(values)])
      if num:
        self.logger.scalars(self.env_steps, {f'random/{key}': total / num})

  def _tell_faults(self):
    for faults in (self._driver.envs.faults, self.evaluator.faults):
      for text in faults:
        self.counters.replaced += 1
        self.logger.message(text)
        told = {'faults/workers_replaced': self.counters.replaced}
        self.logger.scalars(self.env_steps, told)
      faults.clear()

  def _timed(self, choose):
    def timed(obs):
      with self._profiler.part('acting'):
        return choose(obs)

    return timed

  def _local(self):
    if self._devices.num == 1:
      return self.state
    if self._here is None:
      self._here = sharding.local(self.state)
    return self._here

  def _due(self) -> int:
    """Updates that should have been done by now."""
    c, s = self.counters, self.schedule
    if c.warm < 0:
      return 0
    return s.first_updates + (c.agent_steps - c.warm) // s.update_every

  def _take_batch(self, index: int, count: int):
    """A call's batches from this number on, of the episodes held now."""
    key = index, count, self.replay.total_episodes
    if self._ahead[0] != key:
      with self._profiler.part('sampling'):
        batches = [self._batch(i) for i in range(index, index + count)]
        self._ahead = key, self._updates.put(batches)
    return self._ahead[1]

  def _batch(self, index: int) -> FinetuneBatch:
    s = self.schedule
    # Hosts hold episodes of their own, and the same source datasets.
    stream = self._devices.process << 32
    each = s.batch // self._devices.processes
    target = _to_batch(self.replay.sample(index, each, s.length, stream=stream))
    sources = None, None
    if self.sources:
      sources = _to_batch(
        sample_sources(self.sources, index, s.batch, s.length, self._rows)
      )
    (target, target_embed), (sources, source_embed) = target, sources
    return FinetuneBatch(target, sources, target_embed, source_embed)

  def _learn(self):
    c, s = self.counters, self.schedule
    count = self._updates.plan(c.updates, self._due())
    batch = self._take_batch(c.updates, count)
    with self._profiler.part('updating'):
      self.state, metrics = self._updates(
        self.state, batch, self._step_key, c.updates, count
      )
      self._profiler.updated((self.state, metrics))
    self._here = None
    c.updates += count
    # Copied out while the device is busy; the step that follows may end an
    # episode, and then it is drawn anew.
    due = max(self._due(), c.updates + 1)
    self._take_batch(c.updates, self._updates.plan(c.updates, due))
    self._tally.add(metrics)
    with self._profiler.part('telling'):
      if c.updates % s.log_every == 0:
        told = {**self._tally.take(), **metrics_lib.memory_usage()}
        self.logger.scalars(self.env_steps, told)
      if s.video_every and c.updates % s.video_every == 0:
        self._tell_open_loop(metrics_lib.last_batch(batch, count))
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
      values, video = self.evaluator(self._local(), self.env_steps)
    self.counters.evaluated = self.env_steps
    self._recent['eval_return'] = values['return']
    told = {f'eval/{k}': v for k, v in values.items()}
    text = ', '.join(f'{k} {v:.1f}' for k, v in values.items())
    with self._profiler.part('telling'):
      self.logger.scalars(self.env_steps, told)
      self.logger.video(self.env_steps, 'eval', video)
      self.logger.message(f'evaluation at {self.env_steps} env steps: {text}')

  def _tell_open_loop(self, batch):
    with self._profiler.part('predicting'):
      video = self._open_loop(self._local(), batch.target, self._video_key)
      video = np.asarray(video)
    metrics_lib.log_open_loop(self.logger, self.env_steps, video)

  def _save(self):
    """Everything that a run needs to go on as if it had not been stopped."""
    with self._profiler.part('saving'):
      self._updates.look()
      extra = {
        **dataclasses.asdict(self.counters),
        **self._notes,
        'tally': self._tally.snapshot(),
        'random': self._random,
        'lines': self.logger.lines,
        # Of every host.
        'total_episodes': sharding.gather(self.replay.total_episodes).tolist(),
      }
      if self._devices.processes == 1:
        extra['acting'] = {
          'driver': self._driver.snapshot(),
          'carry': self._player.snapshot(),
        }
      self.checkpoint.save(self.counters.updates, self.state, extra)
      self.replay.release()


def _to_batch(rows):
  """A `Batch` and the embeddings, or None, of what a replay has sampled."""
  embed = rows.pop('embed', None)
  return Batch(image=rows.pop('image', None), **rows), embed
