#!/usr/bin/env bash
# Works down the list of figures for one lent GPU, in order of worth.
#   OUT=FOLDER bash benchmarks/gpu.sh SECONDS
# Run it in the root of the repository, with the packages of requirements.txt or
# newer ones. It stops after SECONDS. Then $OUT has what was finished until then,
# and the same command goes on where it stopped. The CPU cores run the transfer
# bench, while the GPU trains its teachers and then measures.
set -uo pipefail
limit=${1:?usage: OUT=FOLDER bash benchmarks/gpu.sh SECONDS}
out=$(realpath "${OUT:?set OUT to a folder for the results}")
python=${PYTHON:-python3}
runs=runs/gpu_bench
seeds=${SEEDS:-5}
gpu_cores=3 # For the processes that use the GPU.
cores=$(($(nproc) - gpu_cores))
gpu_set=$cores-$(($(nproc) - 1))
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
mkdir -p "$runs" "$out"
rm -rf "$runs/taken"
mkdir "$runs/taken"
start=$SECONDS

say() { echo "$((SECONDS - start)) s: $*" | tee -a "$out/log.txt"; }

grid=("$python" -m experiments.grid --study=experiments/studies/bench.py
  --base=experiments/studies/bench.py "--seeds=$seeds" "--out=$runs"
  --only '*_dreamerv2' '*_guided')

jobs_of() { awk -v name="^$1" '$3 ~ name {print $1}' "$runs/list.txt"; }

on_cpu() { # Runs the job of an index on one core.
  JAX_PLATFORMS=cpu taskset -c "$1" "${grid[@]}" --index "$2" \
    >>"$runs/job_$2.log" 2>&1
}

work() { # Runs the jobs that no other core has taken, on one core.
  for job in "${@:2}"; do
    mkdir "$runs/taken/$job" 2>/dev/null || continue
    if grep -q "^ *$job .*guided" "$runs/list.txt"; then
      until [ -e "$runs/teachers_done" ]; do sleep 1; done
    fi
    on_cpu "$1" "$job" && say "$(awk -v i="$job" '$1 == i {print $3}' "$runs/list.txt")"
  done
}

measure() { # Runs a command on the GPU; its output goes to a file in $OUT.
  local name=$1
  [ -e "$runs/measured_$name" ] && return
  taskset -c "$gpu_set" env "${@:2}" >"$out/$name.txt" 2>&1 &&
    touch "$runs/measured_$name"
  say "$name: status $?"
}

everything() {
  "${grid[@]}" --list >"$runs/list.txt" || exit
  local scratch guided order collects=() core=0
  mapfile -t scratch < <(jobs_of '.*dreamerv2-')
  mapfile -t guided < <(jobs_of '.*guided-')
  # As many runs as there are cores from scratch, while the teachers are trained.
  order=("${scratch[@]:0:cores}" "${guided[@]}" "${scratch[@]:cores}")
  for job in $(jobs_of collect-); do
    on_cpu "$core" "$job" &
    collects+=($!)
    core=$((core + 1))
  done
  local collecting=$core
  while [ "$core" -lt "$cores" ]; do
    work "$core" "${order[@]}" &
    core=$((core + 1))
  done
  wait "${collects[@]}"
  say 'datasets are collected'
  for ((core = 0; core < collecting; core++)); do work "$core" "${order[@]}" & done
  local teachers=()
  for job in $(jobs_of teacher-); do
    taskset -c "$gpu_set" "${grid[@]}" --index "$job" >>"$runs/job_$job.log" 2>&1 &
    teachers+=($!)
  done
  wait "${teachers[@]}"
  say 'teachers are trained'
  touch "$runs/teachers_done"
  measure parity JAX_DEFAULT_MATMUL_PRECISION=float32 "$python" -m tests.check_parity tests/golden/*.npz
  local update=("$python" -m benchmarks.update --no-parts --repeats 50 --dtype bfloat16)
  measure update "${update[@]}"
  measure update_embeddings "${update[@]}" --embeddings none
  measure domains "$python" -m benchmarks.domains --dtype bfloat16 --repeats 50
  wait
  say 'all is done'
}

save() { # Small files of the runs, and each teacher's last checkpoint.
  find "$runs" -maxdepth 2 \( -name '*.json*' -o -name '*.log' \) -print0 >"$runs/files"
  find "$runs" -path '*student/DONE.json' -print0 >>"$runs/files"
  tar czf "$out/runs.tgz" --null -T "$runs/files"
  for teacher in "$runs"/teacher-*/; do
    last=$(find "$teacher/teacher" -maxdepth 1 -regex '.*/[0-9]+' | sort -V | tail -1)
    tar czf "$out/$(basename "$teacher").tgz" "$teacher"/*.json* "$last" \
      $(ls "$teacher"/teacher/DONE.json 2>/dev/null)
  done
}

set -m # A process group for all jobs, to stop them together.
everything &
group=$!
while kill -0 "$group" 2>/dev/null && [ $((SECONDS - start)) -lt "$limit" ]; do sleep 1; done
# SIGTERM makes the runs save; they resume.
kill -TERM -- "-$group" 2>/dev/null
sleep "${GRACE:-8}"
kill -KILL -- "-$group" 2>/dev/null
save
tail -qn 1 "$runs"/logs/*.log
say 'saved'
