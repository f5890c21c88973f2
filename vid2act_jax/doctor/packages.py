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
  from packaging.requirements import Requirement
  from packaging.specifiers import SpecifierSet

  required, lines = declared()
  if not _version(_PROJECT):
    text = f'{_PROJECT} is not installed: it works only in its own folder'
    yield note('packages', text, f"pip install -e '{_ROOT}[dmc]'")
  version = platform.python_version()
  if SpecifierSet(required).contains(version, prereleases=True):
    yield ok('python', f'{version} (required: {required})')
  else:
    fix = 'PYTHON=FILE VENV=.venv-new bash launch/setup.sh, with a newer Python'
    yield problem('python', f'{version}, but the code is for {required}', fix)
  if jaxlib := _version('jaxlib'):
    lines += [f'{x}=={jaxlib}' for x in ('jaxlib', *_PLUGINS) if _version(x)]
  wanted = sorted(map(Requirement, lines), key=_extra)
  bad = {}  # By package: the first of several extras reports it.
  for requirement in wanted:
    if result := _judge(requirement):
      bad.setdefault(requirement.name, result)
  yield from bad.values()
  if not any(x.status == 'problem' for x in bad.values()):
    names = sorted({x.name for x in wanted if _extra(x) != 'dev'})
    found = (f'{name} {x}' for name in names if (x := _version(name)))
    yield ok('packages', f'in range: {", ".join(found)}')


def declared() -> tuple[str, list[str]]:
  """Returns the range of Python, and requirements with extras as markers.

  Raises:
    PackageNotFoundError: the project is neither installed nor a checkout.
  """
  config = configparser.ConfigParser()
  # In a checkout, the file: what is installed may be of an older commit.
  config.read(_ROOT / 'setup.cfg')
  if config.get('metadata', 'name', fallback='') != _PROJECT:
    required = metadata.metadata(_PROJECT)['Requires-Python']
    return required, metadata.requires(_PROJECT)
  lines = config['options']['install_requires'].split('\n')
  for extra, text in config['options.extras_require'].items():
    for line in filter(None, text.split('\n')):
      joint = ' and' if ';' in line else ';'
      lines.append(f'{line}{joint} extra == "{extra}"')
  return config['options']['python_requires'], list(filter(None, lines))


def _extra(requirement):
  """Returns the extra that a requirement belongs to, '' for none."""
  _, _, extra = str(requirement.marker or '').partition('extra == ')
  return extra.strip('"\'')


def _version(name):
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def _judge(requirement):
  """Returns the result for a missing or unfit package, or None."""
  name, required = requirement.name, requirement.specifier
  version, extra = _version(name), _extra(requirement)
  if requirement.marker and not requirement.marker.evaluate({'extra': extra}):
    return None  # For another Python or system.
  if extra and not (version and _version(_PINNED_FOR.get(extra, name))):
    return None  # Optional: other checks report what is missing without it.
  if version and required.contains(version, prereleases=True):
    return None
  text = f'{version} is installed; required: {required}'
  if not version:
    text = f'not installed; required: {name}{required}'
  if not extra:
    return problem(name, text, f"pip install '{name}{required}'")
  report = problem if extra in _PINNED_FOR else note
  return report(name, text, f"pip install -e '.[{extra}]'")
