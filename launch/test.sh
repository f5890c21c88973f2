#!/usr/bin/env bash
# Sets up, then runs the tests, two files at a time; arguments go to pytest.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/loops/test_logger.py -k resume
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cd "$root"
# Not the files of few tests last, which are long: one process would wait.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile \
  --no-loadscope-reorder "$@"
