"""Checks of the machine itself: memory, allocator and disk."""

import glob
import math
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time

from vid2act_jax.data import storage
from vid2act_jax.doctor.results import describe, grade, note, ok, problem

GB = 1e9  # As in config.replay.
_CGROUP_FILE = pathlib.Path('/proc/self/cgroup')
_CGROUPS = pathlib.Path('/sys/fs/cgroup')
_WRITTEN = 16 * 2**20  # bytes
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


def devices(_):
  """The devices that JAX computes on."""
  import jax

  device, backend = jax.local_devices()[0], jax.default_backend()
  text = f'{backend}: {jax.device_count()} x {device.device_kind}'
  if limit := (device.memory_stats() or {}).get('bytes_limit'):
    text += f', JAX may take {limit / GB:.1f} GB of each'
  if jax.process_count() > 1:
    text += f', in {jax.process_count()} processes'
  yield ok('devices', text)
  for kind, path in accelerator_files().items() if backend == 'cpu' else ():
    fix = "pip install -e '.[tpu]'"
    if kind == 'nvidia':
      fix = "pip install -e '.[cuda]'; if it is installed: nvidia-smi"
    if platforms := os.environ.get('JAX_PLATFORMS'):
      fix = f'unset JAX_PLATFORMS (it is {platforms})'
    yield note(f'devices/{kind}', f'{path} exists, but JAX uses the CPU', fix)


def memory(_):
  """Memory of the machine, and how much a program may have."""
  total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  limit, left = cgroup_memory()
  free = _number('/proc/meminfo', 'MemAvailable:', math.inf) * 1024
  available = min(total, free, left)
  text = f'{total / GB:.1f} GB'
  if limit < total:
    text += f', limited to {limit / GB:.1f} GB by a control group'
  text += f'; {available / GB:.1f} GB available'
  # Peaks on a CPU, measured: the quickstart 2.1 GB, a full-size update 5.1 GB.
  need = 'on a CPU --config=experiments/quickstart.py takes 2.1 GB, a full-size'
  need += ' update about 6 GB'
  fix = 'close other programs, or raise the limit of the container or job; or'
  fix += ' --config.finetune.batch=16 --config.pretrain.batch=16'
  yield grade('memory', text, available, 2.5 * GB, 6 * GB, need, fix)


def cgroup_memory() -> tuple[float, float]:
  """Returns (limit, what is left of it) of the tightest control group, bytes.

  Infinite without one. Files in the page cache are not counted: they are
  dropped when memory is needed.
  """
  tightest = math.inf, math.inf
  for line in _read(_CGROUP_FILE).splitlines():
    _, controllers, path = line.split(':', 2)
    root, file, usage = _CGROUPS, 'memory.max', 'anon'
    if 'memory' in controllers.split(','):  # Version 1.
      root, file, usage = root / 'memory', 'memory.limit_in_bytes', 'total_rss'
    elif controllers:
      continue
    # A limit holds for all below it; a container sees its own as the root.
    group = pathlib.PurePosixPath(path.lstrip('/'))
    for folder in (root / x for x in (group, *group.parents)):
      limit = _number(folder / file, '', math.inf)  # 'max' is no number.
      used = _number(folder / 'memory.stat', usage, 0)
      tightest = min(tightest, (limit, limit - used))
  return tightest


def _number(path, key, default):
  """The number after the key that starts a line of a file."""
  found = re.search(rf'^{key}\s*(\d+)', _read(path), re.MULTILINE)
  return float(found[1]) if found else default


def _read(path):
  try:
    return pathlib.Path(path).read_text(errors='replace')
  except OSError:
    return ''


def allocator(_):
  """The memory allocator's settings, which matter only on a CPU."""
  if accelerator_files() or platform.libc_ver()[0] != 'glibc':
    yield ok('allocator', 'its settings matter only on a CPU and with glibc')
  elif 'glibc.malloc.hugetlb=1' in os.environ.get('GLIBC_TUNABLES', ''):
    yield ok('allocator', 'large pages')
  else:
    text = 'no large pages, which make updates on a CPU 15% faster'
    yield note('allocator', text, f'export GLIBC_TUNABLES={_TUNABLES}')


def disk(folder: str):
  """Space for runs, how fast it is written, and what its file system lacks."""
  path = pathlib.Path(folder).absolute()
  if not path.is_dir():
    fix = f'mkdir -p {path}, or name another one: --folder DIR'
    yield problem('disk', f'{path} does not exist, or is not a folder', fix)
    return
  free = shutil.disk_usage(path).free
  text = f'{free / GB:.1f} GB free in {path}'
  # Checkpoints, videos, and config.replay's bounds of a source and the target.
  need = 'a full-size run holds up to 3.1 GB a source and 10 GB more'
  fix = 'free some space, or keep runs elsewhere: --workdir=DIR;'
  fix += ' or --config.replay.source_gb=1 --config.replay.online_gb=2'
  yield grade('disk', text, free, 1 * GB, 10 * GB, need, fix)
  try:
    speed = _write_speed(path)
  except OSError as error:
    text = f'{path} cannot be written to: {describe(error)}'
    fix = f'chown or chmod {path}, or keep runs elsewhere: --workdir=DIR'
    yield problem('disk/write', text, fix)
    return
  # Episodes are written at 1 MB a second and less.
  text, need = f'{speed / 1e6:.0f} MB/s', 'slow for the frames that are sampled'
  fix = 'keep them on a local disk: --config.replay.scratch=DIR'
  yield grade('disk/write', text, speed, 0, 20e6, need, fix)
  yield from _file_system(path)


def _file_system(path):
  """What the file system of a folder lacks."""
  elsewhere = 'keep runs on another file system: --workdir=DIR'
  missing = storage.missing(path)
  for name, report, fails, fix in (
    (
      'locks',
      note,
      'runs go on without: two processes may write to one folder',
      f'start each run once, or mount Lustre with -o flock, or {elsewhere}',
    ),
    (
      'fsync',
      note,
      'runs go on without: the newest files may be lost in a power cut',
      elsewhere,
    ),
    (
      'links',
      note,
      'copies take their place when the number of processes changes',
      elsewhere,
    ),
    (
      'mmap',
      problem,
      'the buffers of the replay need memory maps',
      'keep them on a local disk: --config.replay.scratch=DIR',
    ),
  ):
    if name in missing:
      text = f'fails: {missing[name].strerror}; {fails}'
      yield report(f'disk/{name}', text, fix)
    else:
      yield ok(f'disk/{name}', 'works')


def _write_speed(path):
  """Bytes a second, of a file that is never left behind."""
  block = os.urandom(_WRITTEN)  # Nothing that a file system could compress.
  with tempfile.TemporaryFile(dir=path) as file:
    start = time.perf_counter()
    file.write(block)
    file.flush()
    storage.sync(file, path)
    return _WRITTEN / (time.perf_counter() - start)
