#!/usr/bin/env bash
# Makes a TPU pod slice, runs an experiment on all its hosts, and takes it down.
#
#   bash launch/tpu_pod.sh create
#   bash launch/tpu_pod.sh install
#   bash launch/tpu_pod.sh run --config=experiments/dmc_quadruped.py \
#     --config.source_dir=/mnt/runs/sources  # and more: docs/scaling.md
#   bash launch/tpu_pod.sh status
#   bash launch/tpu_pod.sh stop      # saves; run goes on, given again
#   bash launch/tpu_pod.sh fetch     # the run's folder, into runs/ here
#   bash launch/tpu_pod.sh delete    # the machines; the folder stays
#
# Options, before the verb, each also by the variable behind it:
#   --name NAME          TPU_NAME      of the slice, by default vid2act
#   --zone ZONE          TPU_ZONE      as in us-central2-b
#   --type TYPE          TPU_TYPE      accelerator type, as in v4-32
#   --version VERSION    TPU_VERSION   runtime version, as in tpu-ubuntu2204-base
#   --project PROJECT    TPU_PROJECT   by default gcloud's own
#   --folder FOLDER      TPU_FOLDER    the run's, on a file system that all
#                                      hosts share: docs/scaling.md
#   --spot               TPU_SPOT=1    cheaper, and may be taken away
#   --dry-run            TPU_DRY_RUN=1 print every command and run none
#
# Needs gcloud, logged in. What is installed is the last commit of this
# checkout. What follows run goes to experiments.run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${TPU_NAME:-vid2act} zone=${TPU_ZONE:-} type=${TPU_TYPE:-}
version=${TPU_VERSION:-} project=${TPU_PROJECT:-} folder=${TPU_FOLDER:-}
spot=${TPU_SPOT:-} dry_run=${TPU_DRY_RUN:-}

# Relative to the home folder there, where ssh begins.
home=vid2act_jax

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

need() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || fail "--$option is missing (or TPU_${option^^})"
  done
}

# do_it COMMAND...: runs it, or prints it as it could be typed.
do_it() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "${*@Q}"
  else
    "$@"
  fi
}

tpu() {
  local verb=$1
  shift
  need zone
  do_it gcloud compute tpus tpu-vm "$verb" "$@" "--zone=$zone" \
    ${project:+"--project=$project"}
}

# on WORKER SCRIPT: runs bash code there; WORKER is a number or all.
on() { tpu ssh "$name" "--worker=$1" "--command=$2"; }

create() {
  need type version
  tpu create "$name" "--accelerator-type=$type" "--version=$version" \
    ${spot:+--spot}
}

install() {
  local archive
  archive=$(mktemp -d)/vid2act_jax.tar.gz
  # shellcheck disable=SC2064  # It is known now.
  trap "rm -rf '$(dirname "$archive")'" EXIT
  if [[ -n $(git -C "$root" status --porcelain --untracked-files=no) ]]; then
    say 'install: what is not committed stays here'
  fi
  do_it git -C "$root" archive --format=tar.gz -o "$archive" HEAD
  tpu scp "$archive" "$name:vid2act_jax.tar.gz" --worker=all
  on all "mkdir -p $home && tar -xzf vid2act_jax.tar.gz -C $home &&
cd $home && bash launch/setup.sh &&
.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[tpu]'"
}

# Every host must see what the first one writes: a run has one folder.
check_folder() {
  local token=.shared-$RANDOM$RANDOM quoted
  need folder
  [[ $folder != *://* ]] ||
    fail "--folder=$folder: it must be mounted, in the same place on every host"
  [[ $folder == /* ]] || fail "--folder=$folder: it must begin with /"
  quoted=$(printf %q "$folder")
  on 0 "mkdir -p $quoted && touch $quoted/$token"
  on all "test -e $quoted/$token || {
echo 'error: --folder is not on a file system that all hosts share' >&2
exit 1
}"
  on 0 "rm $quoted/$token"
}

run() {
  local arguments
  check_folder
  arguments=$(printf ' %q' "$@" "--workdir=$folder")
  # The process itself, not a shell, is what stop sends its signal to.
  on all "cd $home || exit 1
if test -e run.pid && kill -0 \$(cat run.pid) 2>/dev/null
then
echo 'error: a run is under way; stop it first' >&2
exit 1
fi
rm -f run.status
nohup bash -c '.venv/bin/python -u -m experiments.run \"\$@\" &
echo \$! >run.pid
wait \$!
echo \$? >run.status' run$arguments >>run.log 2>&1 </dev/null &
sleep 1"
}

status() {
  on all "cd $home || exit 1
if test -e run.status
then echo \"\$(hostname): ended with status \$(cat run.status)\"
elif test -e run.pid && kill -0 \$(cat run.pid) 2>/dev/null
then echo \"\$(hostname): running\"
else echo \"\$(hostname): not running\"
fi
test ! -e run.log || tail -n ${1:-5} run.log"
}

stop() {
  # In step: one host alone could not save.
  on all "cd $home || exit 1
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
  local to=${1:-$root/runs}
  need folder
  do_it mkdir -p "$to"
  tpu scp "$name:$folder" "$to" --worker=0 --recurse
}

delete() { tpu delete "$name" --quiet; }

while (($# > 0)); do
  case $1 in
    --name=* | --zone=* | --type=* | --version=* | --project=* | --folder=*)
      option=${1%%=*}
      printf -v "${option#--}" %s "${1#*=}"
      ;;
    --name | --zone | --type | --version | --project | --folder)
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

verb=${1:-}
case $verb in
  create | install | run | status | stop | fetch | delete)
    shift
    [[ -n $dry_run ]] || command -v gcloud >/dev/null ||
      fail 'there is no gcloud: https://cloud.google.com/sdk/docs/install'
    "$verb" "$@"
    ;;
  '') fail 'what to do? create, install, run, status, stop, fetch or delete' ;;
  *) fail "$verb: not create, install, run, status, stop, fetch or delete" ;;
esac
