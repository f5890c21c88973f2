"""How all pictures of runs look: colours, axes, legends, files."""

import io
import math
import pathlib

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from PIL import Image

INK, FAINT, GRID = '#2b2d42', '#8d99ae', '#e6e9ef'
COLORS = (  # Told apart by colour-blind readers too.
    '#2166ac', '#d6604d', '#1b9e77', '#e6ab02', '#7b5ea7', '#56b4e9',
    '#a6611a', '#666666',
)  # fmt: skip
_PAGE_WIDTH, _PAGE_DPI = 8.6, 140  # Inches, pixels an inch.
_POINTS = 400  # At most so many a curve: more cannot be seen.


def figure(width: float, height: float, dpi: int = 100):
  """An empty figure of so many inches, of `dpi` pixels each."""
  made = matplotlib.figure.Figure(
    figsize=(width, height), dpi=dpi, layout='constrained'
  )
  made.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.04)
  return made


def save(made: matplotlib.figure.Figure, path: pathlib.Path) -> pathlib.Path:
  """Writes a figure as a PNG of 256 colours; its path."""
  buffer = io.BytesIO()
  made.savefig(buffer, format='png')
  # A palette: strips of noisy frames would make the page three times as large.
  page = Image.open(buffer).convert('RGB').quantize(256)
  page.save(path, optimize=True)
  return path


def style(index: int) -> dict:
  """Colour and line of the curve with this number; 16 can be told apart."""
  line = '-' if index // len(COLORS) % 2 == 0 else '--'
  return {'color': COLORS[index % len(COLORS)], 'linestyle': line}


def short(text: str, letters: int = 44) -> str:
  """A name as far as there is room for it."""
  return text if len(text) <= letters else f'{text[: letters - 1]}…'


def dress(axes, title, xlabel, ylabel):
  """Gives axes their words, their grid, and two spines."""
  axes.set_title(title, loc='left', color=INK, fontweight='bold')
  axes.set_xlabel(xlabel, color=INK)
  axes.set_ylabel(ylabel, color=INK)
  axes.tick_params(colors=INK, length=3, which='both', labelsize=9)
  axes.grid(True, color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=''))
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(7))
  for name, spine in axes.spines.items():
    spine.set_visible(name in ('left', 'bottom'))
    spine.set(color=FAINT, linewidth=0.8)


def legend(axes, handles, letters=95, below=-0.2):
  """A legend below the axes, as wide as so many letters."""
  widest = max(len(handle.get_label()) for handle in handles)
  rows = math.ceil(len(handles) / max(1, letters // (widest + 7)))
  axes.legend(
      handles=handles, loc='upper center', bbox_to_anchor=(0.5, below),
      ncols=math.ceil(len(handles) / rows), frameon=False, fontsize=9,
      labelcolor=INK, handlelength=1.4,
  )  # fmt: skip


def say(axes, text):
  """Writes in words, in place of a picture, why there is none."""
  axes.text(
      0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center',
      color=FAINT, fontsize=11, style='italic',
  )  # fmt: skip
  axes.set(xticks=[], yticks=[], xlabel='', ylabel='')


def series(metrics, stage, key):
  """The finite values of a key: (steps [T], values [T]), by step."""
  pairs = [
    (record['step'], record[key])
    for record in metrics
    if record['stage'] == stage and np.isfinite(record.get(key, np.nan))
  ]
  pairs.sort(key=lambda pair: pair[0])
  steps, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.array(steps), np.array(values, np.float64)


def thin(steps, values):
  """Means of equal runs of points, where there are more than can be seen."""
  runs = -(-len(steps) // _POINTS)
  if runs < 2:
    return steps, values
  cuts = np.arange(0, len(steps), runs)
  counts = np.diff([*cuts, len(steps)])
  return (
    np.add.reduceat(steps, cuts) / counts,
    np.add.reduceat(values, cuts) / counts,
  )


def short_names(keys):
  """{key: task}, without the suite's name where all are of one suite."""
  names = {key: key.removeprefix('similarity/') for key in keys}
  suites = {name.split('_')[0] for name in names.values()}
  if len(suites) == 1:
    prefix = f'{suites.pop()}_'
    names = {key: name.removeprefix(prefix) for key, name in names.items()}
  return names


def wide(height: float):
  """A figure as wide as the report's page, of a height in inches."""
  return figure(_PAGE_WIDTH, height, _PAGE_DPI)


def legend_below(axes, handles):
  """A legend under the whole picture, in as many columns as there is room."""
  axes.figure.legend(
      handles=handles, loc='outside lower center', ncols=2 if any(
          len(h.get_label()) > 24 for h in handles) else 3,
      frameon=False, fontsize=9, labelcolor=INK, handlelength=2.2,
  )  # fmt: skip
