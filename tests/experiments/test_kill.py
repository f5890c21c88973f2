"""Real signals at real runs; in full: python -m tests.kill_runs."""

import random
import signal

import pytest

from tests import kill_runs


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that was left alone."""
  folder = tmp_path_factory.mktemp('left_alone')
  # Runs of one session compile once.
  with pytest.MonkeyPatch.context() as patch:
    cache = tmp_path_factory.mktemp('compiled')
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(cache))
    kill_runs.finish(kill_runs.start(folder))
    yield folder


@pytest.mark.parametrize(
  'number, kinds',
  [
    (signal.SIGKILL, ['episode', 'checkpoint', 'random']),
    # By default test_run.py and test_launch.py send SIGTERM.
    pytest.param(
      signal.SIGTERM, ['random', 'random'], marks=pytest.mark.nightly
    ),
  ],
)
def test_killed_runs_end_as_those_left_alone(
  reference, tmp_path, number, kinds
):
  rng = random.Random(int(number))
  found, met = kill_runs.run_with_kills(tmp_path, kinds, rng, reference, number)
  assert not found
  # The last may come too late, when the run has ended.
  assert met >= len(kinds) - 1
