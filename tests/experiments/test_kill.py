"""Sends real signals to real runs; in full: python -m tests.kill_runs."""

import random
import signal

import pytest

from tests import kill_runs


@pytest.mark.slow
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
def test_killed_runs_equal_the_reference(finished, tmp_path, signum, kinds):
  rng = random.Random(int(signum))
  diff, kills = kill_runs.run_with_kills(tmp_path, kinds, rng, finished, signum)
  assert not diff
  # The run may end before the last kill.
  assert kills >= len(kinds) - 1
