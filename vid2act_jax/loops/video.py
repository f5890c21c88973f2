"""Videos as bytes: MP4 where PyAV is installed, else GIF."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageSequence

from vid2act_jax.types import UserError

SUFFIXES = '.mp4', '.gif'
_FPS = 15
_SMALL = 200  # Rows of pixels.
_CODEC = 'libx264'
_QUALITY = {'crf': '18', 'preset': 'veryfast', 'threads': '1'}


def default_suffix() -> str:
  """'.mp4' if PyAV with an encoder for it is installed, else '.gif'."""
  try:
    import av
  except ImportError:
    return '.gif'
  return '.mp4' if _CODEC in av.codecs_available else '.gif'


def check_suffix(path: pathlib.Path) -> None:
  """Raises a UserError unless a video can be written to the path."""
  if path.suffix not in SUFFIXES:
    raise UserError(f'{path}: name it {path.stem}.mp4 or {path.stem}.gif')
  if path.suffix == '.mp4' and default_suffix() != '.mp4':
    raise UserError(
      f"{path}: MP4 needs PyAV: pip install -e '.[video]'; or name it"
      f' {path.stem}.gif'
    )


def scale_of(frames: np.ndarray) -> int:
  """The factor of their size that `encode` shows frames at."""
  return 2 if np.shape(frames)[1] < _SMALL else 1


def encode(frames: np.ndarray, suffix: str) -> bytes:
  """Encodes frames.

  Args:
    frames: u8 [T, H, W, 3]; small ones are doubled in size.
    suffix: one of `SUFFIXES`.
  """
  frames = np.asarray(frames, np.uint8)
  encode = _encode_mp4 if suffix == '.mp4' else _encode_gif
  return encode(frames, scale_of(frames))


def read(path: pathlib.Path) -> np.ndarray:
  """Reads a video that `encode` made: u8 [T, H, W, 3]; MP4 loses details."""
  if path.suffix == '.mp4':
    import av

    with av.open(str(path)) as container:
      frames = container.decode(video=0)
      return np.stack([frame.to_ndarray(format='rgb24') for frame in frames])
  with Image.open(path) as image:
    frames = ImageSequence.Iterator(image)
    return np.stack([np.asarray(frame.convert('RGB')) for frame in frames])


def _encode_gif(frames, scale):
  """An endless GIF."""
  length, height, width, _ = frames.shape
  # One palette for all frames: one for each takes up to ten times as long.
  tiled = Image.fromarray(frames.reshape(-1, width, 3)).quantize()
  images = [
    tiled.crop((0, i * height, width, (i + 1) * height)).resize(
      (width * scale, height * scale), Image.Resampling.NEAREST
    )
    for i in range(length)
  ]
  buffer = io.BytesIO()
  images[0].save(
    buffer,
    format='GIF',
    save_all=True,
    append_images=images[1:],
    duration=round(1000 / _FPS),
    loop=0,
  )
  return buffer.getvalue()


def _encode_mp4(frames, scale):
  """H.264 in the pixel format that all browsers play."""
  import av

  frames = frames.repeat(scale, 1).repeat(scale, 2)
  odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
  frames = np.pad(frames, odd, mode='edge')  # It has only even sizes.
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream(_CODEC, rate=_FPS, options=_QUALITY)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for frame in frames:
      image = av.VideoFrame.from_ndarray(frame, format='rgb24')
      container.mux(stream.encode(image))
    container.mux(stream.encode())
  return buffer.getvalue()
