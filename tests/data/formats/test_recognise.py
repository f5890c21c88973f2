"""Tests of recognising formats, and of naming those that cannot be read."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.episode_data import make_episode
from tests.format_data import (
  make,
  open_source,
  solved,
  write_dreamer,
  write_lerobot,
  write_minari,
  write_ogbench,
  write_shard,
)
from tests.rlds_data import write_rlds
from vid2act_jax.data import formats, importing
from vid2act_jax.data.__main__ import main
from vid2act_jax.types import UserError

h5py = pytest.importorskip('h5py')
pytest.importorskip('minari')
pytest.importorskip('pyarrow')
pytest.importorskip('google_crc32c')

EPISODES = [solved(6, 1), solved(5, 2)]
WRITERS = {
  'dreamer': lambda path: write_dreamer(path, [make(6), make(5)]),
  'vd4rl': lambda path: write_shard(path / '0.hdf5', [make(6)]).parent,
  'ogbench': lambda path: write_ogbench(path, [make(6)]),
  'minari': lambda path: write_minari(path, EPISODES),
  'lerobot': lambda path: write_lerobot(path, EPISODES, video=False),
  'rlds': lambda path: write_rlds(path, EPISODES),
}


@pytest.mark.parametrize('format', formats.FORMATS)
def test_recognised(tmp_path, format, capsys):
  """Without --format, and as a hint with the wrong one."""
  path = WRITERS[format](tmp_path / 'a.npz')
  assert formats.recognise(str(path)) == format
  wrong = 'lerobot' if format != 'lerobot' else 'rlds'
  with pytest.raises(UserError, match=f'It looks like.*--format {format}'):
    open_source(wrong, path)
  flags = ['--clip-actions', '--scale-actions'] if format == 'minari' else []
  assert main(['import', *flags, str(path), str(tmp_path / 'to')]) == 0
  metadata = json.loads((tmp_path / 'to' / 'metadata.json').read_text())
  assert metadata['collected']['format'] == format and metadata['episodes']


def test_local_minari():
  assert formats.recognise('hunt/box-v0') == 'minari'


def _file(path, name, data=b''):
  path.mkdir()
  (path / name).write_bytes(data)
  return path


def _hdf5(path, *keys):
  path.mkdir()
  with h5py.File(path / '0.hdf5', 'w') as file:
    for key in keys:
      file[key] = np.zeros(3)
  return path


CHUNK = f'20240101T000000F123456-{"a" * 22}-{"b" * 22}-1024.npz'
OTHERS = {
  'Zarr': lambda path: _file(path, '.zgroup'),
  'DreamerV3': lambda path: _file(path, CHUNK),
  'robomimic': lambda path: _hdf5(path, 'data/demo_0/actions', 'mask'),
  'D4RL': lambda path: _hdf5(path, 'observations', 'actions', 'terminals'),
  "HDF5 of 'x'": lambda path: _hdf5(path, 'x'),
  'run its code': lambda path: _file(path, 'a.pkl'),
  'PyTorch': lambda path: _file(path, 'a.pt') / 'a.pt',
  'Dopamine': lambda path: _file(path, '$store$_action_ckpt.0.gz'),
  'unpack it': lambda path: _file(path, 'a.zip') / 'a.zip',
  'without meta/info.json': lambda path: _file(path, 'a.parquet'),
  'videos without actions': lambda path: _file(path, 'a.mp4'),
}


@pytest.mark.parametrize('message', OTHERS)
def test_near_relatives(tmp_path, message):
  """Named in one sentence, also with a --format that does not fit."""
  path = OTHERS[message](tmp_path / 'a')
  match = f'{path}.*{message}.*--format dreamer'
  with pytest.raises(UserError, match=match):
    formats.recognise(str(path))
  format = 'vd4rl' if message in ('robomimic', 'D4RL') else 'rlds'
  with pytest.raises(UserError, match=match):
    importing.import_dataset(
      format, str(path), tmp_path / 'to', formats.Options()
    )


def test_others(tmp_path):
  (tmp_path / 'empty').mkdir()
  episode = write_dreamer(tmp_path / 'one', [make(6)]) / '2023-0-6.npz'
  (tmp_path / 'og').mkdir()
  write_ogbench(tmp_path / 'og' / '0.npz', [make(6)])
  shard = write_shard(tmp_path / 'two' / '0.hdf5', [make(6)])
  importing.import_dataset(
    'dreamer', str(tmp_path / 'one'), tmp_path / 'ours', formats.Options()
  )
  for path, message in (
    ('gone', 'there is no such file or folder'),
    ('empty', 'no known dataset; choose its format with --format'),
    ('og', 'pass one of them, such as .*0.npz, with --format ogbench'),
    ('ours', 'is a dataset of this program already'),
    (episode, 'a single episode; pass its folder'),
    (shard, 'a single file; pass its folder'),
  ):
    with pytest.raises(UserError, match=message):
      formats.recognise(str(tmp_path / path))


def test_names_without_lengths(tmp_path):
  np.savez(tmp_path / 'episode_0.npz', **make_episode(6))
  source = open_source('dreamer', tmp_path)
  assert len(source.read(0)['image']) == 6


def test_output_that_is_cut(tmp_path, monkeypatch):
  """`inspect | head` ends quietly, and draws the sheet all the same."""
  source, target = write_dreamer(tmp_path / 'ä', [make(6)]), tmp_path / 'to'
  importing.import_dataset('dreamer', str(source), target, formats.Options())
  root = pathlib.Path(formats.__file__).parents[3]
  environ = {'PYTHONPATH': str(root), 'PYTHONUNBUFFERED': '1'}
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, '-m', 'vid2act_jax.data', 'inspect', str(target)],
    stdout=writer,
    stderr=subprocess.PIPE,
    env={**os.environ, **environ},
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (0, b'')
  assert (target / 'contact_sheet.png').exists()
  # A terminal that cannot show the path.
  shown = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(shown, 'ascii'))
  assert main(['inspect', str(target)]) == 0
  assert b'dreamer from' in shown.getvalue() and rb'\xe4' in shown.getvalue()
