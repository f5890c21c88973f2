"""Checks of Python and of the packages: are they those the code is for?"""

import configparser
import pathlib
import platform
from collections.abc import Iterator
from importlib import metadata

from vid2act_jax.doctor.rows import Row

_PROJECT = 'vid2act_jax'
_ROOT = pathlib.Path(__file__).parents[2]
# What an extra is for: without it, its pins are nobody's concern.
_PINNED_FOR = {'dmc': 'dm_control', 'metaworld': 'metaworld'}
# JAX's parts for accelerators fit the jaxlib of the same version.
_PLUGINS = tuple(
  f'jax-cuda{n}-{part}' for n in (12, 13) for part in ('plugin', 'pjrt')
)


def packages(_) -> Iterator[Row]:
  """Versions of Python and the packages against the ranges of setup.cfg."""
  from packaging import requirements, specifiers

  python, lines, is_installed = declared()
  if not is_installed:
    text = f'{_PROJECT} is not installed: it works in its own folder alone'
    remedy = f"pip install -e '{_ROOT}[dmc]'"
    yield Row('packages', 'note', text, remedy)
  version = platform.python_version()
  if specifiers.SpecifierSet(python).contains(version, prereleases=True):
    yield Row('python', 'ok', f'{version} (asked for: {python})')
  else:
    yield Row(
      'python',
      'problem',
      f'{version}, but the code is for {python}',
      'PYTHON=FILE VENV=.venv-new bash launch/setup.sh, with a newer Python',
    )
  wanted = [requirements.Requirement(line) for line in lines]
  base = [r for r in wanted if not _extra(r)]
  bad = [row for r in base if (row := _judge(r, '', 'problem'))]
  for extra in sorted({_extra(r) for r in wanted} - {''}):
    bad += _judge_extra(extra, [r for r in wanted if _extra(r) == extra])
  bad += _judge_plugins()
  # One package of several extras: told once, as what comes first has it.
  yield from {(row.name, row.text): row for row in reversed(bad)}.values()
  if not any(row.status == 'problem' for row in bad):
    yield Row('packages', 'ok', _versions(wanted))


def declared() -> tuple[str, list[str], bool]:
  """What setup.cfg asks for.

  Returns:
    The range of Python; requirements, each with its extra as a marker; and
    whether the project is installed.

  Raises:
    FileNotFoundError: it is neither installed nor a checkout.
  """
  try:
    about = metadata.metadata(_PROJECT)
  except metadata.PackageNotFoundError:
    about = None  # It runs from its folder.
  config = configparser.ConfigParser()
  # Of a checkout, the file: what was installed may be of an older commit.
  config.read(_ROOT / 'setup.cfg')
  if config.get('metadata', 'name', fallback='') != _PROJECT:
    if about is None:
      raise FileNotFoundError(f'{_PROJECT} is not installed, and no setup.cfg')
    return about['Requires-Python'], metadata.requires(_PROJECT), True
  options = config['options']
  lines = options['install_requires'].splitlines()
  for extra, text in config['options.extras_require'].items():
    for line in filter(None, text.splitlines()):
      joint = ' and' if ';' in line else ';'
      lines.append(f'{line}{joint} extra == "{extra}"')
  return options['python_requires'], [*filter(None, lines)], about is not None


def _extra(requirement):
  """The extra a requirement belongs to, '' for none."""
  _, _, extra = str(requirement.marker or '').partition('extra == ')
  return extra.strip('"\'')


def _judge(requirement, extra, status):
  """The row of a package that is missing or out of range, or None."""
  name, marker = requirement.name, requirement.marker
  if marker and not marker.evaluate({'extra': extra}):
    return None  # For another Python or system.
  spec = f'{name}{requirement.specifier}'
  remedy = f"pip install -e '.[{extra}]'" if extra else f"pip install '{spec}'"
  try:
    version = metadata.version(name)
  except metadata.PackageNotFoundError:
    if extra:  # Optional; what its absence means, other checks tell.
      return None
    return Row(name, status, f'not installed; asked for: {spec}', remedy)
  if requirement.specifier.contains(version, prereleases=True):
    return None
  text = f'{version} is installed; asked for: {requirement.specifier}'
  return Row(name, status, text, remedy)


def _judge_extra(extra, wanted):
  status, purpose = 'note', _PINNED_FOR.get(extra)
  if purpose:
    try:
      metadata.version(purpose)
    except metadata.PackageNotFoundError:
      return []
    status = 'problem'  # Other mixes fail when an environment is made.
  return [row for r in wanted if (row := _judge(r, extra, status))]


def _judge_plugins():
  for name in _PLUGINS:
    try:
      plugin, jaxlib = metadata.version(name), metadata.version('jaxlib')
    except metadata.PackageNotFoundError:
      continue
    if plugin != jaxlib:
      text = f'{plugin} is installed, but jaxlib is {jaxlib}'
      yield Row(name, 'problem', text, f"pip install '{name}=={jaxlib}'")


def _versions(wanted):
  names = [r.name for r in wanted if _extra(r) != 'dev'] + ['jaxlib']
  found = {}
  for name in names:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue  # Of an extra.
  return 'in range: ' + ', '.join(f'{k} {found[k]}' for k in sorted(found))
