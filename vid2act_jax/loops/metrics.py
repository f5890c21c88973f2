"""Metrics of the training loops, for the log."""

import resource

import jax
import numpy as np

from vid2act_jax import sharding
from vid2act_jax.learner.open_loop import CONTEXT

_STRIP_FRAMES = 10
_BY_SOURCE = 'similarity', 'teacher_kl'


class MetricAverager:
  """Averages metrics over the updates since the last `result`.

  Those of a call stay on the device until the next one is added, so that the
  device works while they are fetched. Skipped updates count only in `skipped`:
  their losses are not finite.
  """

  def __init__(
    self, source_names: tuple[str, ...] = (), snapshot: dict | None = None
  ):
    """Starts empty, or from a snapshot.

    Args:
      source_names: tasks that the entries of a vector metric belong to.
      snapshot: from `snapshot`; None: start empty.
    """
    self._names = source_names
    self._last: dict | None = None  # On the device.
    self._state = snapshot or {'updates': 0, 'skipped': 0, 'sums': {}}

  def add(self, metrics):
    """Adds the metrics of an update, or of several, with a leading axis."""
    self._fetch()
    self._last = metrics

  def result(self) -> dict[str, float]:
    """Returns {'train/<metric>': mean, 'similarity/<task>': mean}; resets.

    Like `similarity`, each metric that has a value for every source.
    """
    state = self.snapshot()
    self._state = {'updates': 0, 'skipped': 0, 'sums': {}}
    values = {'train/skipped': state['skipped'] / state['updates']}
    for key, total in state['sums'].items():
      mean = np.array(total) / (state['updates'] - state['skipped'])
      if key in _BY_SOURCE:
        for name, value in zip(self._names, mean, strict=True):
          values[f'{key}/{name}'] = float(value)
      else:
        values[f'train/{key}'] = float(mean)
    return values

  def snapshot(self) -> dict:
    """Sums so far, as JSON values without loss of precision."""
    self._fetch()
    return self._state

  def _fetch(self):
    """Waits for the metrics of the last call, and adds them to the sums."""
    if self._last is None:
      return
    metrics, self._last = jax.device_get(self._last), None
    state = self._state
    skipped = np.atleast_1d(metrics['skipped'])
    for index in range(len(skipped)):
      state['updates'] += 1
      if skipped[index]:
        state['skipped'] += 1
        continue
      for key, value in metrics.items():
        value = np.asarray(value, np.float64)
        value = value[index] if np.ndim(metrics['skipped']) else value
        before = np.array(state['sums'].get(key, 0.0))
        state['sums'][key] = (before + value).tolist()
    state['sums'].pop('skipped', None)


def memory_usage() -> dict[str, float]:
  """Returns {'peak_gb': peak memory of this process, 1e9 bytes}.

  Adds `device_peak_gb` of the first device, where devices report it.
  """
  # Linux counts in KiB. A resumed run starts from zero.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  values = {'peak_gb': peak / 1e9}
  device = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in device:
    values['device_peak_gb'] = device['peak_bytes_in_use'] / 1e9
  return values


def last_batch(batch, count: int):
  """Returns one device's rows of the last batch of a call.

  Args:
    batch: the batches of a call.
    count: number of updates in the call.
  """
  batch = sharding.local(batch)
  return batch if count == 1 else jax.tree.map(lambda x: x[-1], batch)


def log_evaluation(logger, step: int, values: dict, video: np.ndarray):
  """Logs an evaluation.

  Args:
    logger: of the stage.
    step: env steps.
    values: {name: float}, from `Evaluator`.
    video: u8 [T, H, W, 3].
  """
  logger.scalars(step, {f'eval/{k}': v for k, v in values.items()})
  logger.video(step, 'eval', video)
  text = ', '.join(f'{k} {v:.1f}' for k, v in values.items())
  logger.message(f'evaluation at {step} env steps: {text}')


def log_open_loop(logger, step: int, video: np.ndarray):
  """Logs open-loop predictions, and their mean squared error.

  Args:
    logger: of the stage.
    step: in the unit of the stage.
    video: f32 [R, T, 3 * 64, 64, 3] in [0, 1]: truth, model and error; the
      model was given the first `CONTEXT` frames.
  """
  truth, prediction, _ = np.split(video[:, CONTEXT:], 3, 2)
  error = np.square(prediction - truth).mean()
  logger.scalars(step, {'open_loop/error': float(error)})
  video = (video.clip(0, 1) * 255).astype(np.uint8)
  rows, length, height, width, _ = video.shape
  tiled = video.transpose(1, 2, 0, 3, 4).reshape(length, height, -1, 3)
  logger.video(step, 'open_loop', tiled)
  indices = np.linspace(0, length - 1, min(length, _STRIP_FRAMES)).astype(int)
  strip = video[0, indices].transpose(1, 0, 2, 3)
  logger.strip(step, 'open_loop', strip.reshape(height, -1, 3))
