"""From a study to its points: runs, and what they share, made once.

A study's file has get_study(config) -> {name: {config key: value}}: how each
of its points differs from the config it is given, which is the base experiment
with the command line's overrides and a seed. Two things are shared:

  datasets   one point for each source task, whoever learns from it
  teachers   one point for each way of pretraining and seed; runs take theirs
             by config.teacher_from
"""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import re

from experiments.grid.configs import is_finished, load, override
from vid2act_jax.loops import config_keys, runs, setup
from vid2act_jax.types import UserError

KINDS = 'datasets', 'teachers', 'runs'  # In the order they need each other.
_GIVEN = ('config', 'config.seed', 'config.stages', 'config.variant', 'workdir')


@dataclasses.dataclass(frozen=True)
class Job:
  """A run of `experiments.run`, of which a grid starts many.

  Attributes:
    kind: one of `KINDS`.
    workdir: the run's folder.
    arguments: of the run, all but --workdir.
    config: what they make.
    needs: names of the points that have to be done before.
    about: how it differs from the others, in words.
  """

  kind: str
  workdir: pathlib.Path
  arguments: tuple[str, ...]
  config: object
  needs: tuple[str, ...]
  about: str

  @property
  def name(self) -> str:
    """What it is called: its folder's name."""
    return self.workdir.name

  def is_done(self) -> bool:
    """Whether it has ended, as this config's.

    A dataset that is there is taken as it is: it may be imported.
    """
    return is_finished(self.config, self.workdir) and (
      self.kind == 'datasets' or not runs.config_diff(self.workdir, self.config)
    )

  def written(self) -> list[pathlib.Path]:
    """Folders that it alone may write while it runs."""
    folders = [self.workdir]
    if self.kind == 'datasets':
      (task,) = self.config.sources
      folders.append(setup.source_folder(self.config, self.workdir, task))
    return folders


class Sweep:
  """Gathers the points of a study, each once."""

  def __init__(
    self,
    base: str,
    overrides: list[str],
    out: pathlib.Path,
    shared: pathlib.Path,
  ):
    """Begins without points.

    Args:
      base: the base experiment's file.
      overrides: arguments of every run.
      out: folder of the runs.
      shared: folder of what they share.

    Raises:
      UserError: an override is not for the command line to set.
    """
    for argument in overrides:
      if _key(argument) in _GIVEN:
        raise UserError(
          f'{argument} cannot stand behind --: the grid or the study gives it'
        )
      if _key(argument).startswith('config.') and '=' not in argument:
        raise UserError(f'{argument}: write it as --config.KEY=VALUE')
    if not pathlib.Path(base).is_file():
      raise UserError(f'--base={base}: there is no such file')
    self._common = [f'--config={base}', *overrides]
    self._out, self._shared = out, shared
    self._points: dict[pathlib.Path, Job] = {}

  def config(self, seed: int):
    """The base experiment's config."""
    return load([*self._common, override('seed', seed)])

  def add(self, name: str, changes: dict, seed: int) -> None:
    """Adds a run, and what it needs.

    Args:
      name: of the point.
      changes: {config key: value}.
      seed: of the run.

    Raises:
      UserError: a name will not do as a folder's or is there twice, the
        changes are not ones of a config, or two runs want one dataset in
        different ways.
    """
    if not re.fullmatch(r'[\w.@=+,-]+', name) or name[0] in '.-':
      raise UserError(f'the study names a point {name!r}: not fit for a folder')
    given = {'seed', 'stages', 'source_dir', 'teacher_from'} & set(changes)
    if given:
      raise UserError(
        f"the study sets config.{min(given)} of {name}: that is the grid's"
      )
    told = ', '.join(f'{key}={_short(value)}' for key, value in changes.items())
    wanted = {**changes, 'seed': seed, 'stages': ('finetune',)}
    config, needs = self._load(wanted), []
    if setup.uses_sources(config):
      wanted['source_dir'] = self._source_dir(config)
      needs += [self._dataset(changes, task) for task in config.sources]
      if not config.teacher_from:
        teacher = self._teacher(changes, seed, config, tuple(needs))
        needs.append(teacher.name)
        wanted['teacher_from'] = str(teacher.workdir)
    point = self._make(
      'runs', self._out / f'{name}-{seed}', wanted, tuple(needs), told
    )
    if point.workdir in self._points:
      raise UserError(f'the study has two points {point.workdir}')
    self._points[point.workdir] = point

  def points(self) -> list[Job]:
    """All of them: datasets, then teachers, then runs."""
    every = self._points.values()
    return [p for kind in KINDS for p in every if p.kind == kind]

  def _source_dir(self, config):
    return config.source_dir or str(self._shared / 'sources')

  def _dataset(self, changes, task):
    """The name of the point that makes a source task's dataset."""
    wanted = {
      **_of(changes, config_keys.DATA),
      'seed': 0,  # One for all seeds of the runs.
      'variant': 'vid2act',
      'sources': (task,),
      'stages': ('collect',),
    }
    wanted['source_dir'] = self._source_dir(self._load(wanted))
    folder = 'collect-' + re.sub(r'[^\w.@=+,-]', '_', task)
    point = self._make('datasets', self._shared / folder, wanted, (), task)
    other = self._points.setdefault(point.workdir, point)
    one, two = (_facts(runs.as_dict(p.config)) for p in (other, point))
    if one != two:
      raise UserError(
        f'the study wants the dataset {task} in two ways: points that share a'
        f' source may not differ in any of {", ".join(config_keys.DATA)}'
      )
    return point.name

  def _teacher(self, changes, seed, config, needs):
    """The point that pretrains as this run needs it."""
    actions = setup.variant(config).actions
    wanted = {
      **_of(changes, config_keys.TEACHER, config_keys.STUDENT_ALONE),
      'seed': seed,
      # Pretraining is the same for all variants of a kind.
      'variant': 'vid2act' if actions else 'action_free',
      'source_dir': self._source_dir(config),
      'stages': ('pretrain',),
    }
    kind = 'teacher' if actions else 'teacher_action_free'
    folder = self._teacher_folder(kind, seed, self._load(wanted))
    if folder not in self._points:
      about = f'of {_short(tuple(config.sources))}'
      self._points[folder] = self._make(
        'teachers', folder, wanted, needs, about
      )
    return self._points[folder]

  def _teacher_folder(self, kind, seed, config):
    facts = _teacher_facts(runs.as_dict(config))
    text = json.dumps(facts, sort_keys=True)
    mark = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    folder = self._shared / f'{kind}-{mark}-{seed}'
    if folder.exists():
      return folder
    # One of an older version may be the same under another mark.
    for other in sorted(self._shared.glob(f'{kind}-*-{seed}')):
      if (other / runs.CONFIG).exists():
        if _teacher_facts(runs.read_config_dict(other)) == facts:
          return other
    return folder

  def _make(self, kind, workdir, wanted, needs, about):
    arguments = self._arguments(wanted)
    return Job(kind, workdir, arguments, load(list(arguments)), needs, about)

  def _load(self, wanted):
    return load(list(self._arguments(wanted)))

  def _arguments(self, wanted):
    own = [override(key, value) for key, value in wanted.items()]
    given = {_key(argument) for argument in own}
    # Not twice: of tuples, the second would be appended to the first.
    common = [arg for arg in self._common if _key(arg) not in given]
    return (*common, *own)


def _facts(tree):
  """Of a config, what makes another dataset or teacher.

  How much it is made from is part of it: a run may be made longer in its
  folder, but is another one then.
  """
  return config_keys.exclude(tree, (*config_keys.RUNTIME, 'finetune.env_steps'))


def _teacher_facts(tree):
  """Of one seed. Where the datasets are makes no other teacher."""
  facts = _facts(tree)
  return {k: v for k, v in facts.items() if k not in ('source_dir', 'seed')}


def make(
  study: str,
  base: str,
  seeds: int,
  overrides: list[str],
  out: pathlib.Path,
  shared: pathlib.Path,
) -> list[Job]:
  """The points of a study.

  Args:
    study: its file.
    base: the base experiment's file.
    seeds: how many: 0, 1, ...
    overrides: arguments of every run.
    out: folder of the runs.
    shared: folder of datasets and teachers.

  Returns:
    Points; those that another one needs come before it.

  Raises:
    UserError: the study, the base or an override will not do.
  """
  if seeds < 1:
    raise UserError(f'--seeds={seeds}: there must be at least one')
  get_study = _read(study)
  plan = Sweep(base, overrides, out, shared)
  for seed in range(seeds):
    found = get_study(plan.config(seed))
    if not isinstance(found, dict) or not found:
      raise UserError(f'{study}: get_study must give {{name: changes}}')
    for name, changes in found.items():
      plan.add(name, changes, seed)
  return plan.points()


def _read(study):
  path = pathlib.Path(study)
  if not path.is_file():
    raise UserError(f'--study={study}: there is no such file')
  spec = importlib.util.spec_from_file_location(f'study_{path.stem}', path)
  if spec is None:
    raise UserError(f'--study={study}: not a file of Python (.py)')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_study'):
    raise UserError(
      f'--study={study}: it has no get_study(config); studies are in'
      ' experiments/studies/'
    )
  return module.get_study


def _key(argument):
  return argument.split('=')[0].lstrip('-')


def _of(changes, names, but=()):
  """Changes of some parts of the config."""
  return {
    key: value
    for key, value in changes.items()
    if config_keys.matches(key, names) and not config_keys.matches(key, but)
  }


def _short(value):
  if not isinstance(value, tuple):
    return value
  first, more = value[:2], len(value) - 2
  return '+'.join(first) + (f' and {more} more' if more > 0 else '')
