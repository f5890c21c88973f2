"""Stepping environments: random behaviour, a policy, and its evaluation."""

import functools

import jax
import numpy as np

from vid2act_jax.data.assemble import Assembler
from vid2act_jax.data.episodes import summarize

_MAX_VIDEO_FRAMES = 125


class Driver:
  """Steps environments and remembers which actions led where."""

  def __init__(self, envs):
    """envs: a `VectorEnv`; its first step resets it."""
    self.envs = envs
    self._actions = np.zeros((envs.num, envs.action_dim), np.float32)
    envs.send(self._actions)

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


def random_actions(seed: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
  """Uniform in [-1, 1]; the same for the same seed and step."""
  rng = np.random.default_rng([seed, step])
  return rng.uniform(-1, 1, shape).astype(np.float32)


class Player:
  """The agent's policy with its carry, compiled once."""

  def __init__(self, agent, num: int, key: jax.Array, explore: bool):
    """num: environments; key: root of the policy's noise."""
    self._initial = agent.initial_carry(num)
    self._carry = self._initial
    self._key = key
    act = lambda state, carry, obs, key, step: agent.policy(
      state, carry, obs, jax.random.fold_in(key, step), explore
    )
    self._act = jax.jit(act)

  def reset(self):
    """Forgets everything seen."""
    self._carry = self._initial

  def __call__(self, state, obs, step: int) -> np.ndarray:
    """Actions f32 [E, A] for obs [E, ...]; `step` names the noise."""
    seen = {'image': obs['image'], 'is_first': obs['is_first']}
    self._carry, action, _ = self._act(
      state, self._carry, seen, self._key, step
    )
    return np.asarray(action)


class Evaluator:
  """Plays whole episodes with the policy's means."""

  def __init__(self, agent, envs, episodes: int, key: jax.Array):
    """Every environment plays its share of the episodes, rounded up."""
    self._player = Player(agent, envs.num, key, explore=False)
    self._driver = Driver(envs)
    self._assembler = Assembler()
    self._share = -(-episodes // envs.num)

  def __call__(self, state) -> tuple[dict[str, float], np.ndarray]:
    """Evaluates.

    Args:
      state: the agent's LearnerState.

    Returns:
      {return, return_std, episodes, success?}, and a video of one episode,
      u8 [T, H, W, 3].
    """
    num = self._driver.envs.num
    # An episode begun in the evaluation before, or beyond an environment's
    # share, does not count: only so do long and short ones count alike.
    begun, left = np.zeros(num, bool), np.full(num, self._share)
    self._player.reset()
    summaries, video, step = [], None, 0
    while left.any():
      choose = functools.partial(self._player, state, step=step)
      obs, led = self._driver.step(choose)
      step += 1
      begun |= obs['is_first']
      episodes = self._assembler.add(obs, led)
      ended = np.flatnonzero(obs['is_last'])
      for env, episode in zip(ended, episodes, strict=True):
        if begun[env] and left[env]:
          left[env] -= 1
          summaries.append(summarize(episode))
          video = episode['image'] if video is None else video
    return _statistics(summaries), thin(video)


def _statistics(summaries):
  returns = np.array([s['return'] for s in summaries])
  values = {
    'return': returns.mean(),
    'return_std': returns.std(),
    'episodes': len(returns),
  }
  if 'success' in summaries[0]:
    values['success'] = np.mean([s['success'] for s in summaries])
  return {k: float(v) for k, v in values.items()}


def thin(frames: np.ndarray) -> np.ndarray:
  """Every k-th frame, so that a video stays small."""
  return frames[:: -(-len(frames) // _MAX_VIDEO_FRAMES)]
