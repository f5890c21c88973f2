"""What the training loops tell the log."""

import resource

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.learner.open_loop import CONTEXT

_STRIP_FRAMES = 10


class MetricAverager:
  """Means of metrics over the updates since they were last taken.

  The metrics stay on the device until then, so that no update waits. Updates
  that were skipped count in `skipped` alone: their losses are not finite.
  """

  def __init__(
    self, source_names: tuple[str, ...] = (), snapshot: dict | None = None
  ):
    """Begins, or goes on.

    Args:
      source_names: tasks that the entries of a vector metric belong to.
      snapshot: of `snapshot`; None: nothing has been told yet.
    """
    self._names = source_names
    self._rows: list[dict] = []
    self._sums = snapshot or {'updates': 0, 'skipped': 0, 'sums': {}}

  def add(self, metrics):
    """Takes the metrics of an update, or of several, with a leading axis."""
    self._rows.append(metrics)

  def take(self) -> dict[str, float]:
    """{'train/<metric>': mean, 'similarity/<task>': mean}; starts anew."""
    told = self.snapshot()
    self._sums = {'updates': 0, 'skipped': 0, 'sums': {}}
    values = {'train/skipped': told['skipped'] / told['updates']}
    for key, total in told['sums'].items():
      mean = np.array(total) / (told['updates'] - told['skipped'])
      if key == 'similarity':
        for name, weight in zip(self._names, mean, strict=True):
          values[f'similarity/{name}'] = float(weight)
      else:
        values[f'train/{key}'] = float(mean)
    return values

  def snapshot(self) -> dict:
    """Sums so far, as JSON can hold them without loss."""
    rows, self._rows = jax.device_get(self._rows), []
    told = self._sums
    for metrics in rows:
      skipped = np.atleast_1d(metrics['skipped'])
      for index in range(len(skipped)):
        told['updates'] += 1
        if skipped[index]:
          told['skipped'] += 1
          continue
        for key, value in metrics.items():
          value = np.asarray(value, np.float64)
          value = value[index] if np.ndim(metrics['skipped']) else value
          before = np.array(told['sums'].get(key, 0.0))
          told['sums'][key] = (before + value).tolist()
    told['sums'].pop('skipped', None)
    return told


def memory_usage() -> dict[str, float]:
  """{'peak_gb': most memory that this process has had, 1e9 bytes}.

  Where the devices count theirs, `device_peak_gb` is the first one's.
  """
  # Linux counts in KiB. A run that goes on begins anew.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  told = {'peak_gb': peak / 1e9}
  device = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in device:
    told['device_peak_gb'] = device['peak_bytes_in_use'] / 1e9
  return told


def last_batch(batch, count: int):
  """One device's rows of a call's last batch.

  Args:
    batch: as it was given to a call of so many updates.
    count: how many.
  """
  batch = sharding.local(batch)
  return batch if count == 1 else jax.tree.map(lambda x: x[-1], batch)


def log_open_loop(logger, step: int, video: np.ndarray):
  """Logs open-loop predictions, and their mean squared error.

  Args:
    logger: of the stage.
    step: in the stage's unit.
    video: f32 [R, T, 3 * 64, 64, 3] in [0, 1]: truth, model and error; of the
      first `CONTEXT` frames the model has seen the truth.
  """
  truth, guess, _ = np.split(video[:, CONTEXT:], 3, 2)
  error = np.square(guess - truth).mean()
  logger.scalars(step, {'open_loop/error': float(error)})
  video = (video.clip(0, 1) * 255).astype(np.uint8)
  rows, length, height, width, _ = video.shape
  beside = video.transpose(1, 2, 0, 3, 4).reshape(length, height, -1, 3)
  logger.video(step, 'open_loop', beside)
  picked = np.linspace(0, length - 1, min(length, _STRIP_FRAMES)).astype(int)
  strip = video[0, picked].transpose(1, 0, 2, 3)
  logger.strip('open_loop', strip.reshape(height, -1, 3))
