"""examples/tour.ipynb: what is stored, and executed as users execute it."""

import ast
import base64
import pathlib

import nbclient
import nbformat
import numpy as np
import pytest

from vid2act_jax.loops.logger import read_metrics

PATH = pathlib.Path(__file__).parents[2] / 'examples' / 'tour.ipynb'
MAX_IMAGES = 300_000  # Bytes.
CELLS = nbformat.read(PATH, as_version=4).cells
# What a user sees at the end: returns of the policy and of random actions.
CHECK = 'import json; print(json.dumps(returns))'


def outputs(cells):
  return [x for cell in cells for x in cell.get('outputs', ())]


def test_stored_outputs():
  """All of one execution from top to bottom, small, and without warnings."""
  code = [cell for cell in CELLS if cell.cell_type == 'code']
  counts = [cell.execution_count for cell in code]
  assert counts == list(range(1, len(code) + 1))
  assert {x.get('name', 'stdout') for x in outputs(code)} == {'stdout'}
  images = [
    base64.b64decode(data)
    for output in outputs(code)
    for mime, data in output.get('data', {}).items()
    if mime.startswith('image/')
  ]
  assert len(images) == 5
  assert sum(map(len, images)) <= MAX_IMAGES


@pytest.mark.slow
def test_execution(tmp_path, monkeypatch):
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  notebook = nbformat.read(PATH, as_version=4)
  notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
  place = {'metadata': {'path': str(tmp_path)}}
  client = nbclient.NotebookClient(notebook, timeout=600, resources=place)
  client.execute()  # Raises the error of a cell.

  returns = ast.literal_eval(notebook.cells[-1].outputs[0].text)
  assert returns['policy'] > 2 * returns['random'] > 0
  rows = read_metrics(tmp_path / 'runs' / 'tour', 'finetune')
  assert sum('eval/return' in row for row in rows) == 4
  related, other = (
    np.mean([row[key] for row in rows if key in row])
    for key in (
      'similarity/dmc_cheetah_run@gravity=0.75',
      'similarity/dmc_walker_run',
    )
  )
  assert related > other
  assert len([x for x in outputs(notebook.cells) if 'data' in x]) == 5
  assert (tmp_path / 'runs' / 'tour' / 'summary.png').exists()
