"""Colors, axes, curves, legends and files of all figures."""

import io
import math
import pathlib

import matplotlib.figure
import numpy as np
from matplotlib import ticker
from PIL import Image

INK, FAINT, GRID = '#2b2d42', '#8d99ae', '#e6e9ef'
COLORS = (  # Distinguishable for color-blind readers too.
  '#2166ac', '#d6604d', '#1b9e77', '#e6ab02', '#7b5ea7', '#56b4e9', '#a6611a',
  '#666666',
)  # fmt: skip
_MAX_POINTS = 400  # Of a curve: more cannot be seen.


def figure(height: float, width: float = 8.6, dpi: int = 140):
  """Returns an empty figure, in inches; by default as wide as the report."""
  fig = matplotlib.figure.Figure((width, height), dpi, layout='constrained')
  fig.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.04)
  return fig


def png(fig: matplotlib.figure.Figure) -> bytes:
  """Encodes a figure as a PNG of 256 colors."""
  buffer, out = io.BytesIO(), io.BytesIO()
  fig.savefig(buffer, format='png')
  # A palette: strips of noisy frames would make the file three times as large.
  image = Image.open(buffer).convert('RGB').quantize(256)
  image.save(out, format='png', optimize=True)
  return out.getvalue()


def save(fig: matplotlib.figure.Figure, path: pathlib.Path) -> pathlib.Path:
  """Writes a figure as `png` encodes it; returns its path."""
  path.write_bytes(png(fig))
  return path


def line_style(index: int) -> dict:
  """Returns color and line style of a curve; 16 are distinguishable."""
  line = '-' if index // len(COLORS) % 2 == 0 else '--'
  return {'color': COLORS[index % len(COLORS)], 'ls': line}


def shorten(text: str, letters: int = 44) -> str:
  """Cuts a long text."""
  return text if len(text) <= letters else f'{text[: letters - 1]}…'


def short_names(names) -> dict[str, str]:
  """Returns {task: its name}, without the suite if all are of one suite."""
  names = list(names)
  suites = {name.split('_')[0] for name in names}
  prefix = f'{suites.pop()}_' if len(suites) == 1 else ''
  return {name: name.removeprefix(prefix) for name in names}


def style_axes(axes, title='', xlabel='', ylabel='', xformat=None) -> None:
  """Adds title and labels, a grid, and two spines."""
  title = shorten(title, 80)
  axes.set_title(title, loc='left', color=INK, fontweight='bold')
  axes.set_xlabel(xlabel, color=INK)
  axes.set_ylabel(ylabel, color=INK)
  axes.tick_params(colors=INK, length=3, which='both', labelsize=9)
  axes.grid(True, color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.xaxis.set_major_formatter(xformat or ticker.EngFormatter(sep=''))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(7))
  axes.spines[:].set(color=FAINT, linewidth=0.8)
  axes.spines[['top', 'right']].set_visible(False)


def plot(axes, x, y, band=(), **look) -> None:
  """Plots a line, few points as dots, and a band between two more lines."""
  if len(x):
    marker = 'o' if len(x) < 3 else None
    axes.plot(x, y, **{'marker': marker, 'ms': 4, **look})
  if len(band):
    axes.fill_between(x, *band, color=look['color'], alpha=0.15, linewidth=0)


def add_legend(parent, axes, letters=110, **place) -> None:
  """Adds a legend of all labels with as many columns as there is room for.

  Args:
    parent: a figure, or axes.
    axes: all axes with labels; equal ones are listed once.
    letters: of the default size that fit next to each other.
    **place: of the legend, if not outside below a figure.
  """
  pairs = [zip(*x.get_legend_handles_labels(), strict=True) for x in axes]
  handles = {label: handle for pair in pairs for handle, label in pair}
  if not handles:
    return
  widest = max(map(len, handles))
  size = 9 if widest < 50 else 7
  columns = max(1, int(letters * 9 / size) // (widest + 7))
  columns = math.ceil(len(handles) / math.ceil(len(handles) / columns))
  look = {'frameon': False, 'fontsize': size, 'labelcolor': INK}
  look |= {'handlelength': 1.4, 'loc': 'outside lower center'} | place
  parent.legend(handles=list(handles.values()), ncols=columns, **look)


def annotate_empty(axes, text: str) -> None:
  """Writes why there is nothing to draw."""
  look = {'color': FAINT, 'fontsize': 11, 'style': 'italic'}
  place = {'transform': axes.transAxes, 'ha': 'center', 'va': 'center'}
  axes.text(0.5, 0.5, text, **place, **look)
  axes.set(xticks=[], yticks=[], xlabel='', ylabel='')


def thin(data):
  """Averages equal runs of points of a Series or DataFrame by step.

  Only if there are more than can be seen.
  """
  width = math.ceil(len(data) / _MAX_POINTS)
  if width < 2:
    return data
  blocks = np.arange(len(data)) // width
  steps = data.index.to_series().groupby(blocks).mean()
  return data.groupby(blocks).mean().set_axis(steps)
