"""Seeds of an experiment in several processes, as on several hosts."""

import pathlib

from vid2act_jax.loops import progress, seeds, sources
from vid2act_jax.types import UserError


def share(config, index: int, count: int):
  """The config of one of several processes, with its share of the seeds.

  The processes need not know of each other: seeds share nothing.

  Args:
    config: with seeds, of all processes.
    index: of the process.
    count: of the processes.

  Raises:
    UserError: the seeds are not valid, or fewer than the processes; or they
      would collect the same datasets.
  """
  if count == 1:
    return config
  named = seeds.parse(config)
  if len(named) < count:
    raise UserError(
      f'config.seeds={tuple(config.seeds)}: {len(named)} seeds cannot be spread'
      f' over {count} processes, of which each runs at least one; name more'
      ' seeds or start fewer processes'
    )
  if 'collect' in config.stages and seeds.shares_sources(config):
    for task in config.sources:
      # Not in a run's folder: they are shared.
      folder = sources.source_folder(config, pathlib.Path(), task)
      if not sources.finished_dataset(folder):
        raise UserError(
          f'{folder}: missing or not complete, and only a single process can'
          ' collect it; run one process first with'
          ' --config.stages="(\'collect\',)", or give each seed its own with'
          " '{seed}' in config.source_dir"
        )
  own = named[index::count]
  out = config.copy_and_resolve_references()
  with out.unlocked():
    # A single number counts seeds.
    out.seed, out.seeds = own[0], own if len(own) > 1 else (1,)
  progress.report(
    f'process {index} of {count}: seeds {", ".join(map(str, own))} of'
    f' {", ".join(map(str, named))}'
  )
  return out
