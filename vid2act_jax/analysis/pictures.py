"""The report's pictures as files and as HTML, and the lines of its labels."""

import pathlib
import re

from vid2act_jax.analysis import drawing, page, scores


class Pictures:
  """Writes pictures into a folder, and gives them as HTML."""

  def __init__(self, folder: pathlib.Path):
    """folder: is there."""
    self.folder = folder
    self.paths: list[pathlib.Path] = []

  def add(self, name: str, made, alt: str, caption: str = '') -> str:
    """Saves a figure under a name that a file can have.

    Args:
      name: says what it is; a second one of the same name gets a number.
      made: the figure.
      alt: what is to be seen.
      caption: below it.
    """
    stem = re.sub(r'[^A-Za-z0-9_.=-]+', '_', name)[:100].strip('.')
    taken = {path.stem for path in self.paths}
    for index in range(2, len(taken) + 3):
      if stem not in taken:
        break
      stem = f'{stem[:100]}-{index}'
    path = drawing.save(made, self.folder / f'{stem}.png')
    self.paths.append(path)
    return page.picture(path, alt, caption)


def styles(results: dict) -> dict[str, dict]:
  """{label: colour and line}, the same in all pictures."""
  labels = {x for told in results['tasks'].values() for x in told['labels']}
  ordered = scores.in_order(labels, results['baseline'])
  return {label: drawing.style(i) for i, label in enumerate(ordered)}
