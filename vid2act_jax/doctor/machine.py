"""Checks of the machine itself: memory, allocator and disk."""

import glob
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator

from vid2act_jax.doctor.rows import Row, first_line

GB = 1e9  # As in config.replay.
# Peaks on a CPU, measured: the quickstart 2.1 GB, a full-size update 5.1 GB.
_MEMORY_LEAST, _MEMORY_FULL = 2.5 * GB, 6 * GB
# A run's checkpoints and videos; config.replay's bounds, of one source and of
# the target (3.1 + 6.2), and the rest.
_DISK_LEAST, _DISK_FULL = 1 * GB, 10 * GB
_WRITTEN = 16 * 2**20  # bytes
_SLOW = 20e6  # bytes a second; episodes come at 1 MB a second and less

_CGROUPS = pathlib.Path('/sys/fs/cgroup')
# What launch/local.sh sets.
_TUNABLES = (
  'glibc.malloc.hugetlb=1'
  ':glibc.malloc.mmap_threshold=100000000000'
  ':glibc.malloc.trim_threshold=100000000000'
)


def accelerator_files() -> dict[str, str]:
  """Device files of accelerators: {'nvidia' or 'tpu': path}."""
  patterns = {
    'nvidia': ['/dev/nvidia0'],
    # Of VFIO, numbers: /dev/vfio/vfio is there without any device.
    'tpu': ['/dev/accel*', '/dev/vfio/[0-9]*'],
  }
  found = {k: sum(map(glob.glob, v), []) for k, v in patterns.items()}
  return {k: sorted(v)[0] for k, v in found.items() if v}


def memory(_) -> Iterator[Row]:
  """Memory that there is, and that a program may have."""
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  available = min(total, _available())
  text = f'{total / GB:.1f} GB'
  limit, left = cgroup_memory()
  if limit < total:
    text += f', limited to {limit / GB:.1f} GB by a control group'
    available = min(available, left)
  text += f'; {available / GB:.1f} GB available'
  smaller = '--config=experiments/quickstart.py needs 2.1 GB'
  closing = 'close other programs, or raise the limit of the container or job'
  if available < _MEMORY_LEAST:
    yield Row('memory', 'problem', text, f'{closing}; {smaller}')
  elif available < _MEMORY_FULL:
    text += '; a full-size update on a CPU takes about 6 GB'
    smaller = 'smaller: --config.finetune.batch=16 --config.pretrain.batch=16'
    yield Row('memory', 'note', text, f'{closing}; or {smaller}')
  else:
    yield Row('memory', 'ok', text)


def _available():
  """Bytes that a new program may have; infinite where nobody tells."""
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  except FileNotFoundError:
    return float('inf')
  kilobytes = [x.split()[1] for x in lines if x.startswith('MemAvailable:')]
  return int(kilobytes[0]) * 1024 if kilobytes else float('inf')


def cgroup_memory() -> tuple[float, float]:
  """The tightest control group: (limit, what is left of it), bytes.

  Infinite where there is none. Files in the page cache are not counted: they
  leave when there is need.
  """
  tightest = float('inf'), float('inf')
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
  """(folder, name of the limit, key of what is used), of both versions."""
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


def allocator(_) -> Iterator[Row]:
  """The memory allocator's settings, which count on a CPU alone."""
  if files := accelerator_files():
    text = f'its settings count on a CPU alone, and there is {min(files)}'
    yield Row('allocator', 'ok', text)
  elif platform.libc_ver()[0] != 'glibc':
    yield Row('allocator', 'ok', 'not glibc: nothing to set')
  elif 'glibc.malloc.hugetlb=1' in os.environ.get('GLIBC_TUNABLES', ''):
    yield Row('allocator', 'ok', 'large pages')
  else:
    yield Row(
      'allocator',
      'note',
      'GLIBC_TUNABLES does not ask for large pages: updates on a CPU were'
      ' 15% faster with them; launch/local.sh sets it',
      f'export GLIBC_TUNABLES={_TUNABLES}',
    )


def disk(folder: str) -> Iterator[Row]:
  """Space for runs, whether it can be written to, and how fast."""
  path = pathlib.Path(folder).absolute()
  if not path.is_dir():
    kind = 'is not a folder' if path.exists() else 'does not exist'
    remedy = f'mkdir -p {path}, or name another one: --folder DIR'
    yield Row('disk', 'problem', f'{path} {kind}', remedy)
    return
  free = shutil.disk_usage(path).free
  text = f'{free / GB:.1f} GB free in {path}'
  another = 'free some space, or keep runs elsewhere: --workdir=DIR'
  if free < _DISK_LEAST:
    yield Row('disk', 'problem', text, another)
  elif free < _DISK_FULL:
    text += '; a full-size run holds up to 3.1 GB a source and 10 GB more'
    bounds = '--config.replay.source_gb=1 --config.replay.online_gb=2'
    yield Row('disk', 'note', text, f'{another}; or lower bounds: {bounds}')
  else:
    yield Row('disk', 'ok', text)
  try:
    speed = _write_speed(path)
  except OSError as error:
    text = f'{path} cannot be written to: {first_line(error)}'
    remedy = f'chown or chmod {path}, or keep runs elsewhere: --workdir=DIR'
    yield Row('disk/write', 'problem', text, remedy)
    return
  text = f'{speed / 1e6:.0f} MB/s'
  if speed < _SLOW:
    text += ', which is slow for the frames that are sampled'
    remedy = 'hold them on a local disk: --config.replay.scratch=DIR'
    yield Row('disk/write', 'note', text, remedy)
  else:
    yield Row('disk/write', 'ok', text)


def _write_speed(path):
  """Bytes a second, of a file that is never left behind."""
  block = os.urandom(_WRITTEN)  # Nothing that a file system could compress.
  with tempfile.TemporaryFile(dir=path) as file:
    start = time.perf_counter()
    file.write(block)
    file.flush()
    os.fsync(file.fileno())
    return _WRITTEN / (time.perf_counter() - start)
