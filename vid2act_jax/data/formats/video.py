"""Reads the frames of a video by their number, not by their time.

Times in the metadata of a dataset drift against those in the video: after half
a frame, the nearest frame is the neighbour of the right one.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from vid2act_jax.data import limits
from vid2act_jax.data.formats import checks, core


class Video:
  """The frames of an mp4, counted once.

  Attributes:
    path: of the file.
    times: of the frames in their order, f64 [N], seconds.
  """

  def __init__(self, path: pathlib.Path):
    """Counts the frames, without decoding them.

    Also raises the exceptions of av.

    Raises:
      UserError: av is not installed.
      ValueError: the frames are too large or too many.
    """
    self._av = core.import_optional('av')
    self.path = path
    # By packet: when it is shown, and for key frames where to seek to.
    shown, keys, seeks = [], [], []
    with self._open() as container:
      stream = container.streams.video[0]
      checks.check_pixels(stream.width, stream.height)
      for packet in container.demux(stream):
        # Without a time: the end. Discarded: hidden by the file's edit list.
        if packet.pts is None or packet.is_discard:
          continue
        shown.append(packet.pts)
        if packet.is_keyframe:
          keys.append(packet.pts)
          seeks.append(packet.pts if packet.dts is None else packet.dts)
        limits.check_rows(len(shown))
      self.times = np.sort(np.array(shown, np.int64)) * float(stream.time_base)
    self._shown = np.sort(np.array(shown, np.int64))
    order = np.argsort(keys)
    self._keys = np.array(keys, np.int64)[order]
    self._seeks = np.array(seeks, np.int64)[order]

  def nearest(self, time: float) -> int:
    """The number of the frame that is nearest to a time in seconds."""
    return int(np.argmin(np.abs(self.times - time)))

  def read(self, first: int, count: int) -> Iterator[np.ndarray]:
    """Decodes consecutive frames, each u8 [H, W, 3].

    Also raises the exceptions of av.

    Raises:
      ValueError: one of them is missing.
    """
    wanted = self._shown[first : first + count]
    if len(wanted) < count:
      raise ValueError(f'{self.path} has no frame {first + count - 1}')
    key = max(0, int(np.searchsorted(self._keys, wanted[0], 'right')) - 1)
    done = 0
    with self._open() as container:
      stream = container.streams.video[0]
      container.seek(int(self._seeks[key]), stream=stream)
      for frame in container.decode(stream):
        if frame.pts is None or frame.pts < wanted[done]:
          continue
        if frame.pts != wanted[done]:
          break
        yield frame.to_ndarray(format='rgb24')
        done += 1
        if done == count:
          return
    raise ValueError(f'{self.path} has no frame {first + done}')

  def _open(self):
    # By default, FFmpeg would also accept playlists, which can refer to other
    # files and to the network.
    return self._av.open(str(self.path), format='mp4')
