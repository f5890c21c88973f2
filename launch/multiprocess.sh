#!/usr/bin/env bash
# Sets up, then runs an experiment as several processes on this machine: what a
# cluster does, to try it out, or one process for each of a machine's GPUs.
#
#   bash launch/multiprocess.sh 2 --config=experiments/dmc_hopper.py \
#     --config.source_dir=data --config.pretrain.batch=56
#
# Source datasets must be there, and batches such as can be shared out:
# docs/scaling.md.
#
#   DEVICES=N   so many simulated CPU devices for each process, also where
#               there are GPUs; by default one, where there are none. GPUs are
#               shared out evenly.
#   GRACE=S     seconds that the others get to end when one has ended badly, or
#               has saved and stopped; by default 60
#   MODULE=M    what to run, by default experiments.run; it is given
#               --coordinator, --num_processes and --process_id
#   VENV, PYTHON  as of launch/setup.sh
#
# Every line a process says is shown with its number, [0], [1] and so on. When
# this script is asked to stop (TERM, HUP, Ctrl-C), all save and stop; a second
# Ctrl-C kills them. The exit status is that of the first process that failed;
# 75 when they saved and stopped, and the same command goes on; 0 when all is
# done.
#
# Paths that are not absolute start at the project's folder.
set -euo pipefail

usage='usage: bash launch/multiprocess.sh PROCESSES --config=FILE ...'

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
  die "needs bash 5.1 or later, this is $BASH_VERSION"
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

# The numbers of this machine's GPUs, or of those that it was told to use.
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
each=$((${#gpus[@]} / num))
if ((${#gpus[@]} > 0)); then
  ((each * num == ${#gpus[@]})) ||
    die "${#gpus[@]} GPUs cannot be shared out evenly among $num processes;" \
      'name fewer in CUDA_VISIBLE_DEVICES, or set DEVICES=1 to use the CPU'
else
  export JAX_PLATFORMS=cpu
  # XLA's own collectives know one process only.
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

# Jobs in groups of their own: a Ctrl-C comes to this script alone, which passes
# it on once, and a process that must be killed takes its children along.
set -m

pipes=$(mktemp -d)
pids=() readers=() watchdog='' told='' first=0 stopped=''

# Whoever still runs is killed, with the processes that step environments.
kill_all() {
  local pid
  for pid in "${pids[@]}"; do
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
}

# To the processes alone, not to their children: those are theirs to stop. In
# place of INT, too: several processes agree where to stop on TERM alone.
ask_to_stop() {
  told=yes
  kill -TERM "${pids[@]}" 2>/dev/null || true
}

# shellcheck disable=SC2329  # It is the trap's.
interrupt() {
  if [[ -n $told ]]; then kill_all; else ask_to_stop; fi
}

# shellcheck disable=SC2329
clean_up() {
  [[ -z $watchdog ]] || kill -KILL -- "-$watchdog" 2>/dev/null || true
  kill_all
  rm -rf "$pipes"
}

# show NUMBER NAME: makes a pipe whose lines are shown with the number.
show() {
  mkfifo "$pipes/$1.$2"
  sed -u "s/^/[$1] /" <"$pipes/$1.$2" &
  readers+=($!)
}

start() {
  local mine=()
  ((each == 0)) || {
    local IFS=,
    mine=("CUDA_VISIBLE_DEVICES=${gpus[*]:$1 * each:each}")
  }
  show "$1" out
  show "$1" err >&2
  env "${mine[@]}" "$venv/bin/python" -m "${MODULE:-experiments.run}" \
    "--coordinator=127.0.0.1:$port" "--num_processes=$num" "--process_id=$1" \
    "${@:2}" <&- >"$pipes/$1.out" 2>"$pipes/$1.err" &
  pids+=($!)
}

# Those left have so long to end by themselves: without the one that is gone
# they wait for it, some of them forever.
end_others() {
  [[ -z $watchdog && ${#pids[@]} -gt 1 ]] || return 0
  [[ -n $told ]] || ask_to_stop
  # The pipes are closed for it, or their readers would wait for it, too.
  (sleep "$grace" && kill_all) >/dev/null 2>&1 &
  watchdog=$!
  disown "$watchdog"
}

trap clean_up EXIT
trap ask_to_stop TERM HUP
trap interrupt INT

for ((i = 0; i < num; i++)); do start "$i" "$@"; done

# next_end: waits until one of $left ends; its $ended and $status. Without
# $ended when a signal came in between.
next_end() {
  local pid
  ended='' status=0
  # Without bash's own words on processes that were killed.
  wait -n -p ended "${left[@]}" 2>/dev/null || status=$?
  ended=${ended:-}
  [[ -z $ended ]] || return 0
  # It knows nothing of those that ended while no one waited.
  for pid in "${left[@]}"; do
    if ! kill -0 "$pid" 2>/dev/null; then
      ended=$pid status=0
      wait "$pid" 2>/dev/null || status=$?
      return 0
    fi
  done
}

left=("${pids[@]}")
while ((${#left[@]} > 0)); do
  next_end
  # After a signal, or if the system has given an old number anew.
  [[ -n $ended ]] || { sleep 0.2; continue; }
  rest=()
  for i in "${!pids[@]}"; do
    pid=${pids[i]}
    if [[ $pid == "$ended" ]]; then
      ((status == 0)) || echo "[$i] ended with status $status" >&2
    elif [[ " ${left[*]} " == *" $pid "* ]]; then
      rest+=("$pid")
    fi
  done
  left=("${rest[@]}")
  if ((status == 75)); then
    stopped=yes
  elif ((status != 0 && first == 0)); then
    first=$status
  fi
  ((status == 0)) || end_others
done

# What was said last is still on its way; a child that outlived its process
# must not hold it up.
kill_all
wait "${readers[@]}" || true
((first != 0)) || [[ -z $stopped ]] || first=75
exit "$first"
