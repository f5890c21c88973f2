"""What the training loops tell the log."""

import jax
import numpy as np

_STRIP_FRAMES = 10


class Tally:
  """Means of metrics over the updates since they were last taken.

  The metrics stay on the device until then, so that no update waits.
  """

  def __init__(self, source_names: tuple[str, ...] = ()):
    """source_names: tasks that the entries of a vector metric belong to."""
    self._names = source_names
    self._rows: list[dict] = []

  def add(self, metrics):
    """Takes the metrics of one update."""
    self._rows.append(metrics)

  def take(self) -> dict[str, float]:
    """{'train/<metric>': mean, 'similarity/<task>': mean}; starts anew."""
    rows, self._rows = jax.device_get(self._rows), []
    values = {}
    for key in rows[0]:
      mean = np.mean([row[key] for row in rows], 0)
      if key == 'similarity':
        for name, weight in zip(self._names, mean, strict=True):
          values[f'similarity/{name}'] = float(weight)
      else:
        values[f'train/{key}'] = float(mean)
    return values


def open_loop(logger, step: int, video: np.ndarray):
  """Logs open-loop predictions.

  Args:
    logger: of the stage.
    step: in the stage's unit.
    video: f32 [R, T, 3 * 64, 64, 3] in [0, 1]: truth, model and error.
  """
  video = (video.clip(0, 1) * 255).astype(np.uint8)
  rows, length, height, width, _ = video.shape
  beside = video.transpose(1, 2, 0, 3, 4).reshape(length, height, -1, 3)
  logger.video(step, 'open_loop', beside)
  picked = np.linspace(0, length - 1, min(length, _STRIP_FRAMES)).astype(int)
  strip = video[0, picked].transpose(1, 0, 2, 3)
  logger.strip('open_loop', strip.reshape(height, -1, 3))
