"""What a run must know of a task's environment before it begins.

An environment is made once in a process for this; later the result is reused.
"""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np

from vid2act_jax import envs as environments

_SECONDS = 5.0  # For random episodes; then the question is left open.


@dataclasses.dataclass(frozen=True)
class Probe:
  """Properties of an environment.

  action_dim: A.
  description: see `Env.description`.
  states: its `named_state`, or None.
  lengths: frames of its random episodes, the last one as far as played.
  steps: agent steps in them.
  """

  action_dim: int
  description: dict
  states: Mapping[str, np.ndarray] | None
  lengths: tuple[int, ...]
  steps: int

  @property
  def longest(self) -> int:
    """Frames of the longest random episode."""
    return max(self.lengths)

  @property
  def median(self) -> int:
    """Frames that half of the random episodes have."""
    return sorted(self.lengths)[len(self.lengths) // 2]


_PROBES: dict[tuple[str, environments.Settings], Probe] = {}


def probe(
  task: str, settings: environments.Settings, frames: int = 0, steps: int = 0
) -> Probe:
  """Makes an environment, plays random episodes, and closes it.

  Args:
    task: name of the task.
    settings: of the environment.
    frames: it plays until an episode has this many frames.
    steps: agent steps to play at most.

  Raises:
    UserError: the environment cannot be made or is not supported.
  """
  key = task, settings
  if key in _PROBES:
    found = _PROBES[key]
    if found.longest >= frames or found.steps >= steps:
      return found
  env = environments.make(task, settings, 0)
  try:
    states = env.named_state()
    lengths, played = _play(env, frames, steps)
    description = dict(env.description)
    _PROBES[key] = Probe(env.action_dim, description, states, lengths, played)
  finally:
    env.close()
  return _PROBES[key]


def _play(env, frames, steps):
  """Plays random episodes; only the first step is rendered.

  Returns:
    Frames of each episode, and the number of steps; 0 if it took too long.
  """
  rng, start = np.random.default_rng(0), time.monotonic()
  draw = lambda: rng.uniform(-1, 1, env.action_dim).astype(np.float32)
  env.reset(0)
  done, lengths, played = bool(env.step(draw())['is_last']), [2], 1
  while max(lengths) < frames and played < steps:
    if time.monotonic() - start > _SECONDS:
      return tuple(lengths), 0
    if done:
      env.reset()
      lengths.append(1)
    result = env.advance(draw())
    done = result.terminal or result.truncated
    lengths[-1] += 1
    played += 1
  return tuple(lengths), played
