"""Several seeds of an experiment in one process.

Each seed is a run with a folder of its own, in a thread of its own. The threads
share compiled updates and policies. On accelerators they also join their calls,
where that takes less time: one call of a vectorized function updates all seeds
of a device, or acts for them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vid2act_jax.loops import progress, runs, sources, stages
from vid2act_jax.loops.execution import Calls, Execution
from vid2act_jax.loops.preemption import Preempted
from vid2act_jax.loops.seed_calls import Group, SeedCalls, check_memory
from vid2act_jax.types import Problems, UserError

# Of an update on a TPU: four seeds of 2,500 frames each take 4.8 times one, two
# of 150 take 1.4.
_MAX_VECTORIZED_FRAMES = 1_000


def parse(config) -> tuple[int, ...]:
  """The seeds of a config; () if it is of a single run.

  Raises:
    UserError: a seed is no whole number or is named twice, or the number of
      seeds is not positive.
  """
  seeds = tuple(config.seeds)
  if not all(type(seed) is int for seed in seeds):
    raise UserError(
      f'config.seeds={seeds}: set it to a number of seeds, or to several whole'
      " numbers, as in --config.seeds='(3, 7)'"
    )
  if len(seeds) == 1:
    (num,) = seeds
    if num < 1:
      raise UserError(f'config.seeds={num}: set it to 1 or more, or to ()')
    return tuple(range(config.seed, config.seed + num))
  if any(seed < 0 for seed in seeds):
    raise UserError(f'config.seeds={seeds}: seeds must not be negative')
  double = sorted({seed for seed in seeds if seeds.count(seed) > 1})
  if double:
    raise UserError(
      f'config.seeds={seeds}: {", ".join(map(str, double))} is named twice;'
      ' name each seed once'
    )
  return seeds


def folder_of(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  """The run folder of a seed."""
  return workdir / f'seed_{seed}'


def config_of(config, seed: int):
  """The config of a seed's run: as if it were alone.

  '{seed}' in the names of datasets and teachers is replaced.
  """
  out = config.copy_and_resolve_references()
  with out.unlocked():
    out.seed, out.seeds = seed, ()
    for key in ('source_dir', 'teacher_from'):
      out[key] = out[key].replace('{seed}', str(seed))
  return out


def run(
  config,
  workdir: pathlib.Path,
  execution: Execution,
  run_one: Callable[[Any, pathlib.Path, Execution], None],
) -> None:
  """Runs all seeds of a config; one that fails does not stop the others.

  Args:
    config: with seeds.
    workdir: of the seeds' run folders.
    execution: of all.
    run_one: (config, run folder, execution), runs one seed.

  Raises:
    UserError: the folder or the devices do not fit, or seeds have failed.
    Preempted: the runs were asked to stop; run again, they resume.
  """
  seeds, groups = parse(config), check(config, workdir, execution)
  if 'collect' in config.stages and shares_sources(config):
    first = seeds[0]
    folder = folder_of(workdir, first)
    own = dataclasses.replace(execution, devices=groups[0][0])
    stages.run_collect(config_of(config, first), folder, own)
  errors: dict[int, BaseException] = {}

  def run_seed(seed, own, leave):
    progress.LABEL.set(f'seed {seed}: ')
    try:
      run_one(config_of(config, seed), folder_of(workdir, seed), own)
    except BaseException as error:
      errors[seed] = error
      if isinstance(error, UserError):
        progress.report(f'error: {error}')
      elif not isinstance(error, Preempted):
        progress.report(''.join(traceback.format_exception(error)))
    finally:
      leave()

  threads = []
  for devices, members in groups:
    calls_of = _calls(config, len(members))
    for calls, seed in zip(calls_of, members, strict=True):
      own = dataclasses.replace(
        execution, calls=calls, devices=devices, runs_per_device=len(members)
      )
      args = seed, own, calls.leave
      thread = threading.Thread(target=run_seed, args=args, daemon=True)
      threads.append(thread)
  for thread in threads:
    thread.start()
  for thread in threads:
    while thread.is_alive():  # A signal is handled between two waits.
      thread.join(0.2)
  _raise(errors, workdir)


def check(config, workdir: pathlib.Path, execution: Execution) -> list:
  """Checks that the seeds of a config can run in one process.

  Returns:
    Their groups of devices; see `split`.

  Raises:
    UserError: the folder or the devices do not fit.
  """
  problems = Problems()
  if (workdir / runs.CONFIG).exists():
    problems.add(
      f'{workdir} is the folder of a single run; choose another with'
      ' --workdir=... for the folders of the seeds'
    )
  if jax.process_count() > 1:  # Others are not joined: `hosts.share`.
    problems.add(
      f'config.seeds={tuple(config.seeds)}: the {jax.process_count()} hosts of'
      ' this TPU slice share its devices, and seeds need devices of their own;'
      ' start them with launch/tpu_pod.sh run --config.seeds=..., which gives'
      ' each host its own, or run one seed at a time'
    )
  if execution.profile:
    problems.add('--profile is for a single seed; set --config.seeds=()')
  groups = []
  with problems.collect():
    groups = split(config, parse(config))
  problems.raise_all()
  return groups


def _raise(errors, workdir):
  """Raises what the seeds ended with, if it is not success."""
  for error in errors.values():  # Those that failed have been reported.
    if isinstance(error, Preempted):
      raise error
  unknown = [v for v in errors.values() if not isinstance(v, UserError)]
  if unknown:
    raise unknown[0]
  if errors:
    texts = '; '.join(
      f'{folder_of(workdir, seed)}: {error}' for seed, error in errors.items()
    )
    raise UserError(f'{len(errors)} of the seeds failed: {texts}')


def shares_sources(config) -> bool:
  """Whether the seeds collect into the same folder."""
  shared = config.source_dir and '{seed}' not in config.source_dir
  return bool(shared) and sources.uses_sources(config)


def split(config, seeds):
  """Assigns seeds to groups of devices: [((first, number), seeds)]."""
  total = jax.device_count()
  data = config.mesh.data
  groups = config.mesh.seed
  if groups == -1:
    groups = max(min(len(seeds), total // max(data, 1)), 1)
  each = data if data != -1 else total // max(groups, 1)
  if groups < 1 or each < 1 or groups * each > total:
    raise UserError(
      f'config.mesh.seed={config.mesh.seed} with config.mesh.data={data}: there'
      f' are {total} devices in this process, and seeds use no others; set both'
      ' to -1 to use all'
    )
  members = [seeds[i::groups] for i in range(groups)]
  return [((i * each, each), m) for i, m in enumerate(members) if m]


def _calls(config, num: int) -> Sequence[Calls]:
  """The calls of the seeds of one group of devices."""
  if num == 1:
    return [Calls()]
  group = Group(
    num, vectorizes(config), jax.default_backend() == 'cpu', check_memory
  )
  return [SeedCalls(group, index) for index in range(num)]


def vectorizes(config) -> bool:
  """Whether a call for several seeds takes less time than one after another.

  On a TPU small updates alone, by its compiler's estimates (docs/scaling.md).
  """
  backend = jax.default_backend()
  if backend == 'tpu':
    frames = (x.batch * x.length for x in (config.pretrain, config.finetune))
    return max(frames) <= _MAX_VECTORIZED_FRAMES
  return backend != 'cpu'
