"""The online stage: acts in the target task and learns from it."""

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
  """Progress of the stage; saved with every checkpoint.

  With several hosts, each counts the sum over all of them.
  """

  steps: int = 0  # of the vector of environments
  agent_steps: int = 0  # actions taken, over all environments
  updates: int = 0
  warm: int = -1  # agent steps at the end of the prefill; -1: not yet
  evaluated: int = -1  # env steps at the last evaluation; -1: none yet
  replaced: int = 0  # environment workers of this host that were replaced


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Length, batches and periods; units as in config.py."""

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
  """The online training loop: acts, learns, evaluates and logs."""

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
    metadata: dict,
    profiler: Profiler,
    train_step: TrainStep,
    devices: sharding.Devices,
    preemption: PreemptionHandler,
    restored: dict | None = None,
  ):
    """Takes the built objects that the loop uses.

    Args:
      agent: an `Agent`.
      state: its LearnerState, fresh or restored.
      envs: the target task's `VectorEnv`.
      evaluator: (state, number) -> (values, video).
      replay: the online `Replay`, an owner.
      sources: N `Replay`s of the source datasets; [] without transfer.
      logger: of this stage.
      checkpoint: of this stage.
      schedule: length, batches and periods.
      counters: fresh, or from the checkpoint that `state` came from.
      metadata: also written into every checkpoint: `sources`, the names of the
        N source tasks, and what is needed to build the agent again.
      profiler: of this stage.
      train_step: the compiled step of the agent.
      devices: that the updates run on.
      preemption: checked between updates and steps.
      restored: the checkpoint's extra dictionary; None: a fresh start.
    """
    self.agent, self.state = agent, state
    self.replay, self.sources = replay, sources
    self.evaluator, self.logger = evaluator, logger
    self.checkpoint, self.schedule = checkpoint, schedule
    self.counters = counters
    self._metadata = metadata
    self._profiler = profiler
    self._train_step, self._devices = train_step, devices
    self._preemption = preemption
    self._driver = acting.Driver(envs)
    root = jax.random.key(schedule.seed)
    act_key, self._step_key, self._video_key = jax.random.split(root, 3)
    # Hosts share the key of the updates; each has another key to act with.
    act_key = jax.random.fold_in(act_key, devices.process_index)
    self._policy = acting.PolicyRunner(agent, envs.num, act_key, explore=True)
    self._open_loop = jax.jit(agent.open_loop)
    self._rows = devices.rows(schedule.batch, 'config.finetune.batch')
    self._next_batch = None, None  # Key of the next call, and its batch.
    self._local_state = None  # This host's copy of the state, to act with.
    self._recent: dict[str, float] = {}
    restored = restored or {}
    self._prefill_episodes = list(restored.get('random', ()))
    self._averager = metrics_lib.MetricAverager(
      metadata['sources'], restored.get('tally')
    )
    acting_state = restored.get('acting')
    if acting_state and devices.process_count == 1:
      self._driver.resume(acting_state['driver'], replay.restore_step)
      self._policy.resume(acting_state['carry'])
    else:
      self._driver.reset(*([counters.steps] if counters.steps else []))

  @property
  def env_steps(self) -> int:
    """Env steps in the training environments so far."""
    return self.counters.agent_steps * self.schedule.action_repeat

  def run(self):
    """Trains to the end of the schedule; returns the final LearnerState.

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
    # Updates and evaluations come before acting: a resumed run may owe some.
    while True:
      while self.counters.updates < self._updates_due():
        self._learn()
        self._preemption.check(all_hosts=True)
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
      self._preemption.check(all_hosts=True)
      self._act()
    if self.counters.evaluated < self.env_steps:
      self._evaluate()

  def _act(self):
    c, warm = self.counters, self.counters.warm >= 0
    if warm:
      policy_fn = self._profiled(
        functools.partial(self._policy, self._get_local_state(), step=c.steps)
      )
    else:
      envs = self._driver.envs
      shape = (envs.num, envs.action_dim)
      policy_fn = lambda _: acting.random_actions(
        self.schedule.seed, c.steps, shape, self._devices.process_index
      )
    with self._profiler.section('stepping'):
      obs, prev_action = self._driver.step(policy_fn)
    with self._profiler.section('storing'):
      episodes = self.replay.add(obs, prev_action)
    c.steps += 1
    frames = int((~obs['is_first']).sum())
    ready = bool(self.replay.num_episodes)
    frames, ready = sharding.all_sum([frames, ready])
    c.agent_steps += int(frames)
    self._log_worker_failures()
    for episode in episodes:
      self._recent['last_return'] = episode['return']
      values = {f'episode/{k}': float(v) for k, v in episode.items()}
      self.logger.scalars(self.env_steps, values)
      if not warm:
        self._prefill_episodes.append({k: float(v) for k, v in episode.items()})
    prefilled = c.agent_steps >= self.schedule.prefill
    if not warm and prefilled and ready == self._devices.process_count:
      self._end_prefill()

  def _end_prefill(self):
    self.counters.warm = self.counters.agent_steps
    self._policy.reset()
    for key in ('return', 'success'):
      values = [e[key] for e in self._prefill_episodes if key in e]
      total, num = sharding.all_sum([float(np.sum(values)), len(values)])
      if num:
        self.logger.scalars(self.env_steps, {f'random/{key}': total / num})

  def _log_worker_failures(self):
    for faults in (self._driver.envs.faults, self.evaluator.faults):
      for text in faults:
        self.counters.replaced += 1
        self.logger.message(text)
        values = {'faults/workers_replaced': self.counters.replaced}
        self.logger.scalars(self.env_steps, values)
      faults.clear()

  def _profiled(self, policy_fn):
    def profiled(obs):
      with self._profiler.section('acting'):
        return policy_fn(obs)

    return profiled

  def _get_local_state(self):
    if self._devices.num == 1:
      return self.state
    if self._local_state is None:
      self._local_state = sharding.local(self.state)
    return self._local_state

  def _updates_due(self) -> int:
    """Number of updates that the schedule asks for by now."""
    c, s = self.counters, self.schedule
    if c.warm < 0:
      return 0
    return s.first_updates + (c.agent_steps - c.warm) // s.update_every

  def _get_batch(self, index: int, count: int):
    """Batches of updates [index, index + count), from the current episodes."""
    key = index, count, self.replay.total_episodes
    if self._next_batch[0] != key:
      with self._profiler.section('sampling'):
        batches = [self._sample_batch(i) for i in range(index, index + count)]
        self._next_batch = key, self._train_step.device_put(batches)
    return self._next_batch[1]

  def _sample_batch(self, index: int) -> FinetuneBatch:
    s = self.schedule
    # Hosts have different online episodes, and the same source datasets.
    stream = self._devices.process_index << 32
    each = s.batch // self._devices.process_count
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
    count = self._train_step.num_steps(c.updates, self._updates_due())
    batch = self._get_batch(c.updates, count)
    with self._profiler.section('updating'):
      self.state, metrics = self._train_step(
        self.state, batch, self._step_key, c.updates, count
      )
      self._profiler.updated((self.state, metrics))
    self._local_state = None
    c.updates += count
    # Samples the next batch while the device is busy. If the next step ends an
    # episode, the batch is sampled again.
    due = max(self._updates_due(), c.updates + 1)
    self._get_batch(c.updates, self._train_step.num_steps(c.updates, due))
    self._averager.add(metrics)
    with self._profiler.section('logging'):
      if c.updates % s.log_every == 0:
        values = {**self._averager.result(), **metrics_lib.memory_usage()}
        self.logger.scalars(self.env_steps, values)
      if s.video_every and c.updates % s.video_every == 0:
        self._log_open_loop(metrics_lib.last_batch(batch, count))
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
    with self._profiler.section('evaluating'):
      values, video = self.evaluator(self._get_local_state(), self.env_steps)
    self.counters.evaluated = self.env_steps
    self._recent['eval_return'] = values['return']
    scalars = {f'eval/{k}': v for k, v in values.items()}
    text = ', '.join(f'{k} {v:.1f}' for k, v in values.items())
    with self._profiler.section('logging'):
      self.logger.scalars(self.env_steps, scalars)
      self.logger.video(self.env_steps, 'eval', video)
      self.logger.message(f'evaluation at {self.env_steps} env steps: {text}')

  def _log_open_loop(self, batch):
    with self._profiler.section('predicting'):
      video = np.asarray(
        self._open_loop(self._get_local_state(), batch.target, self._video_key)
      )
    metrics_lib.log_open_loop(self.logger, self.env_steps, video)

  def _save(self):
    """Writes a checkpoint that a run can resume from exactly."""
    with self._profiler.section('saving'):
      self._train_step.check_finite()
      extra = {
        **dataclasses.asdict(self.counters),
        **self._metadata,
        'tally': self._averager.snapshot(),
        'random': self._prefill_episodes,
        'lines': self.logger.lines,
        # Of every host.
        'total_episodes': sharding.all_gather(
          self.replay.total_episodes
        ).tolist(),
      }
      if self._devices.process_count == 1:
        extra['acting'] = {
          'driver': self._driver.snapshot(),
          'carry': self._policy.snapshot(),
        }
      self.checkpoint.save(self.counters.updates, self.state, extra)
      self.replay.delete_evicted()


def _to_batch(rows):
  """Converts a replay's sample to a `Batch` and its embeddings, or None."""
  embed = rows.pop('embed', None)
  return Batch(image=rows.pop('image', None), **rows), embed
