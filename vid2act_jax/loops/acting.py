"""Acting in environments: stepping them, a policy and its evaluation."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.data.episode_builder import EpisodeBuilder
from vid2act_jax.data.episodes import summarize
from vid2act_jax.loops.seed_state import an_array

_MAX_VIDEO_FRAMES = 125


class Driver:
  """Steps environments and keeps the last actions."""

  def __init__(self, envs):
    """envs: a `VectorEnv`; call `reset` or `resume` before `step`."""
    self.envs = envs
    self._actions = np.zeros((envs.num, envs.action_dim), np.float32)
    self._unsent: jax.Array | np.ndarray | None = None  # The next actions.

  def reset(self, *stream: int) -> None:
    """Resets the environments; `stream` as in `VectorEnv.begin`."""
    self.envs.begin(*stream)
    self._unsent = None
    self._actions = np.zeros_like(self._actions)
    self.envs.send(self._actions)

  def snapshot(self) -> dict:
    """State of the environments and the last actions, for `resume`."""
    self.send()
    return {**self.envs.snapshot(), 'prev_action': self._actions.copy()}

  def resume(self, snapshot: dict, receive) -> None:
    """Resumes from a snapshot.

    Args:
      snapshot: from a driver of the same environments.
      receive: called again with (environment, obs, action) for every frame of
        the unfinished episodes.
    """
    for row in self.envs.resume(snapshot):
      receive(*row)
    actions = snapshot.get('prev_action', snapshot.get('led'))  # Before 0.3.
    self._actions = np.array(actions, np.float32)

  def step(self, policy_fn):
    """Steps every environment once.

    Sends the next actions before it returns, so that worker processes step
    while the caller learns.

    Args:
      policy_fn: obs -> the next actions, f32 [E, A] in [-1, 1].

    Returns:
      obs [E, ...], and prev_action f32 [E, A]: the actions that preceded obs.
    """
    row = self.receive(policy_fn)
    self.send()
    return row

  def receive(self, policy_fn):
    """The first half of `step`: `send` must follow."""
    obs = self.envs.receive()
    self._unsent = policy_fn(obs)
    return obs, self._actions

  def wait(self) -> None:
    """Waits for the next actions, unless they have been sent."""
    if self._unsent is not None:
      self._unsent = np.asarray(self._unsent, np.float32)

  def send(self) -> None:
    """Sends the next actions, unless they have been sent."""
    self.wait()
    if self._unsent is not None:
      self._actions, self._unsent = self._unsent, None
      self.envs.send(self._actions)


class PolicyRunner:
  """The agent's policy, jitted, with its recurrent carry."""

  def __init__(
    self,
    agent,
    num: int,
    key: jax.Array,
    explore: bool,
    compile_fn: Callable = lambda unused_name, fn: jax.jit(fn),
  ):
    """Compiles at the first call.

    Args:
      agent: an `Agent`.
      num: number of environments.
      key: root key of the policy's noise.
      explore: see `Agent.policy`.
      compile_fn: (name, function) -> compiled function.
    """
    self._initial = agent.initial_carry(num)
    self._carry = self._initial
    self._key = key

    def act(state, carry, obs, key, step):
      key = jax.random.fold_in(key, step)
      return agent.policy(state, carry, obs, key, explore)

    kind = 'exploring' if explore else 'evaluated'
    self._act = compile_fn(f'{kind} policy of {num} environments', act)

  def reset(self):
    """Resets the carry to its initial value."""
    self._carry = self._initial

  def snapshot(self) -> list[np.ndarray]:
    """Arrays of the carry, for `resume`."""
    return [np.asarray(x) for x in jax.tree.leaves(self._carry)]

  def resume(self, snapshot: list[np.ndarray]) -> None:
    """Sets the carry to a snapshot."""
    structure = jax.tree.structure(self._initial)
    self._carry = jax.tree.unflatten(structure, snapshot)

  def __call__(self, state, obs, step: int) -> jax.Array:
    """Actions f32 [E, A] for obs [E, ...]; `step` is folded into the key.

    Returns before the device has computed them.
    """
    inputs = {'image': obs['image'], 'is_first': obs['is_first']}
    carry = sharding.device_put_like(self._carry, an_array(state))
    self._carry, action, _ = self._act(state, carry, inputs, self._key, step)
    action.copy_to_host_async()
    return action


class Evaluator:
  """Evaluates the agent on whole episodes, with the policy's mean."""

  def __init__(
    self,
    envs,
    episodes: int,
    policy: PolicyRunner,
    check: Callable[[], None] = lambda: None,
  ):
    """Splits the episodes evenly over all environments, rounded up.

    Args:
      envs: the environments of this host.
      episodes: number of episodes on all hosts together.
      policy: of these environments, not exploring. Its key is used for ties
        between the weights of domains, which are broken at random.
      check: called at every step; an exception from it ends the evaluation.
    """
    self.faults = envs.faults  # See `VectorEnv`.
    self._policy, self._driver = policy, Driver(envs)
    self._episodes_per_env = -(-episodes // (envs.num * jax.process_count()))
    self._check = check

  def __call__(self, state, number: int) -> tuple[dict[str, float], np.ndarray]:
    """Evaluates, independently of earlier evaluations.

    Args:
      state: the agent's LearnerState.
      number: number of the evaluation, for the episodes' seeds.

    Returns:
      {return, return_std, episodes, success?} over all hosts, and a video of
      one episode, u8 [T, H, W, 3].
    """
    # Every environment counts the same number of episodes. Otherwise short
    # episodes would count more often than long ones.
    remaining = np.full(self._driver.envs.num, self._episodes_per_env)
    builder = EpisodeBuilder()
    self._policy.reset()
    self._driver.reset(number)
    summaries, video, step = [], None, 0
    while remaining.any():
      self._check()
      policy_fn = functools.partial(self._policy, state, step=step)
      obs, prev_action = self._driver.step(policy_fn)
      step += 1
      episodes = builder.add(obs, prev_action)
      ended = np.flatnonzero(obs['is_last'])
      for env, episode in zip(ended, episodes, strict=True):
        if remaining[env]:
          remaining[env] -= 1
          summaries.append(summarize(episode))
          video = episode['image'] if video is None else video
    return _statistics(summaries), subsample(video)


def _statistics(summaries):
  gather = lambda key: sharding.all_gather([s[key] for s in summaries]).ravel()
  returns = gather('return')
  values = {
    'return': returns.mean(),
    'return_std': returns.std(),
    'episodes': len(returns),
  }
  if 'success' in summaries[0]:
    values['success'] = gather('success').mean()
  return {k: float(v) for k, v in values.items()}


def subsample(frames: np.ndarray) -> np.ndarray:
  """Takes every k-th frame, to keep a video small."""
  return frames[:: -(-len(frames) // _MAX_VIDEO_FRAMES)]
