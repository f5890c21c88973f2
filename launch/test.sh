#!/usr/bin/env bash
# Runs the setup, then the tests in two processes; arguments go to pytest.
#
#   bash launch/test.sh
#   bash launch/test.sh tests/loops/test_logger.py -k resume
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cd "$root"
# Without reordering: files with few tests are slow and must not be last.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile \
  --no-loadscope-reorder "$@"
