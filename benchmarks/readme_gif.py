"""Draws the README's GIF from a finished run.

  python -m benchmarks.readme_gif runs/quickstart-0

Writes docs/images/quickstart.gif: the newest evaluation episode next to the
newest open-loop predictions (truth, model, error), one sequence after another.
Pixels that change little keep their color, which makes the file small.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vid2act_jax.learner.open_loop import CONTEXT
from vid2act_jax.loops import video as video_lib

OUT = pathlib.Path(__file__).parent.parent / 'docs' / 'images'
_SIZE = 64  # Pixels a side of an image in the run.
_SCALE, _GAP, _TOP = 2, 6, 20  # Of the GIF, pixels.
_SEQUENCES = 4
_HOLD = 20  # Largest change of a channel that is not drawn.
_COLORS, _MS = 64, 110
_NAMES = 'evaluation episode', 'truth', 'model', 'error'


def read_frames(run: pathlib.Path, name: str) -> np.ndarray:
  """Reads a run's newest video of a name.

  Args:
    run: the run's folder.
    name: such as 'eval'.

  Returns:
    u8 [T, H, W, 3], at the size before the logger doubled it.
  """
  paths = sorted(run.glob(f'videos/finetune-{name}-*'))
  if not paths:
    raise SystemExit(f'error: {run} has no finetuning video named {name!r}')
  return video_lib.read(paths[-1])[:, ::2, ::2]


def split_sequences(video: np.ndarray) -> np.ndarray:
  """[T, 3 * 64, R * 64, 3] of the logger as [R, T, 3, 64, 64, 3]."""
  length, _, width, _ = video.shape
  shape = (length, 3, _SIZE, width // _SIZE, _SIZE, 3)
  return video.reshape(shape).transpose(3, 0, 1, 2, 4, 5)


def hold_still(panels: np.ndarray) -> np.ndarray:
  """Keeps each pixel of u8 [T, ...] until it changes by more than _HOLD."""
  out = panels.astype(int)
  for t in range(1, len(out)):
    changed = abs(out[t] - out[t - 1]).max(-1, keepdims=True) > _HOLD
    out[t] = np.where(changed, out[t], out[t - 1])
  return out.astype(np.uint8)


def draw_frame(panels: np.ndarray, predicted: bool) -> Image.Image:
  """One frame of the GIF from panels u8 [4, 64, 64, 3]."""
  side = _SIZE * _SCALE
  width = len(panels) * (side + _GAP) - _GAP
  frame = Image.new('RGB', (width, side + _TOP), 'white')
  draw, font = ImageDraw.Draw(frame), ImageFont.load_default(11)
  for index, (name, panel) in enumerate(zip(_NAMES, panels, strict=True)):
    x = index * (side + _GAP)
    image = Image.fromarray(panel)
    frame.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, _TOP))
    if name == 'model':
      name += ': prediction' if predicted else ': reconstruction'
    draw.text((x + 2, 4), name, fill='black', font=font)
  return frame


def main():
  """Reads, draws and writes."""
  run = pathlib.Path(sys.argv[1])
  sequences = split_sequences(read_frames(run, 'open_loop'))[:_SEQUENCES]
  length = sequences.shape[1]
  right = sequences.reshape(-1, *sequences.shape[2:])
  left = read_frames(run, 'eval')
  left = left[np.linspace(0, len(left) - 1, len(right)).astype(int)]
  panels = hold_still(np.concatenate([left[:, None], right], 1))
  frames = [
    draw_frame(panel, t % length >= CONTEXT) for t, panel in enumerate(panels)
  ]
  width, height = frames[0].size
  sheet = Image.new('RGB', (width, len(frames) * height))
  for index, frame in enumerate(frames):
    sheet.paste(frame, (0, index * height))
  palette = sheet.quantize(_COLORS)
  first, *rest = (
    frame.quantize(palette=palette, dither=Image.Dither.NONE)
    for frame in frames
  )
  path = OUT / 'quickstart.gif'
  first.save(path, save_all=True, append_images=rest, duration=_MS, loop=0)
  print(f'{path}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
