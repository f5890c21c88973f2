"""Checks of the machine itself: memory, allocator and disk."""

import glob
import math
import os
import pathlib
import platform
import shutil
import tempfile
import time

from vid2act_jax.doctor.results import first_line, note, ok, problem

GB = 1e9  # As in config.replay.
# Peaks on a CPU, measured: the quickstart 2.1 GB, a full-size update 5.1 GB.
_MIN_MEMORY, _FULL_MEMORY = 2.5 * GB, 6 * GB
# A run's checkpoints and videos; config.replay's bounds, of one source and of
# the target (3.1 + 6.2), and the rest.
_MIN_DISK, _FULL_DISK = 1 * GB, 10 * GB
_WRITTEN = 16 * 2**20  # bytes
_SLOW = 20e6  # bytes a second; episodes come at 1 MB a second and less
_CGROUPS = pathlib.Path('/sys/fs/cgroup')
# The same as in launch/local.sh.
_TUNABLES = (
  'glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=100000000000'
  ':glibc.malloc.trim_threshold=100000000000'
)


def accelerator_files() -> dict[str, str]:
  """Returns device files of accelerators: {'nvidia' or 'tpu': path}."""
  # Of VFIO, numbers: /dev/vfio/vfio exists without any device.
  tpu = sorted(glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*'))
  found = {'nvidia': glob.glob('/dev/nvidia0'), 'tpu': tpu}
  return {kind: paths[0] for kind, paths in found.items() if paths}


def memory(_):
  """Memory of the machine, and how much a program may have."""
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  limit, left = cgroup_memory()
  available = min(total, _available(), left)
  text = f'{total / GB:.1f} GB'
  if limit < total:
    text += f', limited to {limit / GB:.1f} GB by a control group'
  text += f'; {available / GB:.1f} GB available'
  fix = 'close other programs, or raise the limit of the container or job'
  if available < _MIN_MEMORY:
    fix += '; --config=experiments/quickstart.py needs 2.1 GB'
    yield problem('memory', text, fix)
  elif available < _FULL_MEMORY:
    text += '; a full-size update on a CPU takes about 6 GB'
    fix += '; or --config.finetune.batch=16 --config.pretrain.batch=16'
    yield note('memory', text, fix)
  else:
    yield ok('memory', text)


def _available():
  """Bytes that a new program may have; infinite if unknown."""
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  except FileNotFoundError:
    return math.inf
  kilobytes = [x.split()[1] for x in lines if x.startswith('MemAvailable:')]
  return int(kilobytes[0]) * 1024 if kilobytes else math.inf


def cgroup_memory() -> tuple[float, float]:
  """Returns (limit, what is left of it) of the tightest control group, bytes.

  Infinite without one. Files in the page cache are not counted: they are
  dropped when memory is needed.
  """
  tightest = math.inf, math.inf
  for folder, limit, key in _cgroup_folders():
    try:
      limit = int((folder / limit).read_text())  # 'max' is no number.
      stat = (folder / 'memory.stat').read_text().split()
    except (OSError, ValueError):
      continue
    used = int(dict(zip(stat[::2], stat[1::2], strict=True)).get(key, 0))
    tightest = min(tightest, (float(limit), float(limit - used)))
  return tightest


def _cgroup_folders():
  """Yields (folder, file of the limit, key of the usage), of both versions."""
  try:
    lines = pathlib.Path('/proc/self/cgroup').read_text().splitlines()
  except FileNotFoundError:
    return
  for line in lines:
    _, controllers, path = line.split(':', 2)
    if not controllers:
      root, names = _CGROUPS, ('memory.max', 'anon')
    elif 'memory' in controllers.split(','):
      root = _CGROUPS / 'memory'
      names = ('memory.limit_in_bytes', 'total_rss')
    else:
      continue
    # A limit holds for all below it; a container sees its own as the root.
    inner = pathlib.PurePosixPath(path.lstrip('/'))
    for part in (inner, *inner.parents):
      yield root / part, *names


def allocator(_):
  """The memory allocator's settings, which matter only on a CPU."""
  if files := accelerator_files():
    text = f'its settings matter only on a CPU; found {min(files.values())}'
    yield ok('allocator', text)
  elif platform.libc_ver()[0] != 'glibc':
    yield ok('allocator', 'not glibc: nothing to set')
  elif 'glibc.malloc.hugetlb=1' in os.environ.get('GLIBC_TUNABLES', ''):
    yield ok('allocator', 'large pages')
  else:
    text = 'GLIBC_TUNABLES does not ask for large pages: updates on a CPU were'
    text += ' 15% faster with them; launch/local.sh sets it'
    yield note('allocator', text, f'export GLIBC_TUNABLES={_TUNABLES}')


def disk(folder: str):
  """Space for runs, whether it can be written to, and how fast."""
  path = pathlib.Path(folder).absolute()
  if not path.is_dir():
    text = f'{path} does not exist, or is not a folder'
    fix = f'mkdir -p {path}, or name another one: --folder DIR'
    yield problem('disk', text, fix)
    return
  free = shutil.disk_usage(path).free
  text, elsewhere = f'{free / GB:.1f} GB free in {path}', '--workdir=DIR'
  fix = f'free some space, or keep runs elsewhere: {elsewhere}'
  if free < _MIN_DISK:
    yield problem('disk', text, fix)
  elif free < _FULL_DISK:
    text += '; a full-size run holds up to 3.1 GB a source and 10 GB more'
    fix += '; or --config.replay.source_gb=1 --config.replay.online_gb=2'
    yield note('disk', text, fix)
  else:
    yield ok('disk', text)
  try:
    speed = _write_speed(path)
  except OSError as error:
    text = f'{path} cannot be written to: {first_line(error)}'
    fix = f'chown or chmod {path}, or keep runs elsewhere: {elsewhere}'
    yield problem('disk/write', text, fix)
    return
  text = f'{speed / 1e6:.0f} MB/s'
  if speed >= _SLOW:
    yield ok('disk/write', text)
    return
  text += ', which is slow for the frames that are sampled'
  fix = 'keep them on a local disk: --config.replay.scratch=DIR'
  yield note('disk/write', text, fix)


def _write_speed(path):
  """Bytes a second, of a file that is never left behind."""
  block = os.urandom(_WRITTEN)  # Nothing that a file system could compress.
  with tempfile.TemporaryFile(dir=path) as file:
    start = time.perf_counter()
    file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return _WRITTEN / (time.perf_counter() - start)
