"""Checks whether the versions of Python and packages are in range."""

import configparser
import pathlib
import platform
from importlib import metadata

from vid2act_jax.doctor.results import note, ok, problem

_PROJECT = 'vid2act_jax'
_ROOT = pathlib.Path(__file__).parents[2]
# The package that an extra pins others for: without it, the pins do not matter.
# Other mixes fail when an environment is made.
_PINNED_FOR = {'dmc': 'dm_control', 'metaworld': 'metaworld'}
# JAX's plugins need the jaxlib of the same version.
_PLUGINS = [f'jax-cuda{n}-{x}' for n in (12, 13) for x in ('plugin', 'pjrt')]


def packages(_):
  """Versions of Python and the packages against the ranges of setup.cfg."""
  from packaging import requirements, specifiers

  required, lines, is_installed = declared()
  if not is_installed:
    text = f'{_PROJECT} is not installed: it works only in its own folder'
    yield note('packages', text, f"pip install -e '{_ROOT}[dmc]'")
  version = platform.python_version()
  if specifiers.SpecifierSet(required).contains(version, prereleases=True):
    yield ok('python', f'{version} (required: {required})')
  else:
    fix = 'PYTHON=FILE VENV=.venv-new bash launch/setup.sh, with a newer Python'
    yield problem('python', f'{version}, but the code is for {required}', fix)
  wanted = [requirements.Requirement(line) for line in lines]
  bad = [x for r in sorted(wanted, key=_extra) if (x := _judge(r, _extra(r)))]
  bad += _judge_plugins()
  # A package of several extras is reported once, as by the first of them.
  yield from {(x.name, x.text): x for x in reversed(bad)}.values()
  if not any(x.status == 'problem' for x in bad):
    names = {r.name for r in wanted if _extra(r) != 'dev'} | {'jaxlib'}
    found = {name: _version(name) for name in sorted(names)}
    text = ', '.join(f'{name} {x}' for name, x in found.items() if x)
    yield ok('packages', f'in range: {text}')


def declared() -> tuple[str, list[str], bool]:
  """Reads what setup.cfg requires.

  Returns:
    The range of Python; requirements, each with its extra as a marker; and
    whether the project is installed.

  Raises:
    FileNotFoundError: it is neither installed nor a checkout.
  """
  try:
    installed = metadata.metadata(_PROJECT)
  except metadata.PackageNotFoundError:
    installed = None  # It runs from its folder.
  config = configparser.ConfigParser()
  # In a checkout, the file: what is installed may be of an older commit.
  config.read(_ROOT / 'setup.cfg')
  if config.get('metadata', 'name', fallback='') != _PROJECT:
    if installed is None:
      raise FileNotFoundError(f'{_PROJECT} is not installed, and no setup.cfg')
    return installed['Requires-Python'], metadata.requires(_PROJECT), True
  options = config['options']
  lines = options['install_requires'].splitlines()
  for extra, text in config['options.extras_require'].items():
    for line in filter(None, text.splitlines()):
      joint = ' and' if ';' in line else ';'
      lines.append(f'{line}{joint} extra == "{extra}"')
  lines = list(filter(None, lines))
  return options['python_requires'], lines, installed is not None


def _extra(requirement):
  """Returns the extra that a requirement belongs to, '' for none."""
  _, _, extra = str(requirement.marker or '').partition('extra == ')
  return extra.strip('"\'')


def _version(name):
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def _judge(requirement, extra):
  """Returns the result for a missing or unfit package, or None."""
  name, version = requirement.name, _version(requirement.name)
  marker, required = requirement.marker, requirement.specifier
  pinned_for = _PINNED_FOR.get(extra)
  if marker and not marker.evaluate({'extra': extra}):
    return None  # For another Python or system.
  if extra and not version or pinned_for and not _version(pinned_for):
    return None  # Optional: other checks report what is missing without it.
  if version and required.contains(version, prereleases=True):
    return None
  text = f'{version} is installed; required: {required}'
  if not version:
    text = f'not installed; required: {name}{required}'
  if extra:
    report = problem if pinned_for else note
    return report(name, text, f"pip install -e '.[{extra}]'")
  return problem(name, text, f"pip install '{name}{required}'")


def _judge_plugins():
  jaxlib = _version('jaxlib')
  for name in _PLUGINS:
    plugin = _version(name)
    if plugin and jaxlib and plugin != jaxlib:
      text = f'{plugin} is installed, but jaxlib is {jaxlib}'
      yield problem(name, text, f"pip install '{name}=={jaxlib}'")
