#!/usr/bin/env bash
# Sets up, then runs an experiment on this machine; by default the quickstart.
#
#   bash launch/local.sh
#   bash launch/local.sh --config=experiments/dmc_quadruped.py --workdir=/tmp/run
#
# Paths that are not absolute start at the project's folder.
set -euo pipefail

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

config=(--config=experiments/quickstart.py)
for argument in "$@"; do
  case $argument in
    --config | --config=* | -config | -config=*) config=() ;;
  esac
done

# Large pages, kept once they are got: on a CPU the arrays of an update are
# otherwise made of new small pages every time (measured: 15% faster with).
if [[ ! -e /dev/nvidia0 && -z ${GLIBC_TUNABLES:-} ]]; then
  keep=100000000000
  GLIBC_TUNABLES=glibc.malloc.hugetlb=1
  GLIBC_TUNABLES+=:glibc.malloc.mmap_threshold=$keep
  GLIBC_TUNABLES+=:glibc.malloc.trim_threshold=$keep
  export GLIBC_TUNABLES
fi

cd "$root"
exec "$venv/bin/python" -m experiments.run "${config[@]}" "$@"
