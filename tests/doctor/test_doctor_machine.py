"""The doctor's checks of packages, memory, allocator and disk."""

import pathlib
import subprocess
import tempfile
from importlib import metadata

import pytest

from vid2act_jax.doctor import checks, machine, packages

ROOT = pathlib.Path(__file__).parents[2]


def run(check, folder='.'):
  """Results of a check by their names."""
  return {row.name: row for row in check(folder)}


def versions(monkeypatch, **changed):
  """Other versions of packages; None: not installed."""
  real = metadata.version

  def version(name):
    found = changed[name] if name in changed else real(name)
    if found is None:
      raise metadata.PackageNotFoundError(name)
    return found

  monkeypatch.setattr(packages.metadata, 'version', version)


def test_packages_in_range():
  found = run(packages.packages)
  assert {x.status for x in found.values()} == {'ok'}
  assert f'jax {metadata.version("jax")}' in found['packages'].text


def test_packages_out_of_range_or_missing(monkeypatch):
  versions(monkeypatch, jax='0.9.1', rich=None, mujoco='4.0.0', h5py='3.0')
  found = run(packages.packages)
  assert 'packages' not in found
  assert found['jax'].status == found['rich'].status == 'problem'
  assert found['jax'].text.startswith('0.9.1')
  assert found['jax'].fix == "pip install 'jax<0.13,>=0.10'"
  assert 'not installed' in found['rich'].text
  assert found['mujoco'].status == 'problem'
  assert found['mujoco'].fix == "pip install -e '.[dmc]'"
  assert found['h5py'].status == 'note'


def test_pins_count_only_with_their_suite(monkeypatch):
  versions(monkeypatch, mujoco='4.0.0', dm_control=None, metaworld=None)
  assert 'mujoco' not in run(packages.packages)


def test_an_older_python(monkeypatch):
  monkeypatch.setattr(packages.platform, 'python_version', lambda: '3.9.2')
  row = run(packages.packages)['python']
  assert row.status == 'problem' and 'setup.sh' in row.fix


def test_plugins_fit_jaxlib(monkeypatch):
  versions(monkeypatch, jaxlib='0.10.2', **{'jax-cuda12-plugin': '0.10.1'})
  row = run(packages.packages)['jax-cuda12-plugin']
  assert row.fix == "pip install 'jax-cuda12-plugin==0.10.2'"


def test_where_the_ranges_come_from(monkeypatch, tmp_path):
  python, lines = packages.declared()
  assert python == '>=3.11'
  assert 'numpy>=2.0' in lines and 'mujoco==3.3.0; extra == "dmc"' in lines
  assert run(packages.packages)['packages'].status == 'ok'
  # Without a checkout: what was installed.
  monkeypatch.setattr(packages, '_ROOT', tmp_path)
  python, lines = packages.declared()
  assert python == '>=3.11'
  assert 'numpy>=2.0' in lines and 'mujoco==3.3.0; extra == "dmc"' in lines
  assert run(packages.packages)['packages'].status == 'ok'


def test_a_project_that_is_not_installed(monkeypatch, tmp_path):
  versions(monkeypatch, vid2act_jax=None)
  found = list(packages.packages('.'))
  assert {r.status for r in found if r.name == 'python'} == {'ok'}
  assert found[0].status == 'note' and 'not installed' in found[0].text

  def missing(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(packages.metadata, 'metadata', missing)
  monkeypatch.setattr(packages, '_ROOT', tmp_path)
  [row] = checks.find('packages', '.')
  assert row.status == 'problem' and 'vid2act_jax' in row.text
  assert "pip install -e '.[dmc]'" in row.fix


def test_markers_for_another_python_are_left_out(monkeypatch, tmp_path):
  (tmp_path / 'setup.cfg').write_text(
    '[metadata]\nname = vid2act_jax\n'
    '[options]\npython_requires = >=3.11\ninstall_requires =\n'
    '  numpy>=99; python_version < "3"\n  rich>=99\n'
    '[options.extras_require]\ndev =\n  pytest>=99; python_version > "3"\n'
  )
  monkeypatch.setattr(packages, '_ROOT', tmp_path)
  found = run(packages.packages)
  assert found['rich'].status == 'problem' and 'numpy' not in found
  assert found['pytest'].status == 'note'


@pytest.mark.parametrize(
  'available,status', [(2e9, 'problem'), (4e9, 'note'), (9e9, 'ok')]
)
def test_memory(monkeypatch, available, status):
  monkeypatch.setattr(machine.os, 'sysconf', lambda name: 100_000)  # 10 GB
  number = lambda path, key, default: available / 1024
  monkeypatch.setattr(machine, '_number', number)
  no_limit = (float('inf'), float('inf'))
  monkeypatch.setattr(machine, 'cgroup_memory', lambda: no_limit)
  row = run(machine.memory)['memory']
  assert row.status == status and '10.0 GB; ' in row.text
  monkeypatch.setattr(machine, 'cgroup_memory', lambda: (4e9, 1e9))
  row = run(machine.memory)['memory']
  assert row.status == 'problem'
  assert 'limited to 4.0 GB' in row.text and '1.0 GB available' in row.text


def test_available_memory_is_read_in_bytes(monkeypatch):
  monkeypatch.setattr(machine.os, 'sysconf', lambda name: 100_000)  # 10 GB
  no_limit = (float('inf'), float('inf'))
  monkeypatch.setattr(machine, 'cgroup_memory', lambda: no_limit)
  text = 'MemTotal: 9 kB\nMemAvailable:    3000000 kB\n'
  monkeypatch.setattr(machine, '_read', lambda path: text)
  assert '; 3.1 GB available' in run(machine.memory)['memory'].text
  monkeypatch.setattr(machine, '_read', lambda path: '')  # Unknown.
  assert '; 10.0 GB available' in run(machine.memory)['memory'].text


def test_control_groups_of_both_versions(monkeypatch, tmp_path):
  v2, v1 = tmp_path / 'job', tmp_path / 'memory' / 'box'
  for folder, name, limit, used in (
    (v2 / 'step', 'memory.max', 'max', 'anon 5'),
    (v2, 'memory.max', '1000', 'file 9\nanon 300\nanon_thp 7'),
    (v1, 'memory.limit_in_bytes', '800', 'rss 1\ntotal_rss 500'),
    (tmp_path / 'memory' / 'other', 'memory.limit_in_bytes', '1', ''),
  ):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(limit)
    (folder / 'memory.stat').write_text(used)
  listed = tmp_path / 'cgroup'
  monkeypatch.setattr(machine, '_CGROUPS', tmp_path)
  monkeypatch.setattr(machine, '_CGROUP_FILE', listed)
  assert machine.cgroup_memory() == (float('inf'), float('inf'))
  listed.write_text('5:cpu:/other\n0::/job/step/nowhere\n')
  assert machine.cgroup_memory() == (1000, 700)
  listed.write_text('0::/job/step\n4:hugetlb,memory:/box/inner\n')
  assert machine.cgroup_memory() == (800, 300)


def test_the_allocators_settings_are_the_launchers(monkeypatch):
  script = (ROOT / 'launch' / 'local.sh').read_text()
  block = script[script.index('  threshold=') : script.index('  export GLIBC')]
  output = subprocess.run(
    ['bash', '-c', block + 'echo $GLIBC_TUNABLES'],
    capture_output=True,
    text=True,
  )
  monkeypatch.setattr(machine, 'accelerator_files', dict)
  monkeypatch.setattr(machine.platform, 'libc_ver', lambda: ('glibc', '2.36'))
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  row = run(machine.allocator)['allocator']
  assert row.fix == f'export GLIBC_TUNABLES={output.stdout.strip()}'
  monkeypatch.setenv('GLIBC_TUNABLES', output.stdout.strip())
  assert run(machine.allocator)['allocator'].status == 'ok'
  monkeypatch.delenv('GLIBC_TUNABLES')
  monkeypatch.setattr(machine, 'accelerator_files', lambda: {'tpu': '/dev/a'})
  assert run(machine.allocator)['allocator'].status == 'ok'


@pytest.mark.parametrize(
  'free,status', [(5e8, 'problem'), (5e9, 'note'), (5e10, 'ok')]
)
def test_space_on_disk(monkeypatch, tmp_path, free, status):
  usage = lambda path: machine.shutil._ntuple_diskusage(1e12, 0, free)
  monkeypatch.setattr(machine.shutil, 'disk_usage', usage)
  row = run(machine.disk, tmp_path)['disk']
  assert row.status == status and f'{free / 1e9:.1f} GB' in row.text
  assert status == 'ok' or '--workdir' in row.fix


def test_folders_that_cannot_be_written_to(monkeypatch, tmp_path):
  row = run(machine.disk, str(tmp_path / 'none'))['disk']
  assert row.status == 'problem' and row.fix.startswith('mkdir -p')

  def refuse(dir):
    raise PermissionError(13, 'Permission denied', str(dir))

  monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  found = run(machine.disk, str(tmp_path))
  assert found['disk/write'].status == 'problem'
  assert 'Permission denied' in found['disk/write'].text


def test_a_slow_disk(monkeypatch, tmp_path):
  monkeypatch.setattr(machine, '_write_speed', lambda path: 3e6)
  row = run(machine.disk, str(tmp_path))['disk/write']
  assert row.status == 'note' and 'replay.scratch' in row.fix
