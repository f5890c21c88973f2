"""Interaction with the target task: prefill, episodes and their replay."""

import functools

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.replay import Replay
from vid2act_jax.loops import acting
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.loops.schedule import Counters


class Interaction:
  """Acts in the training environments and stores the episodes.

  The actions are random until the prefill has ended.

  Attributes:
    counters: of the stage; `step` counts the steps.
    replay: the online `Replay`.
    faults: see `VectorEnv`.
  """

  def __init__(
    self,
    envs,
    policy: acting.PolicyRunner,
    replay: Replay,
    counters: Counters,
    prefill: int,
    seed: int,
    profiler: Profiler,
    random_prefill: bool = True,
  ):
    """Call `restore` before `step`.

    Args:
      envs: the training environments of this host.
      policy: of the agent, exploring.
      replay: an owner.
      counters: fresh, or from a checkpoint.
      prefill: agent steps with random actions.
      seed: of the random actions.
      profiler: of the stage.
      random_prefill: whether the actions of the prefill are random; otherwise
        they are the policy's, whose pretrained generator acts from the start.
    """
    self._random_prefill = random_prefill
    self.counters, self.replay, self.faults = counters, replay, envs.faults
    self._driver, self._policy = acting.Driver(envs), policy
    self._prefill, self._seed, self._profiler = prefill, seed, profiler
    self._prefill_episodes: list[dict[str, float]] = []
    self._hosts_ready = 0  # Hosts whose replay has an episode.

  def step(self, state, send: bool = True) -> list[dict]:
    """Steps every environment once.

    Args:
      state: the agent's LearnerState, on one device.
      send: whether to wait for the next actions and send them. Otherwise
        `send_actions` must follow.

    Returns:
      Summaries of the episodes that ended; see `Replay.add`.
    """
    counters = self.counters
    choose_actions = functools.partial(self._choose_actions, state)
    with self._profiler.section('stepping'):
      obs, prev_action = self._driver.receive(choose_actions)
    if send:
      self.send_actions()
    with self._profiler.section('storing'):
      episodes = self.replay.add(obs, prev_action)
    counters.steps += 1
    frames = int((~obs['is_first']).sum())
    ready = bool(self.replay.num_episodes)
    frames, self._hosts_ready = sharding.all_sum([frames, ready])
    counters.agent_steps += int(frames)
    if counters.warm < 0:
      self._prefill_episodes += [
        {k: float(v) for k, v in episode.items()} for episode in episodes
      ]
    return episodes

  def send_actions(self) -> None:
    """Sends the actions of the last step, unless they have been sent."""
    with self._profiler.section('acting'):
      self._driver.wait()
    with self._profiler.section('stepping'):
      self._driver.send()

  def _choose_actions(self, state, obs):
    if self.counters.warm < 0 and self._random_prefill:
      return self._random_actions()
    with self._profiler.section('acting'):
      return self._policy(state, obs, self.counters.steps)

  def _random_actions(self) -> np.ndarray:
    """Uniform in [-1, 1]; a function of seed, step and host alone."""
    envs = self._driver.envs
    parts = [self._seed, self.counters.steps, jax.process_index()]
    rng = np.random.default_rng(parts)
    return rng.uniform(-1, 1, (envs.num, envs.action_dim)).astype(np.float32)

  def end_prefill_if_due(self) -> dict[str, float]:
    """Ends the prefill if it is long enough and every host has an episode.

    Returns:
      When it ends, the mean {return, success?} of its episodes, if they were
      random; otherwise {}.
    """
    counters = self.counters
    long_enough = counters.agent_steps >= self._prefill
    ready = self._hosts_ready == jax.process_count()
    if counters.warm >= 0 or not (long_enough and ready):
      return {}
    counters.warm = counters.agent_steps
    if not self._random_prefill:
      return {}
    self._policy.reset()
    means = {}
    for key in ('return', 'success'):
      values = [e[key] for e in self._prefill_episodes if key in e]
      total, num = sharding.all_sum([float(np.sum(values)), len(values)])
      if num:
        means[key] = total / num
    return means

  def snapshot(self) -> dict:
    """Values of a checkpoint's extra dictionary, for `restore`."""
    extra = {
      'random': self._prefill_episodes,
      # Of every host.
      'total_episodes': sharding.all_gather(
        self.replay.total_episodes
      ).tolist(),
    }
    if jax.process_count() == 1:
      extra['acting'] = {
        'driver': self._driver.snapshot(),
        'carry': self._policy.snapshot(),
      }
    return extra

  def restore(self, extra: dict) -> None:
    """Resumes from a checkpoint's extra dictionary; {}: starts afresh.

    Unfinished episodes are replayed. With several hosts they are dropped.
    """
    self._prefill_episodes = list(extra.get('random', ()))
    saved = extra.get('acting')
    if saved and jax.process_count() == 1:
      self._driver.resume(saved['driver'], self.replay.restore_step)
      self._policy.resume(saved['carry'])
    else:
      steps = self.counters.steps
      self._driver.reset(*([steps] if steps else []))
