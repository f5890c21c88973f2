#!/usr/bin/env bash
# Creates a TPU pod slice, runs an experiment on all hosts, and deletes it.
#
#   bash launch/tpu_pod.sh create    # queued; waits until it is active
#   bash launch/tpu_pod.sh install
#   bash launch/tpu_pod.sh run --config=experiments/dmc_quadruped.py \
#     --config.finetune.batch=64     # and more: docs/scaling.md
#   bash launch/tpu_pod.sh status
#   bash launch/tpu_pod.sh logs      # of all hosts, 100 lines of each
#   bash launch/tpu_pod.sh stop      # saves; the same run command resumes
#   bash launch/tpu_pod.sh fetch     # copies the run folder to runs/
#   bash launch/tpu_pod.sh delete    # deletes the slice; keeps the run folder
#
# Options, before the command, or the environment variable next to them:
#   --name NAME          TPU_NAME      name of the slice, default: vid2act
#   --zone ZONE          TPU_ZONE      for example us-central2-b
#   --type TYPE          TPU_TYPE      accelerator type, for example v4-32
#   --version VERSION    TPU_VERSION   runtime version, default: that of the
#                                      type
#   --project PROJECT    TPU_PROJECT   default: gcloud's project
#   --folder FOLDER      TPU_FOLDER    the run folder, gs://BUCKET/RUN or on a
#                                      file system that all hosts share
#   --cache FOLDER       TPU_CACHE     of compiled steps, default: with gs://,
#                                      cache/ next to the run folder
#   --spot               TPU_SPOT=1    cheaper, but may be preempted
#   --dry-run            TPU_DRY_RUN=1 only print the commands
#
# Requires gcloud, logged in. install copies the last commit of this checkout.
# Arguments after run go to experiments.run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${TPU_NAME:-vid2act} zone=${TPU_ZONE:-} type=${TPU_TYPE:-}
version=${TPU_VERSION:-} project=${TPU_PROJECT:-} folder=${TPU_FOLDER:-}
cache=${TPU_CACHE:-} poll=${TPU_POLL_SECONDS:-20}
spot=${TPU_SPOT:-} dry_run=${TPU_DRY_RUN:-}

# Relative to the home folder of the hosts.
home=vid2act_jax

# On a host: the number of the worker, with which its name ends: NAME-w-0.
this_worker='worker=$(hostname) && worker=${worker##*-w-}'

log() { printf '%s\n' "$*" >&2; }

fail() {
  log "error: $*"
  exit 1
}

require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || fail "--$option is missing (or TPU_${option^^})"
  done
}

# execute COMMAND...: runs the command, or prints it, quoted, in a dry run.
execute() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "${*@Q}"
  else
    "$@"
  fi
}

# gcloud_tpus GROUP SUBCOMMAND ARGUMENTS...
gcloud_tpus() {
  local group=$1 subcommand=$2
  shift 2
  require zone
  execute gcloud compute tpus "$group" "$subcommand" "$@" "--zone=$zone" \
    ${project:+"--project=$project"}
}

tpu() { gcloud_tpus tpu-vm "$@"; }
queue() { gcloud_tpus queued-resources "$@"; }

# run_on WORKER SCRIPT: runs bash code on a host; WORKER is a number or all.
run_on() { tpu ssh "$name" "--worker=$1" "--command=$2"; }

# The runtime version for JAX of the accelerator type.
default_version() {
  case $type in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-* | v5e-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "--type=$type: not known (v2, v3, v4, v5litepod, v5p, v6e); name" \
      'its runtime version with --version' ;;
  esac
}

create() {
  local state last=
  require type
  [[ -n $version ]] || version=$(default_version)
  queue create "$name" "--node-id=$name" "--accelerator-type=$type" \
    "--runtime-version=$version" ${spot:+--spot}
  while true; do
    state=$(queue describe "$name" '--format=value(state.state)')
    if [[ -n $dry_run ]]; then
      printf '%s\n' "$state"
      return
    fi
    [[ $state == "$last" ]] || log "$name: $state"
    last=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        fail "the slice is $state; see gcloud compute tpus queued-resources" \
          "describe $name --zone=$zone, then delete and create it again"
        ;;
    esac
    sleep "$poll"
  done
}

install() {
  local archive
  archive=$(mktemp -d)/vid2act_jax.tar.gz
  # shellcheck disable=SC2064  # Expand it now.
  trap "rm -rf '$(dirname "$archive")'" EXIT
  if [[ -n $(git -C "$root" status --porcelain --untracked-files=no) ]]; then
    log 'warning: uncommitted changes are not installed'
  fi
  execute git -C "$root" archive --format=tar.gz -o "$archive" HEAD
  tpu scp "$archive" "$name:vid2act_jax.tar.gz" --worker=all
  run_on all "mkdir -p $home && tar -xzf vid2act_jax.tar.gz -C $home &&
cd $home && bash launch/setup.sh &&
.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[tpu,gcs]'"
}

# All hosts must share the run folder.
check_folder() {
  local token=.shared-$RANDOM$RANDOM quoted
  require folder
  [[ $folder != gs://?*/?* ]] || return 0
  [[ $folder == /* ]] ||
    fail "--folder=$folder: must begin with /, or be gs://BUCKET/FOLDER"
  quoted=$(printf %q "$folder")
  run_on 0 "mkdir -p $quoted && touch $quoted/$token"
  run_on all "test -e $quoted/$token || {
echo 'error: --folder is not on a file system that all hosts share' >&2
exit 1
}"
  run_on 0 "rm $quoted/$token"
}

run() {
  local arguments variables= hosts=1 own=
  check_folder
  # A slice that replaces a preempted one finds its compiled steps there.
  if [[ -z $cache && $folder == gs://* ]]; then
    cache=${folder%/}
    cache=${cache%/*}/cache
  fi
  [[ -z $cache ]] ||
    variables="JAX_COMPILATION_CACHE_DIR=$(printf %q "$cache") "
  if [[ " $* " == *' --config.seeds'[=\ ]* ]]; then
    hosts=$(tpu describe "$name" '--format=value(networkEndpoints.len())')
    if [[ -n $dry_run ]]; then
      printf '%s\n' "$hosts"
      hosts=HOSTS
    fi
  fi
  if [[ $hosts != 1 ]]; then
    # Seeds are shared out. Each host sees a slice of its own: in slices of
    # several hosts each has four chips, in a square.
    variables+='TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 '
    variables+='TPU_VISIBLE_DEVICES=0,1,2,3 CLOUD_TPU_TASK_ID=0 '
    own=" --num_processes=$hosts --process_id=\$worker"
  fi
  arguments=$(printf ' %q' "$@" "--workdir=$folder")
  # stop sends its signal to the Python process, not to a shell.
  run_on all "cd $home || exit 1
if test -e run.pid && kill -0 \$(cat run.pid) 2>/dev/null
then
echo 'error: already running; stop it first' >&2
exit 1
fi
rm -f run.status
$this_worker
${variables}nohup bash -c '.venv/bin/python -u -m experiments.run \"\$@\" &
echo \$! >run.pid
wait \$!
echo \$? >run.status' run$arguments$own >>run.log 2>&1 </dev/null &
sleep 1"
}

status() {
  run_on all "cd $home || exit 1
if test -e run.status
then echo \"\$(hostname): ended with status \$(cat run.status)\"
elif test -e run.pid && kill -0 \$(cat run.pid) 2>/dev/null
then echo \"\$(hostname): running\"
else echo \"\$(hostname): not running\"
fi
test ! -e run.log || tail -n ${1:-5} run.log"
}

logs() {
  run_on all "cd $home || exit 1
$this_worker
test ! -e run.log || tail -n ${1:-100} run.log | sed \"s/^/[\$worker] /\""
}

stop() {
  # On all hosts: saving needs all of them.
  run_on all "cd $home || exit 1
test -e run.pid || exit 0
kill -TERM \$(cat run.pid) 2>/dev/null
for i in \$(seq 300)
do kill -0 \$(cat run.pid) 2>/dev/null || exit 0
sleep 1
done
echo 'error: still running after 300 s; see status' >&2
exit 1"
}

fetch() {
  local target=${1:-$root/runs}
  require folder
  execute mkdir -p "$target"
  if [[ $folder == gs://* ]]; then
    execute gcloud storage cp --recursive "$folder" "$target"
    return
  fi
  tpu scp "$name:$folder" "$target" --worker=0 --recurse
}

delete() { queue delete "$name" --force --quiet; }

while (($# > 0)); do
  case $1 in
    --name=* | --zone=* | --type=* | --version=* | --project=* | --folder=* | \
      --cache=*)
      option=${1%%=*}
      printf -v "${option#--}" %s "${1#*=}"
      ;;
    --name | --zone | --type | --version | --project | --folder | --cache)
      (($# > 1)) || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --spot) spot=1 ;;
    --dry-run) dry_run=1 ;;
    --help | -h)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) break ;;
  esac
  shift
done

command=${1:-}
case $command in
  create | install | run | status | logs | stop | fetch | delete)
    shift
    [[ -n $dry_run ]] || command -v gcloud >/dev/null ||
      fail 'gcloud not found: https://cloud.google.com/sdk/docs/install'
    "$command" "$@"
    ;;
  '')
    fail 'no command; use create, install, run, status, logs, stop, fetch or' \
      'delete'
    ;;
  *)
    fail "unknown command $command; use create, install, run, status, logs," \
      'stop, fetch or delete'
    ;;
esac
