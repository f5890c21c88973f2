#!/usr/bin/env bash
# Sets up, then runs the tests, two files at a time; arguments go to pytest.
#
#   bash launch/test.sh          # the quick tests, at most 7 minutes on 2 cores
#   bash launch/test.sh --all    # also those marked slow: at most 25 minutes
#   bash launch/test.sh tests/loops/test_logger.py -k resume
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

selection=()
if [[ ${1:-} == --all ]]; then
  shift
  selection=(-m 'not nightly')
fi

cd "$root"
# Keep the files in order: xdist would run those with few tests last, which are
# the long ones, and one process would wait for the other.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile \
  --no-loadscope-reorder "${selection[@]}" "$@"
