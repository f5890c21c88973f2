#!/usr/bin/env bash
# Runs the setup, then an experiment as several processes on this machine: one
# process per GPU, or a test of a cluster run.
#
#   bash launch/multiprocess.sh 2 --config=experiments/dmc_hopper.py \
#     --config.source_dir=data --config.pretrain.batch=56
#
# The source datasets must exist, and the batch sizes must be divisible by the
# number of devices: docs/scaling.md.
#
#   DEVICES=N   number of simulated CPU devices per process, also on machines
#               with GPUs. Default: the GPUs, split evenly; without GPUs, one
#               CPU device per process
#   GRACE=S     seconds until the remaining processes are killed after one has
#               failed, or has saved and stopped; default: 60
#   MODULE=M    module to run, default: experiments.run; it gets --coordinator,
#               --num_processes and --process_id
#   VENV, PYTHON  see launch/setup.sh
#
# Output lines are prefixed with the process number, [0], [1] and so on. On
# TERM, HUP or Ctrl-C all processes save and stop; a second Ctrl-C kills them.
# The exit status is that of the first process that failed; 75 if they saved and
# stopped (the same command resumes); 0 on success.
#
# Relative paths are relative to the project folder.
set -euo pipefail

usage='usage: bash launch/multiprocess.sh PROCESSES --config=FILE ...'

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
  die "needs bash 5.1 or later, found $BASH_VERSION"
num=${1:-}
[[ $num =~ ^[1-9][0-9]*$ ]] || die "$usage"
shift
devices=${DEVICES:-}
[[ $devices =~ ^([1-9][0-9]*)?$ ]] || die "DEVICES=$devices is not a number"
grace=${GRACE:-60}
[[ $grace =~ ^[0-9]+$ ]] || die "GRACE=$grace is not a number of seconds"

# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"

# Prints the ids of the visible GPUs.
list_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep . || true
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
  fi
}

gpus=()
if [[ -z $devices && ${JAX_PLATFORMS:-} != cpu ]]; then
  mapfile -t gpus < <(list_gpus)
fi
per_process=$((${#gpus[@]} / num))
if ((${#gpus[@]} > 0)); then
  ((per_process * num == ${#gpus[@]})) ||
    die "${#gpus[@]} GPUs cannot be split evenly between $num processes;" \
      'set CUDA_VISIBLE_DEVICES to fewer, or DEVICES=1 to use the CPU'
else
  export JAX_PLATFORMS=cpu
  # XLA's default CPU collectives support only one process.
  export JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
  flag=--xla_force_host_platform_device_count=${devices:-1}
  export XLA_FLAGS="${XLA_FLAGS:-} $flag"
fi
export PYTHONUNBUFFERED=1

port=$("$venv/bin/python" - <<'PYTHON'
import socket

with socket.socket() as free:
  free.bind(('127.0.0.1', 0))
  print(free.getsockname()[1])
PYTHON
)

# Every process has its own process group: only this script gets a Ctrl-C, and
# killing a group also kills the process's children.
set -m

pipes=$(mktemp -d)
pids=() readers=() watchdog='' stop_requested='' exit_status=0 saved=''

# Kills all remaining processes and their children.
kill_all() {
  local pid
  for pid in "${pids[@]}"; do
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
}

# Sends TERM to the processes, not to their children, which they stop
# themselves. Also used for INT: multiple processes coordinate on TERM only.
terminate_all() {
  stop_requested=yes
  kill -TERM "${pids[@]}" 2>/dev/null || true
}

# shellcheck disable=SC2329  # Used by the trap.
on_interrupt() {
  if [[ -n $stop_requested ]]; then kill_all; else terminate_all; fi
}

# shellcheck disable=SC2329
clean_up() {
  [[ -z $watchdog ]] || kill -KILL -- "-$watchdog" 2>/dev/null || true
  kill_all
  rm -rf "$pipes"
}

# make_pipe NUMBER NAME: makes a pipe that prefixes lines with the number.
make_pipe() {
  mkfifo "$pipes/$1.$2"
  sed -u "s/^/[$1] /" <"$pipes/$1.$2" &
  readers+=($!)
}

start() {
  local gpu_env=()
  ((per_process == 0)) || {
    local IFS=,
    gpu_env=("CUDA_VISIBLE_DEVICES=${gpus[*]:$1 * per_process:per_process}")
  }
  make_pipe "$1" out
  make_pipe "$1" err >&2
  env "${gpu_env[@]}" "$venv/bin/python" -m "${MODULE:-experiments.run}" \
    "--coordinator=127.0.0.1:$port" "--num_processes=$num" "--process_id=$1" \
    "${@:2}" <&- >"$pipes/$1.out" 2>"$pipes/$1.err" &
  pids+=($!)
}

# Gives the remaining processes $GRACE seconds to end: without the one that has
# ended, they may block forever.
stop_others() {
  [[ -z $watchdog && ${#pids[@]} -gt 1 ]] || return 0
  [[ -n $stop_requested ]] || terminate_all
  # It must not hold the pipes open, or their readers would wait for it.
  (sleep "$grace" && kill_all) >/dev/null 2>&1 &
  watchdog=$!
  disown "$watchdog"
}

trap clean_up EXIT
trap terminate_all TERM HUP
trap on_interrupt INT

for ((i = 0; i < num; i++)); do start "$i" "$@"; done

# wait_any: waits until one of $running ends and sets $ended (its pid) and
# $status. $ended is empty if a signal interrupted the wait.
wait_any() {
  local pid
  ended='' status=0
  # Without bash's messages about killed processes.
  wait -n -p ended "${running[@]}" 2>/dev/null || status=$?
  ended=${ended:-}
  [[ -z $ended ]] || return 0
  # `wait -n` misses processes that ended before the call.
  for pid in "${running[@]}"; do
    if ! kill -0 "$pid" 2>/dev/null; then
      ended=$pid status=0
      wait "$pid" 2>/dev/null || status=$?
      return 0
    fi
  done
}

running=("${pids[@]}")
while ((${#running[@]} > 0)); do
  wait_any
  # After a signal, or if a pid was reused.
  [[ -n $ended ]] || { sleep 0.2; continue; }
  remaining=()
  for i in "${!pids[@]}"; do
    pid=${pids[i]}
    if [[ $pid == "$ended" ]]; then
      ((status == 0)) || echo "[$i] ended with status $status" >&2
    elif [[ " ${running[*]} " == *" $pid "* ]]; then
      remaining+=("$pid")
    fi
  done
  running=("${remaining[@]}")
  if ((status == 75)); then
    saved=yes
  elif ((status != 0 && exit_status == 0)); then
    exit_status=$status
  fi
  ((status == 0)) || stop_others
done

# Waits for the last output lines. Children that outlived their process must not
# hold the pipes open.
kill_all
wait "${readers[@]}" || true
((exit_status != 0)) || [[ -z $saved ]] || exit_status=75
exit "$exit_status"
