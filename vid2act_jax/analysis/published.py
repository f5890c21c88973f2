"""Curves that others published, to be drawn beside one's own.

`published.json` holds means and standard deviations over seeds, each with its
source and its protocol, which is another than ours.
"""

import functools
import json
import pathlib

_PATH = pathlib.Path(__file__).with_name('published.json')
# Of our own steps; longer curves would press ours into a corner.
_REACH = 2.0


@functools.cache
def _all() -> list[dict]:
  return json.loads(_PATH.read_text())


def matching(task: str, metric: str, steps: float) -> list[dict]:
  """Published curves of a task, up to twice as far as ours go.

  Args:
    task: its full name; a changed task ('@') matches none.
    metric: 'return' or 'success'.
    steps: env steps that ours go to.

  Returns:
    Dicts with method, source, protocol, seeds, and lists env_steps, mean and
    std; only those with a point in this range.
  """
  out = []
  for curve in _all():
    if curve['task'] != task or curve['metric'] != metric:
      continue
    count = sum(step <= _REACH * steps for step in curve['env_steps'])
    if count:
      cut = {k: curve[k][:count] for k in ('env_steps', 'mean', 'std')}
      out.append({**curve, **cut})
  return out
