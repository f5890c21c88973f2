"""Splits the stream of a vectorized environment into episodes."""

from collections.abc import Mapping

import numpy as np

from vid2act_jax.data.episodes import SCHEMA


class EpisodeBuilder:
  """Collects the steps of E environments until their episodes end."""

  def __init__(self):
    self._unfinished: dict[int, list[dict[str, np.ndarray]]] = {}

  def add(
    self, obs: Mapping[str, np.ndarray], actions: np.ndarray
  ) -> list[dict[str, np.ndarray]]:
    """Adds one step of each environment; returns the episodes that ended.

    If an environment is reset in the middle of an episode (its process was
    replaced), the unfinished episode is discarded.

    Args:
      obs: output of `VectorEnv.step`, arrays [E, ...]; keys that are not in
        the schema are ignored.
      actions: [E, A], the input of that step (prev_action); ignored at a reset.

    Raises:
      ValueError: the first step of an environment is not a reset.
      TypeError: an observation cannot be cast to the schema's dtype.
    """
    finished = []
    for env, action in enumerate(actions):
      row = {key: obs[key][env] for key in obs}
      self.add_one(env, row, action)
      if row['is_last']:
        frames = self._unfinished.pop(env)
        keys = frames[0]
        finished.append({k: np.stack([f[k] for f in frames]) for k in keys})
    return finished

  def add_one(
    self, env: int, obs: Mapping[str, np.ndarray], action: np.ndarray
  ) -> None:
    """Adds one frame of one environment; does not check whether it ended.

    Args:
      env: index of the environment.
      obs: its row of the output of `VectorEnv.step`.
      action: [A], the input of that step (prev_action).

    Raises:
      ValueError, TypeError: see `add`.
    """
    if obs['is_first']:
      self._unfinished[env] = []
    elif env not in self._unfinished:
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
    self._unfinished[env].append(frame)
