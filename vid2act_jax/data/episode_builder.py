"""Cuts the stream of a vectorized environment into episodes."""

from collections.abc import Mapping

import numpy as np

from vid2act_jax.data.episodes import SCHEMA


class EpisodeBuilder:
  """Gathers the steps of E environments until their episodes end."""

  def __init__(self):
    self._open: dict[int, list[dict[str, np.ndarray]]] = {}

  def add(
    self, obs: Mapping[str, np.ndarray], actions: np.ndarray
  ) -> list[dict[str, np.ndarray]]:
    """Takes one step of each environment, returns the episodes it ended.

    An environment that starts anew in the middle of an episode (its process
    was replaced) loses that unfinished one.

    Args:
      obs: what `VectorEnv.step` returned, arrays [E, ...]; keys that the
        schema does not know are not recorded.
      actions: [E, A], those given to that step; ignored at a reset.

    Raises:
      ValueError: an environment whose first step here is no reset.
      TypeError: an observation of another kind of number than the schema's.
    """
    finished = []
    for env, action in enumerate(actions):
      row = {key: obs[key][env] for key in obs}
      self.add_one(env, row, action)
      if row['is_last']:
        frames = self._open.pop(env)
        keys = frames[0]
        finished.append({k: np.stack([f[k] for f in frames]) for k in keys})
    return finished

  def add_one(
    self, env: int, obs: Mapping[str, np.ndarray], action: np.ndarray
  ) -> None:
    """Takes one frame of one environment; does not look whether it ended.

    Args:
      env: its number.
      obs: its row of what `VectorEnv.step` returned.
      action: [A].

    Raises:
      ValueError, TypeError: as `add`.
    """
    if obs['is_first']:
      self._open[env] = []
    elif env not in self._open:
      raise ValueError(f'Environment {env} has not been reset.')
    frame = {
      # Copied: environments may reuse the memory of their observations.
      key: obs[key].astype(field.dtype, casting='same_kind')
      for key, field in SCHEMA.items()
      if key in obs
    }
    action = np.asarray(action, np.float32)
    first = obs['is_first']
    frame['action'] = np.zeros_like(action) if first else action.copy()
    self._open[env].append(frame)
