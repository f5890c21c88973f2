"""Malicious files are rejected early, by name, and no code of them is run."""

import ast
import json
import pathlib
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest

from tests import untrusted_data
from tests.episode_data import DESCRIPTION, fill, make_episode
from tests.format_data import open_source
from tests.untrusted_data import Payload, header, npy, write_bombs, zeros
from vid2act_jax.data import dataset, files, quarantine, weights
from vid2act_jax.data import episodes as eps
from vid2act_jax.types import UserError

_ROOT = pathlib.Path(__file__).parents[2]
# The start of an array file with a header of 9000 bytes.
LONG = b'\x93NUMPY\x01\x00' + struct.pack('<H', 9000)
sentinel = pytest.fixture(untrusted_data.sentinel)
resource_limits = pytest.fixture(untrusted_data.resource_limits)


class TestNpz:
  @pytest.mark.parametrize(
    'kwargs, message',
    [
      ({}, 'claim to hold 12.9 GB'),
      ({'gib': 1, 'count': 3}, 'claim to hold 3.22 GB'),
      ({'claimed': 200, 'gib': 3}, 'Bad CRC-32'),
      ({'claimed': 1 << 60, 'gib': 1}, r'claim to hold 1.15e\+09 GB'),
    ],
  )
  def test_bombs(self, tmp_path, kwargs, message, resource_limits):
    path = write_bombs(tmp_path / '000000-8.npz', **kwargs)
    assert path.stat().st_size < 16 << 20
    with pytest.raises(UserError, match=f'{path}: .*{message}.*restore it, or'):
      eps.load(path)

  def test_member_longer_than_claimed(self, tmp_path, resource_limits):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a.npy', zeros(header((99,)), 2 << 10))
      archive.getinfo('a.npy').compress_type = zipfile.ZIP_DEFLATED
      archive.getinfo('a.npy').file_size = len(header((99,))) + 99
    with pytest.raises(UserError, match='a.npz: damaged.*CRC'):
      files.read_npz(path)

  def test_unused_members_are_not_unpacked(self, tmp_path, resource_limits):
    path = write_bombs(tmp_path / 'a.npz')
    with zipfile.ZipFile(path, 'a') as archive:
      archive.writestr('reward.npy', npy(np.ones(3, np.float32)))
    assert files.read_npz(path, ('reward',))['reward'].tolist() == [1, 1, 1]

  @pytest.mark.parametrize(
    'data, message',
    [
      (header((10**12,)), r'shape \(1000000000000,\)'),
      (header((2**32, 2**32)), 'does not fit'),
      (header((-1,)), r'shape \(-1,\)'),
      (header((10**18, 0)), r'shape \(1000000000000000000, 0\)'),
      (header((9,)) + bytes(8), 'does not fit'),
      (header((9,)) + bytes(10), 'does not fit'),
      (header((1,), '|O') + bytes(8), 'of the type object'),
      (header((1,), [('a', '<i4'), ('b', '<f4')]) + bytes(8), 'of the type'),
      (header((1,), '|V8') + bytes(8), 'of the type'),
      (header((9,), '|S0'), 'of the type'),
      (header((1,), version=3) + b'1', 'of version'),
      (b'\x93NUMPY\x02\x00' + struct.pack('<I', 1 << 31), 'header of 21474'),
      # The messages differ between versions of Python.
      (LONG + b'(' * 9000, '(EOF|too many nested parentheses)'),
      (LONG + b'-' * 9000, '(Error|stack overflowed)'),
      (b'\x80\x04N.', 'reading magic'),
    ],
  )
  def test_headers(self, tmp_path, data, message, resource_limits):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a.npy', data)
    with pytest.raises(UserError, match=f'a.npz: damaged.*{message}.*restore'):
      files.read_npz(path)

  def test_members(self, tmp_path):
    path = tmp_path / 'a.npz'
    for second in ('a.npy', 'a'):
      with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.npy', npy(1))
        with warnings.catch_warnings():
          warnings.simplefilter('ignore')
          archive.writestr(second, npy(2))
      with pytest.raises(UserError, match="a.npz: .*it has 'a' twice.*restore"):
        files.read_npz(path)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_BZIP2) as archive:
      archive.writestr('a.npy', npy(1))
    with pytest.raises(UserError, match='by another method.*restore'):
      files.read_npz(path)
    with zipfile.ZipFile(path, 'w') as archive:
      for number in range(10_001):
        archive.writestr(str(number), b'')
    with pytest.raises(UserError, match='it has 10001 members.*restore'):
      files.read_npz(path)

  def test_plain_arrays_round_trip(self, tmp_path):
    arrays = {
      'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
      'scalar': np.array(3),
      'empty': np.zeros((0, 4, 4, 3), np.uint8),
      'text': np.array(['a', 'bc']),
      'big': np.arange(3, dtype='>i4'),
    }
    for save in (np.savez, np.savez_compressed):
      save(tmp_path / 'a.npz', **arrays)
      read = files.read_npz(tmp_path / 'a.npz')
      for key, value in arrays.items():
        assert read[key].dtype == value.dtype and read[key].flags.writeable
        np.testing.assert_array_equal(read[key], value)

  def test_pickles(self, tmp_path, sentinel):
    array = np.array([Payload(sentinel)] * 3, object)
    path = tmp_path / '000000-3.npz'
    np.savez(path, image=array, reward=array, actions=array, terminals=array)
    for read in (eps.load, eps.load_summary, weights.read):
      with pytest.raises(UserError, match='000000-3.npz.*type object'):
        read(path)
    for format in ('dreamer', 'vd4rl'):
      with pytest.raises(UserError, match='000000-3.npz.*type object'):
        open_source(format, tmp_path).read(0)
    with pytest.raises(UserError, match='000000-3.npz.*type object'):
      open_source('ogbench', path, image_key='image')
    path.write_bytes(npy(array, allow_pickle=True))
    with pytest.raises(UserError, match='000000-3.npz.*not a zip'):
      eps.load(path)


class TestMetadata:
  @pytest.mark.parametrize(
    'text, message',
    [
      ('[' * 100_000, 'nested too deeply'),
      ('{"size": ' * 100_000, 'nested too deeply'),
      ('9' * 100_000, 'digits'),
      (' ' * ((64 << 20) + 1), 'longer than 64 MB'),
      (b'\xff\xfe', 'decode'),
    ],
  )
  def test_json(self, tmp_path, text, message):
    path = tmp_path / dataset.FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f'{path}: .*{message}.*restore it'):
      dataset.read_metadata(tmp_path)

  @pytest.mark.parametrize(
    'key, value',
    [
      ('size', '64'),
      ('size', 1 << 40),
      ('action_dim', -1),
      ('action_repeat', 'x'),
      ('episodes', True),
      ('collected', None),
    ],
  )
  def test_types(self, tmp_path, key, value):
    fill(tmp_path, [4])
    dataset.write_metadata(tmp_path, 'x', {'method': 'm'}, DESCRIPTION, True)
    path = tmp_path / dataset.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(
      UserError, match=f'{path}: values of the wrong type.*{key}.*restore'
    ):
      dataset.read_metadata(tmp_path)

  def test_reasons(self, tmp_path):
    path = tmp_path / quarantine.FOLDER / 'a.reason.txt'
    path.parent.mkdir()
    path.write_bytes(b'\xff')
    with pytest.raises(UserError, match=f'{path}: cannot be read.*remove it'):
      quarantine.read_reasons(tmp_path)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_checkpoints(tmp_path):
  """A few bytes can claim any shape or any chunk size."""
  import tensorstore

  from vid2act_jax.loops.checkpoint import Checkpoint

  state = {'a': np.ones(4, np.float32)}
  saver = Checkpoint(tmp_path)
  saver.save(1, state, {})
  base = f'file://{tmp_path}/1/state/'
  store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': base}).result()
  metadata = json.loads(store['a/.zarray'])
  for change in ({'shape': [1 << 36]}, {'chunks': [1 << 36]}):
    store['a/.zarray'] = json.dumps({**metadata, **change}).encode()
    for read in (saver.restore_raw, lambda: saver.restore(state)):
      with pytest.raises(
        UserError, match=f'{tmp_path}/1 .*275 GB.*use another folder'
      ):
        read()
  (tmp_path / 'DONE.json').write_text('[' * 100_000)
  with pytest.raises(UserError, match='DONE.json .*deeply.*remove it'):
    saver.finished()


def test_configs_and_metrics(tmp_path):
  from vid2act_jax.loops import logger, runs

  for text in ('[' * 100_000, '[]', '"x"'):
    (tmp_path / runs.CONFIG).write_text(text)
    with pytest.raises(UserError, match='config.json .*restore it'):
      runs.read_config_dict(tmp_path)
    (tmp_path / logger.METRICS).write_text(f'{text}\n')
    if text != '[]':
      with pytest.raises(UserError, match='metrics.jsonl.*delete that line'):
        logger.read_metrics(tmp_path)


_CODE = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve', 'yaml'}


@pytest.mark.parametrize('folder', ['vid2act_jax', 'experiments'])
def test_no_code_is_run_from_files(folder):
  """The code base has no calls that can run code from a file."""
  torch_loads = []
  for path in sorted((_ROOT / folder).rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      where = f'{path}:{getattr(node, "lineno", 0)}'
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      else:
        names = []
      assert not {name.split('.')[0] for name in names} & _CODE, where
      if not isinstance(node, ast.Call):
        continue
      called = ast.unparse(node.func)
      kwargs = {k.arg: ast.unparse(k.value) for k in node.keywords}
      assert called not in ('eval', 'exec', 'compile', '__import__'), where
      assert kwargs.get('allow_pickle', 'False') == 'False', where
      if called in ('np.load', 'numpy.load', 'np.lib.format.read_array'):
        assert 'allow_pickle' in kwargs, where
      if re.fullmatch(r'torch\.(load|jit\.load)|.*torch\.load', called):
        assert kwargs.get('weights_only') == 'True', where
        torch_loads.append(called)
  assert torch_loads == (['torch.load'] if folder == 'vid2act_jax' else [])


def test_valid_episodes_are_read(tmp_path):
  """Blank frames and flags compress about 1000 times and are accepted."""
  episode = make_episode(3000, size=64)
  episode['image'][:] = episode['action'][:] = 0
  path = eps.save(tmp_path, 0, episode)
  assert episode['image'].nbytes > 150 * path.stat().st_size
  assert eps.load(path)['image'].shape == (3000, 64, 64, 3)
