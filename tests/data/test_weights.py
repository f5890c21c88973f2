"""Tests of reading weights of other programs."""

import json
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from tests import untrusted_data
from tests.untrusted_data import Payload, write_bombs
from vid2act_jax.data import weights
from vid2act_jax.types import UserError

sentinel = pytest.fixture(untrusted_data.sentinel)
resource_limits = pytest.fixture(untrusted_data.resource_limits)


def test_npz(tmp_path):
  np.savez(tmp_path / 'a.npz', **{'a.weight': np.ones(3)})
  assert weights.read(tmp_path / 'a.npz')['a.weight'].tolist() == [1, 1, 1]
  np.savez(tmp_path / 'a.npz', a=np.array(['x']))
  with pytest.raises(UserError, match="a.npz: 'a' is <U1, should.*convert"):
    weights.read(tmp_path / 'a.npz')
  with pytest.raises(UserError, match='gone.pt: not a file; pass a weights'):
    weights.read(tmp_path / 'gone.pt')


def test_safetensors(tmp_path, resource_limits):
  numpy = pytest.importorskip('safetensors.numpy')
  path = tmp_path / 'a.safetensors'
  arrays = {'a.b': np.arange(6, dtype=np.float32).reshape(2, 3)}
  numpy.save_file(arrays, path)
  np.testing.assert_array_equal(weights.read(path)['a.b'], arrays['a.b'])

  def write(length=None, **changes):
    entry = {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}
    head = json.dumps({'a': {**entry, **changes}}).encode()
    size = struct.pack('<Q', length or len(head))
    path.write_bytes(size + head + bytes(24))

  write(dtype='BF16', shape=[3, 4])
  assert weights.read(path)['a'].dtype == np.float32
  for change in (
    {'shape': [10**12]},
    {'shape': [10**12], 'data_offsets': [0, 4 * 10**12]},
    {'shape': [2**63, 2**63]},
    {'data_offsets': [8, 32]},
    {'length': 1 << 60},
    {'dtype': 'object'},
    {'dtype': 'F8_E5M2', 'shape': [24]},
  ):
    write(**change)
    with pytest.raises(UserError, match=f'{path}: .*convert it again'):
      weights.read(path)


@pytest.mark.parametrize('torch', [None, '2.5.1'])
def test_missing_or_old_pytorch(tmp_path, monkeypatch, torch, sentinel):
  import pickle

  path = tmp_path / 'a.pt'
  path.write_bytes(pickle.dumps(Payload(sentinel)))
  module = torch and types.SimpleNamespace(__version__=torch)
  monkeypatch.setitem(sys.modules, 'torch', module)
  with pytest.raises(UserError, match=f"(?s){path}: .*savez.'a.npz'") as caught:
    weights.read(path)
  assert 'weights_only=True' in str(caught.value)


def test_pytorch_loads_only_tensors(tmp_path, monkeypatch):
  calls = []

  def load(path, **kwargs):
    calls.append(kwargs)
    return {}

  module = types.SimpleNamespace(__version__='2.6.0+cpu', load=load)
  monkeypatch.setitem(sys.modules, 'torch', module)
  path = tmp_path / 'a.pth'
  zipfile.ZipFile(path, 'w').close()
  with pytest.raises(UserError, match='a.pth: holds no tensors; save the'):
    weights.read(path)
  assert calls == [{'map_location': 'cpu', 'weights_only': True}]
  write_bombs(path)
  with pytest.raises(UserError, match='a.pth: .*claim to hold.*save the'):
    weights.read(path)
  path.write_bytes(b'\x80\x02}.')
  with pytest.raises(UserError, match='a.pth: .*not a zip.*save the'):
    weights.read(path)
  assert len(calls) == 1
