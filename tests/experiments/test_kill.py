"""Sends real signals to real runs; in full: python -m tests.kill_runs."""

import random
import signal

import pytest

from tests import kill_runs


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run without interruptions."""
  folder = tmp_path_factory.mktemp('reference')
  # The runs share a compilation cache.
  with pytest.MonkeyPatch.context() as patch:
    cache = tmp_path_factory.mktemp('compiled')
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(cache))
    kill_runs.finish(kill_runs.start(folder))
    yield folder


@pytest.mark.parametrize(
  'signum, kinds',
  [
    (signal.SIGKILL, ['episode', 'checkpoint', 'random']),
    # By default test_run.py and test_launch.py send SIGTERM.
    pytest.param(
      signal.SIGTERM, ['random', 'random'], marks=pytest.mark.nightly
    ),
  ],
)
def test_killed_runs_equal_the_reference(reference, tmp_path, signum, kinds):
  rng = random.Random(int(signum))
  diff, kills = kill_runs.run_with_kills(
    tmp_path, kinds, rng, reference, signum
  )
  assert not diff
  # The run may end before the last kill.
  assert kills >= len(kinds) - 1
