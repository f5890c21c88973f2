"""A task of this package as a gymnasium environment."""

import gymnasium
import numpy as np
from gymnasium import spaces

from vid2act_jax.envs import core, registry
from vid2act_jax.envs.actions import ActionSpec

_FPS = 30  # For videos; an agent's steps per second differ between tasks.


class PixelEnv(gymnasium.Env):
  """A task; see `vid2act_jax.envs.as_gymnasium`."""

  metadata = {'render_modes': ['rgb_array'], 'render_fps': _FPS}

  def __init__(
    self,
    task: str,
    settings: core.Settings = registry.DEFAULT_SETTINGS,
    render_mode: str | None = 'rgb_array',
  ):
    """Makes the environment; see `vid2act_jax.envs.as_gymnasium`."""
    self.render_mode = render_mode
    self._env = registry.make(task, settings, 0)
    self._image: np.ndarray | None = None
    self._is_seeded = False
    shape = (settings.size, settings.size, 3)
    self.observation_space = spaces.Box(0, 255, shape, np.uint8)
    self.action_space = _space(self._env.actions)
    # Gymnasium makes the other render modes, and copies, from the spec.
    self.spec = gymnasium.envs.registration.EnvSpec(
      f'vid2act_jax/{_id(task)}-v0',
      entry_point=f'{__name__}:{type(self).__name__}',
      kwargs={
        'task': task,
        'settings': settings,
        'render_mode': render_mode,
      },
      order_enforce=False,
      disable_env_checker=True,
    )

  def reset(self, *, seed: int | None = None, options: dict | None = None):
    """Starts an episode; `options` have no effect."""
    super().reset(seed=seed)
    if seed is None and self._is_seeded:
      obs = self._env.reset()
    else:  # From the generator, which takes any seed, or a random one.
      obs = self._env.reset(int(self.np_random.integers(2**32)))
    self._is_seeded = True
    return self._convert(obs)

  def step(self, action):
    """Repeats an action of the `action_space`."""
    obs = self._env.step(self._env.actions.to_agent(action))
    image, info = self._convert(obs)
    terminated = bool(obs['is_terminal'])
    truncated = bool(obs['is_last']) and not terminated
    return image, float(obs['reward']), terminated, truncated, info

  def render(self) -> np.ndarray | None:
    """Returns a copy of the last observation, u8 [H, W, 3]."""
    if self.render_mode is None or self._image is None:
      return None
    return self._image.copy()

  def close(self):
    """Releases the renderer; may be called twice."""
    self._env.close()

  def _convert(self, obs):
    self._image = obs['image']
    info = {'success': bool(obs['success'])} if 'success' in obs else {}
    return self._image.copy(), info


def _space(actions: ActionSpec) -> spaces.Space:
  if actions.kind == 'discrete':
    return spaces.Discrete(actions.dim, start=actions.start)
  low, high = (
    np.reshape(x, actions.shape) for x in (actions.low, actions.high)
  )
  dtype = np.dtype(actions.dtype)
  return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def _id(task: str) -> str:
  """The task's name with the characters that gymnasium's ids may have."""
  return ''.join(c if c.isalnum() or c in '-_.' else '.' for c in task)
