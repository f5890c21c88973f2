"""What all tests share: quick compilations, each done once."""

import os
from importlib import metadata

import pytest

# Most of the tests' time would be XLA optimizing code that runs once. It dies
# of flags it does not know, so they are given to the versions they were tried
# with alone. Before jax is imported, and for processes that tests start.
if metadata.version('jaxlib').startswith('0.10.'):
  flags = os.environ.get('XLA_FLAGS', '')
  os.environ['XLA_FLAGS'] = (
    f'{flags} --xla_backend_optimization_level=0'
    ' --xla_cpu_use_fusion_emitters=false'
    ' --xla_cpu_parallel_codegen_split_count=2'
  )

import jax  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """Runs of one config compile their steps once, not once a test.

  All processes share what is compiled, those that tests start as well.
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
