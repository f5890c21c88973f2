"""Stepping environments: random behaviour, a policy, and its evaluation."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.data.episodes import summarize

_MAX_VIDEO_FRAMES = 125


class Driver:
  """Steps environments and remembers which actions led where."""

  def __init__(self, envs):
    """envs: a `VectorEnv`; `begin` or `resume` comes first."""
    self.envs = envs
    self._actions = np.zeros((envs.num, envs.action_dim), np.float32)

  def begin(self, *stream: int) -> None:
    """Resets the environments; `stream` as of `VectorEnv.begin`."""
    self.envs.begin(*stream)
    self._actions = np.zeros_like(self._actions)
    self.envs.send(self._actions)

  def snapshot(self) -> dict:
    """What `resume` takes."""
    return {**self.envs.snapshot(), 'led': self._actions.copy()}

  def resume(self, snapshot: dict, receive) -> None:
    """Goes on where a snapshot was taken.

    Args:
      snapshot: of a driver of the same environments.
      receive: called with (environment, obs, action) for every frame of the
        episodes under way, again.
    """
    for row in self.envs.resume(snapshot):
      receive(*row)
    self._actions = np.array(snapshot['led'], np.float32)

  def step(self, choose):
    """One step of every environment.

    The next one has begun when this returns, so that worker processes step
    while the caller learns: what they do depends on nothing but the actions.

    Args:
      choose: obs -> the next actions, f32 [E, A] in [-1, 1].

    Returns:
      obs [E, ...], and the actions f32 [E, A] that led there.
    """
    led = self._actions
    obs = self.envs.receive()
    self._actions = np.asarray(choose(obs), np.float32)
    self.envs.send(self._actions)
    return obs, led


def random_actions(
  seed: int, step: int, shape: tuple[int, ...], process: int = 0
) -> np.ndarray:
  """Uniform in [-1, 1]; the same for the same seed, step and process."""
  rng = np.random.default_rng([seed, step, process])
  return rng.uniform(-1, 1, shape).astype(np.float32)


class PolicyRunner:
  """The agent's policy with its carry, compiled once."""

  def __init__(self, agent, num: int, key: jax.Array, explore: bool):
    """num: environments; key: root of the policy's noise."""
    self._initial = agent.initial_carry(num)
    self._carry = self._initial
    self._key = key

    def act(state, carry, obs, key, step):
      key = jax.random.fold_in(key, step)
      return agent.policy(state, carry, obs, key, explore)

    self._act = jax.jit(act)

  def reset(self):
    """Forgets everything seen."""
    self._carry = self._initial

  def snapshot(self) -> list[np.ndarray]:
    """The carry's arrays, for `resume`."""
    return [np.asarray(x) for x in jax.tree.leaves(self._carry)]

  def resume(self, snapshot: list[np.ndarray]) -> None:
    """Remembers what it remembered when the snapshot was taken."""
    structure = jax.tree.structure(self._initial)
    self._carry = jax.tree.unflatten(structure, snapshot)

  def __call__(self, state, obs, step: int) -> np.ndarray:
    """Actions f32 [E, A] for obs [E, ...]; `step` names the noise."""
    seen = {'image': obs['image'], 'is_first': obs['is_first']}
    carry = sharding.device_put_like(self._carry, state)
    self._carry, action, _ = self._act(state, carry, seen, self._key, step)
    return np.asarray(action)


class Evaluator:
  """Plays whole episodes with the policy's means."""

  def __init__(
    self,
    agent,
    envs,
    episodes: int,
    key: jax.Array,
    check: Callable[[], None] = lambda: None,
  ):
    """Every environment of every host plays its share, rounded up.

    Args:
      agent: an `Agent`.
      envs: of this host.
      episodes: of all hosts together.
      key: root of the policy's noise: its means use none, but it chooses
        among domains that weigh the same.
      check: called at every step; what it raises ends the evaluation.
    """
    self.faults = envs.faults  # As of `VectorEnv`.
    self._player = PolicyRunner(agent, envs.num, key, explore=False)
    self._driver = Driver(envs)
    self._share = -(-episodes // (envs.num * jax.process_count()))
    self._check = check

  def __call__(self, state, number: int) -> tuple[dict[str, float], np.ndarray]:
    """Evaluates; nothing of an evaluation before has an influence.

    Args:
      state: the agent's LearnerState.
      number: of the evaluation, for the episodes' seeds.

    Returns:
      {return, return_std, episodes, success?} over all hosts, and a video of
      one episode, u8 [T, H, W, 3].
    """
    # Episodes beyond an environment's share do not count: only so do long and
    # short ones count alike.
    left = np.full(self._driver.envs.num, self._share)
    assembler = EpisodeBuilder()
    self._player.reset()
    self._driver.begin(number)
    summaries, video, step = [], None, 0
    while left.any():
      self._check()
      choose = functools.partial(self._player, state, step=step)
      obs, led = self._driver.step(choose)
      step += 1
      episodes = assembler.add(obs, led)
      ended = np.flatnonzero(obs['is_last'])
      for env, episode in zip(ended, episodes, strict=True):
        if left[env]:
          left[env] -= 1
          summaries.append(summarize(episode))
          video = episode['image'] if video is None else video
    return _statistics(summaries), thin(video)


def _statistics(summaries):
  every = lambda key: sharding.gather([s[key] for s in summaries]).ravel()
  returns = every('return')
  values = {
    'return': returns.mean(),
    'return_std': returns.std(),
    'episodes': len(returns),
  }
  if 'success' in summaries[0]:
    values['success'] = every('success').mean()
  return {k: float(v) for k, v in values.items()}


def thin(frames: np.ndarray) -> np.ndarray:
  """Every k-th frame, so that a video stays small."""
  return frames[:: -(-len(frames) // _MAX_VIDEO_FRAMES)]
