"""Returns of a state policy, without rendering."""

from collections.abc import Callable, Mapping

import numpy as np

from vid2act_jax import envs

# Episodes of evaluations start from other states than those of trainings.
SEED = 1_000_000


def evaluate(
  task: str,
  policy: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None,
  action_repeat: int,
  episodes: int,
  seed: int = SEED,
) -> list[float]:
  """Plays whole episodes and returns their returns.

  Args:
    task: name of the task, possibly shifted.
    policy: state by name -> action; None: uniformly random actions.
    action_repeat: control steps per action.
    episodes: number of episodes.
    seed: of the first episode; the next ones have the next seeds.

  Raises:
    UserError: as in `envs.make`, or the policy reads other states.
  """
  settings = envs.Settings(action_repeat=action_repeat, quality='fast')
  env = envs.make(task, settings, seed)
  try:
    return [play(env, policy, seed + i) for i in range(episodes)]
  finally:
    env.close()


def play(
  env: envs.Env,
  policy: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None,
  seed: int,
) -> float:
  """Plays one episode with a seed; returns its return; see `evaluate`."""
  rng = np.random.default_rng(seed)
  env.reset(seed)
  total, over = 0.0, False
  while not over:
    if policy is None:
      action = rng.uniform(-1, 1, env.action_dim)
    else:
      action = envs.pad_or_truncate(policy(env.named_state()), env.action_dim)
    result = env.advance(action)
    total += result.reward
    over = result.terminal or result.truncated
  return total
