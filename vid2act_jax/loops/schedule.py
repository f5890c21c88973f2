"""Schedules of the training loops, and the progress that they apply to."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Intervals:
  """Updates between two logs, videos and checkpoints; 0: never."""

  log: int
  video: int
  save: int


@dataclasses.dataclass(frozen=True)
class PretrainSchedule:
  """Length of the offline stage, in updates, and its intervals."""

  steps: int
  intervals: Intervals


@dataclasses.dataclass
class Counters:
  """Progress of the online stage; saved with every checkpoint.

  With several hosts, `agent_steps` counts the actions of all of them and
  `replaced` the workers of this host; the others are equal on all hosts.
  """

  steps: int = 0  # of the vector of environments
  agent_steps: int = 0  # actions taken, over all environments
  updates: int = 0
  warm: int = -1  # agent steps at the end of the prefill; -1: not yet
  evaluated: int = -1  # env steps at the last evaluation; -1: none yet
  replaced: int = 0  # environment workers of this host that were replaced

  @classmethod
  def restore(cls, extra: dict) -> 'Counters':
    """Reads the counters from a checkpoint's extra dictionary."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: extra[name] for name in names})


@dataclasses.dataclass(frozen=True)
class FinetuneSchedule:
  """Length and intervals of the online stage; units: vid2act_jax/config.py."""

  env_steps: int
  prefill: int
  first_updates: int
  update_every: int
  evaluate_every: int | None  # 0: at the end alone; None: never
  action_repeat: int
  intervals: Intervals

  @property
  def num_updates(self) -> int:
    """Number of updates of the whole stage, at least 1."""
    agent_steps = max(self.env_steps // self.action_repeat - self.prefill, 0)
    return max(self.first_updates + agent_steps // self.update_every, 1)

  def env_steps_done(self, counters: Counters) -> int:
    """Env steps in the training environments so far."""
    return counters.agent_steps * self.action_repeat

  def updates_due(self, counters: Counters) -> int:
    """Number of updates that should have been made by now."""
    if counters.warm < 0:
      return 0
    learning_steps = counters.agent_steps - counters.warm
    return self.first_updates + learning_steps // self.update_every

  def evaluation_due(self, counters: Counters) -> bool:
    """Whether to evaluate now.

    After the prefill, at every interval, and when all env steps are done.
    """
    every, done = self.evaluate_every, self.env_steps_done(counters)
    before = counters.evaluated
    if every is None or before >= done:
      return False
    if done >= self.env_steps:
      return True
    if not every or counters.warm < 0:
      return False
    return before < 0 or done // every > before // every

  def evaluations_left(self, counters: Counters) -> int:
    """Number of evaluations to come, the one at the end included."""
    every, done = self.evaluate_every, self.env_steps_done(counters)
    if every is None or counters.evaluated >= self.env_steps:
      return 0
    if not every:
      return 1
    if counters.evaluated < 0:
      # The first one comes after the prefill.
      before = max(done, self.prefill * self.action_repeat)
    else:
      before = counters.evaluated
    multiples = (self.env_steps - 1) // every - before // every
    return max(multiples, 0) + 1 + (counters.evaluated < 0)


def is_due(updates: int, interval: int) -> bool:
  """Whether `updates` is a multiple of the interval; 0: never."""
  return interval > 0 and updates % interval == 0


def finetune_schedule(config) -> FinetuneSchedule:
  """The schedule of the online stage of a run."""
  c = config.finetune
  return FinetuneSchedule(
    env_steps=c.env_steps,
    prefill=c.prefill,
    first_updates=c.first_updates,
    update_every=c.update_every,
    evaluate_every=config.evaluate.every if config.evaluate.episodes else None,
    action_repeat=config.env.action_repeat,
    intervals=intervals(c),
  )


def intervals(stage) -> Intervals:
  """The intervals of a stage, from its section of the config."""
  return Intervals(stage.log_every, stage.video_every, stage.save_every)
