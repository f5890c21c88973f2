"""Malicious files for the tests."""

import io
import pathlib
import struct
import time
import tracemalloc
import zipfile
import zlib

import numpy as np

GIB = 1 << 30
_MAX_MEMORY = 256 << 20  # Bytes, to reject a file.


class Payload:
  """Touches a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def sentinel(tmp_path):
  """A fixture: a file that exists only if code was run."""
  path = tmp_path / 'code_was_run'
  yield path
  assert not path.exists()


def resource_limits():
  """A fixture that fails if rejecting a file takes much time or memory."""
  tracemalloc.start()
  started = time.process_time()
  yield
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < _MAX_MEMORY
  assert time.process_time() - started < 10


def header(shape, descr='|u1', version=1):
  text = repr({'descr': descr, 'fortran_order': False, 'shape': shape})
  length = struct.pack('<H' if version == 1 else '<I', len(text) + 1)
  return b'\x93NUMPY' + bytes([version, 0]) + length + text.encode() + b'\n'


def npy(array, **kwargs):
  file = io.BytesIO()
  np.lib.format.write_array(file, np.asarray(array), **kwargs)
  return file.getvalue()


def zeros(start, megabytes):
  """A deflated stream of `start` and zeros, compressed about 1000 times."""
  packer = zlib.compressobj(9, wbits=-15)
  data = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
  block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
  return data + block * megabytes + packer.flush()


def write_bombs(path, claimed=None, key='image', gib=12, count=1):
  """Writes members that unpack to GiBs, with any claimed size."""
  with zipfile.ZipFile(path, 'w') as archive:
    for number in range(count):
      start = header((gib * GIB,))
      name = f'{key}{number or ""}.npy'
      archive.writestr(name, zeros(start, gib << 10))
      # The sizes are read from the directory at the end, not yet written.
      info = archive.getinfo(name)
      info.compress_type = zipfile.ZIP_DEFLATED
      info.file_size = claimed or len(start) + gib * GIB
  return path
