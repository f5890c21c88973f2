"""Shared settings of all tests: fast compilation and its cache."""

import os
from importlib import metadata

import pytest

# Most of the tests' time would be spent on XLA optimizing code that runs once.
# XLA aborts on unknown flags, so they are set only for versions that were
# tested. Set before jax is imported, and inherited by subprocesses.
_FLAGS = '--xla_backend_optimization_level=0'
_FLAGS += ' --xla_cpu_parallel_codegen_split_count=2'
_TESTED_FLAGS = {
  '0.10': f'{_FLAGS} --xla_cpu_use_fusion_emitters=false',
  '0.12': _FLAGS,
}
_version = '.'.join(metadata.version('jaxlib').split('.')[:2])
_given = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = f'{_given} {_TESTED_FLAGS.get(_version, "")}'.strip()

import jax  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """A compilation cache, so that tests with equal steps compile them once.

  All processes share it, including subprocesses of tests.
  """
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  settings = {
    'jax_compilation_cache_dir': str(folder / 'compiled'),
    'jax_persistent_cache_min_compile_time_secs': 0.2,
  }
  for name, value in settings.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
  yield
  jax.config.update('jax_compilation_cache_dir', None)


@pytest.fixture
def gcs(monkeypatch):
  """An emulator of Cloud Storage; see `tests.gcs.Emulator`."""
  pytest.importorskip('gcsfs')
  pytest.importorskip('gcp_storage_emulator')
  from gcsfs.core import GCSFileSystem

  from tests.gcs import emulate

  GCSFileSystem.clear_instance_cache()
  with emulate(monkeypatch) as emulator:
    yield emulator
  GCSFileSystem.clear_instance_cache()
