"""Makes the jobs of a study: runs, and the datasets and teachers they share.

A study file has get_study(config) -> {name: {config key: value}}: the changes
of each run to the given config, which is the base experiment with the command
line's overrides and a seed. With TEACHER_SEEDS = K, runs of all seeds share K
teachers. Runs share two kinds of jobs:

  datasets   one job for each source task
  teachers   one job for each pretraining config and seed; runs use it through
             config.teacher_from
"""

import dataclasses
import fnmatch
import hashlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Sequence

from experiments.grid.configs import is_finished, load, override
from vid2act_jax.learner.variants import FIELDS
from vid2act_jax.loops import config_keys, flag_errors, runs, seeds, sources
from vid2act_jax.types import UserError

KINDS = 'datasets', 'teachers', 'runs'  # In the order of dependencies.
_RESERVED_FLAGS = (
  'config',
  'config.seed',
  'config.seeds',
  'config.stages',
  'config.variant',
  'workdir',
)
_RESERVED_KEYS = 'seed', 'seeds', 'stages', 'source_dir', 'teacher_from'


@dataclasses.dataclass(frozen=True)
class Job:
  """One process of `experiments.run` in a grid.

  Attributes:
    kind: one of `KINDS`.
    workdir: the run folder.
    arguments: arguments of the run, without --workdir.
    config: the resulting config.
    deps: names of the jobs that must be done first.
    description: its difference to the other jobs.
  """

  kind: str
  workdir: pathlib.Path
  arguments: tuple[str, ...]
  config: object
  deps: tuple[str, ...]
  description: str

  @property
  def name(self) -> str:
    """The name of its run folder."""
    return self.workdir.name

  def is_done(self) -> bool:
    """Whether it has finished with this config.

    An existing dataset is used as it is, since it may have been imported. A
    teacher may be of a study whose runs differ.
    """
    if named := seeds.parse(self.config):
      return all(
        dataclasses.replace(
          self,
          workdir=seeds.folder_of(self.workdir, seed),
          config=seeds.config_of(self.config, seed),
        ).is_done()
        for seed in named
      )
    if not is_finished(self.config, self.workdir):
      return False
    if self.kind == 'teachers' and (self.workdir / runs.CONFIG).exists():
      found = runs.read_config_dict(self.workdir)
      own = runs.as_dict(self.config)
      return _teacher_identity(found) == _teacher_identity(own)
    return self.kind == 'datasets' or not runs.config_diff(
      self.workdir, self.config
    )

  def output_folders(self) -> list[pathlib.Path]:
    """Folders that only this job may write while it runs."""
    folders = [self.workdir]
    if named := seeds.parse(self.config):
      folders = [seeds.folder_of(self.workdir, seed) for seed in named]
    if self.kind == 'datasets':
      (task,) = self.config.sources
      folders.append(sources.source_folder(self.config, self.workdir, task))
    return folders


class Sweep:
  """Collects the jobs of a study, each once."""

  def __init__(
    self,
    base: str,
    overrides: list[str],
    out: pathlib.Path,
    shared: pathlib.Path,
    teacher_seeds: int | None = None,
  ):
    """Starts without jobs.

    Args:
      base: file of the base experiment.
      overrides: arguments of every run.
      out: folder of the runs.
      shared: folder of datasets and teachers.
      teacher_seeds: number of teachers for the same sources, which the seeds of
        the runs share; None: one for each seed.

    Raises:
      UserError: an override is invalid, or set by the grid or the study.
    """
    for argument in overrides:
      if _key(argument) in _RESERVED_FLAGS:
        raise UserError(
          f'{argument} is not allowed after --: the grid or the study sets it'
        )
      if _key(argument).startswith('config.') and '=' not in argument:
        raise UserError(f'{argument}: write it as --config.KEY=VALUE')
    if not pathlib.Path(base).is_file():
      raise UserError(f'--base={base}: no such file')
    self._common = [f'--config={base}', *overrides]
    self._out, self._shared = out, shared
    self._teacher_seeds = teacher_seeds
    self._jobs: dict[pathlib.Path, Job] = {}

  def config(self, seed: int):
    """Returns the config of the base experiment."""
    return load([*self._common, override('seed', seed)])

  def add(self, name: str, changes: dict, seed: int) -> None:
    """Adds a run and its dependencies.

    Args:
      name: name of the run.
      changes: {config key: value}.
      seed: seed of the run.

    Raises:
      UserError: the name is a duplicate or not valid for a folder, a change is
        not valid for the config, or two runs need different versions of one
        dataset.
    """
    if not re.fullmatch(r'[\w.@=+,-]+', name) or name[0] in '.-':
      raise UserError(
        f'the study has a run {name!r}: not valid as a folder name'
      )
    if reserved := set(_RESERVED_KEYS) & set(changes):
      raise UserError(
        f'the study sets config.{min(reserved)} of {name}: only the grid'
        ' may set it'
      )
    description = ', '.join(
      f'{key}={_abbreviate(value)}' for key, value in changes.items()
    )
    values = {**changes, 'seed': seed, 'stages': ('finetune',)}
    config, deps = self._load(values), []
    if sources.uses_sources(config):
      values['source_dir'] = self._source_dir(config)
      deps += [self._dataset(changes, task) for task in config.sources]
      if not config.teacher_from:
        shared_seed = seed % (self._teacher_seeds or seed + 1)
        teachers = self._teachers(changes, shared_seed, config, tuple(deps))
        deps += [teacher.name for teacher in teachers]
        folders = [str(teacher.workdir) for teacher in teachers]
        values['teacher_from'] = ','.join(folders)
    job = self._make(
      'runs', self._out / f'{name}-{seed}', values, tuple(deps), description
    )
    if job.workdir in self._jobs:
      raise UserError(f'the study has two jobs {job.workdir}')
    self._jobs[job.workdir] = job

  def join_seeds(self) -> None:
    """Makes one job of all seeds of a run.

    A run of one seed alone stays as it is.

    Raises:
      UserError: the study's changes depend on the seed, or its teachers are
        neither shared by all seeds nor of the seeds of their runs.
    """
    groups: dict[str, list[Job]] = {}
    for path, job in list(self._jobs.items()):
      if job.kind == 'runs':
        name = job.name.removesuffix(f'-{job.config.seed}')
        groups.setdefault(name, []).append(self._jobs.pop(path))
    for name, jobs in groups.items():
      if len(jobs) == 1:
        self._jobs[jobs[0].workdir] = jobs[0]
        continue
      templates = {_without_seed(job.arguments) for job in jobs}
      if len(templates) > 1:
        templates = {_seed_template(job) for job in jobs}
      if len(templates) > 1:
        raise UserError(
          f'--together: {name} is not the same for all seeds, apart from'
          ' the seed and the number of its teacher; leave out --together'
        )
      (arguments,) = templates
      named = tuple(job.config.seed for job in jobs)
      arguments = (*arguments, override('seeds', named))
      deps = tuple(dict.fromkeys(dep for job in jobs for dep in job.deps))
      workdir = self._out / name
      self._jobs[workdir] = Job(
        'runs',
        workdir,
        arguments,
        load(list(arguments)),
        deps,
        jobs[0].description,
      )

  def jobs(self) -> list[Job]:
    """Returns all jobs: datasets, then teachers, then runs."""
    jobs = self._jobs.values()
    return [job for kind in KINDS for job in jobs if job.kind == kind]

  def _default_fields(self, **fields):
    """Changes that replace the variant's fields in the config of every run.

    They are those of the students: datasets and teachers do not depend on them.
    """
    transfer = self._load({}).learner.transfer
    return {
      f'learner.transfer.{name}': fields.get(name, default)
      for name, default in FIELDS.items()
      if transfer[name] is not None
    }

  def _source_dir(self, config):
    return config.source_dir or str(self._shared / 'sources')

  def _dataset(self, changes, task):
    """Returns the name of the job that collects a source task's dataset."""
    values = {
      **_select(changes, config_keys.DATA),
      **self._default_fields(),
      'seed': 0,  # All seeds of the runs share the dataset.
      'variant': 'vid2act',
      'sources': (task,),
      'stages': ('collect',),
    }
    values['source_dir'] = self._source_dir(self._load(values))
    folder = 'collect-' + re.sub(r'[^\w.@=+,-]', '_', task)
    job = self._make('datasets', self._shared / folder, values, (), task)
    other = self._jobs.setdefault(job.workdir, job)
    one, two = (_identity(runs.as_dict(j.config)) for j in (other, job))
    if one != two:
      raise UserError(
        f'the study has two versions of the dataset {task}: jobs that share a'
        f' source must not differ in any of {", ".join(config_keys.DATA)}'
      )
    return job.name

  def _teachers(self, changes, seed, config, deps):
    """Returns the jobs that pretrain the teacher or the teachers of a run."""
    variant = runs.variant_of(config)
    if not variant.pretrained:
      return []
    names = [tuple(config.sources)]
    if variant.teachers == 'separate':
      names = [(task,) for task in config.sources]
    return [
      self._teacher({**changes, 'sources': tasks}, seed, config, deps)
      for tasks in names
    ]

  def _teacher(self, changes, seed, config, deps):
    """Returns the job that pretrains a teacher on the sources in `changes`."""
    actions = runs.variant_of(config).pretrain_actions
    values = {
      **_select(changes, config_keys.TEACHER, config_keys.STUDENT_ONLY),
      **self._default_fields(pretrain_actions=actions),
      'seed': seed,
      # Pretraining is the same for all variants with, and without, actions.
      'variant': 'vid2act' if actions else 'action_free',
      'source_dir': self._source_dir(config),
      'stages': ('pretrain',),
    }
    kind = 'teacher' if actions else 'teacher_action_free'
    folder = self._teacher_folder(kind, seed, self._load(values))
    if folder not in self._jobs:
      description = f'of {_abbreviate(changes["sources"])}'
      self._jobs[folder] = self._make(
        'teachers', folder, values, deps, description
      )
    return self._jobs[folder]

  def _teacher_folder(self, kind, seed, config):
    identity = _teacher_identity(runs.as_dict(config))
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    folder = self._shared / f'{kind}-{digest}-{seed}'
    if folder.exists():
      return folder
    # A teacher of an older version may be the same with another digest.
    for other in sorted(self._shared.glob(f'{kind}-*-{seed}')):
      if (other / runs.CONFIG).exists():
        if _teacher_identity(runs.read_config_dict(other)) == identity:
          return other
    return folder

  def _make(self, kind, workdir, values, deps, description):
    arguments = self._arguments(values)
    config = load(list(arguments))
    return Job(kind, workdir, arguments, config, deps, description)

  def _load(self, values):
    return load(list(self._arguments(values)))

  def _arguments(self, values):
    overrides = [override(key, value) for key, value in values.items()]
    overridden = {_key(argument) for argument in overrides}
    # Not twice, though the last one would count.
    common = [arg for arg in self._common if _key(arg) not in overridden]
    return (*common, *overrides)


def _seed_template(job) -> tuple[str, ...]:
  """The arguments of a run without its seed.

  '{seed}' takes its place in the names of teachers of the same seed.
  """
  seed, arguments = job.config.seed, _without_seed(job.arguments)
  teachers = job.config.teacher_from.split(',')
  if all(name.endswith(f'-{seed}') for name in teachers):
    named = [re.sub(r'-\d+$', '-{seed}', name) for name in teachers]
    others = [a for a in arguments if _key(a) != 'config.teacher_from']
    return *others, override('teacher_from', ','.join(named))
  return arguments


def _without_seed(arguments):
  return tuple(a for a in arguments if _key(a) != 'config.seed')


def _identity(tree):
  """Returns the part of a config that identifies a dataset."""
  return config_keys.exclude(tree, (*config_keys.RUNTIME, 'finetune.env_steps'))


def _teacher_identity(tree):
  """Returns the part of a config that a teacher depends on, but the seed."""
  kept = {
    key: value
    for key, value in config_keys.leaves(tree).items()
    if config_keys.matches(key, config_keys.TEACHER)
  }
  return config_keys.exclude(
    kept, (*config_keys.RUNTIME, *config_keys.STUDENT_ONLY)
  )


def make_jobs(
  study: str,
  base: str,
  seeds: int,
  overrides: list[str],
  out: pathlib.Path,
  shared: pathlib.Path,
  only: Sequence[str] = (),
  together: bool = False,
) -> list[Job]:
  """Makes the jobs of a study.

  Args:
    study: the study file.
    base: file of the base experiment.
    seeds: number of seeds: 0, 1, ...
    overrides: arguments of every run.
    out: folder of the runs.
    shared: folder of datasets and teachers.
    only: patterns of names; only the runs that match one are made. (): all.
    together: whether a run's seeds share one job.

  Returns:
    The jobs, in the order of their dependencies.

  Raises:
    UserError: the study, the base, an override or a pattern is invalid.
  """
  if seeds < 1:
    raise UserError(f'--seeds={seeds}: must be at least 1')
  get_study, teacher_seeds = _load_study(study)
  sweep = Sweep(base, overrides, out, shared, teacher_seeds)
  for seed in range(seeds):
    named_changes = get_study(sweep.config(seed))
    if not isinstance(named_changes, dict) or not named_changes:
      raise UserError(f'{study}: get_study must return {{name: changes}}')
    if not any(_matches(name, only) for name in named_changes):
      raise UserError(
        f'--only={" ".join(only)} matches no run of {study}; its runs are'
        f' {", ".join(named_changes)}'
      )
    for name, changes in named_changes.items():
      if _matches(name, only):
        sweep.add(name, changes, seed)
  if together and seeds > 1:
    sweep.join_seeds()
  return sweep.jobs()


def _matches(name, patterns):
  return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)


def _load_study(study):
  path = pathlib.Path(study)
  if not path.is_file():
    raise UserError(f'--study={study}: no such file')
  spec = importlib.util.spec_from_file_location(f'study_{path.stem}', path)
  if spec is None:
    raise UserError(f'--study={study}: not a Python file (.py)')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:  # The file may raise anything.
    text = flag_errors.explain_file(error, path)
    raise UserError(f'--study={study}: {text or error}') from error
  if not hasattr(module, 'get_study'):
    raise UserError(
      f'--study={study}: the file has no get_study(config); studies are in'
      ' experiments/studies/'
    )
  return module.get_study, getattr(module, 'TEACHER_SEEDS', None)


def _key(argument):
  return argument.split('=')[0].lstrip('-')


def _select(changes, names, exclude=()):
  """Selects the changes of some parts of the config."""
  return {
    key: value
    for key, value in changes.items()
    if config_keys.matches(key, names) and not config_keys.matches(key, exclude)
  }


def _abbreviate(value):
  if not isinstance(value, tuple):
    return value
  first, more = value[:2], len(value) - 2
  return '+'.join(first) + (f' and {more} more' if more > 0 else '')
