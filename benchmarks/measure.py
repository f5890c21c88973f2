"""Shared by the benchmarks: timing, machine metadata, and reporting."""

import json
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata

import jax


def seconds(fn: Callable[[], object], repeats: int) -> float:
  """Median wall time of a call until its arrays are ready, after a warm-up."""
  jax.block_until_ready(fn())
  return interleaved_seconds([fn], repeats)[0]


def interleaved_seconds(
  fns: Sequence[Callable[[], object]], repeats: int
) -> list[float]:
  """As `seconds`, of functions that take turns, without a warm-up.

  Other load on the machine then changes their ratios less.
  """
  times: list[list[float]] = [[] for _ in fns]
  for _ in range(repeats):
    for fn, own in zip(fns, times, strict=True):
      started = time.perf_counter()
      jax.block_until_ready(fn())
      own.append(time.perf_counter() - started)
  return [statistics.median(own) for own in times]


def matmul_flops(dtype: str = 'float32', size: int = 2048) -> float:
  """Floating-point operations per second of a square matrix product."""
  size *= 1 if jax.default_backend() == 'cpu' else 4
  # Random: a GPU multiplies constants faster.
  x = jax.random.normal(jax.random.key(0), (size, size), dtype)
  product = jax.jit(lambda x: x @ x)
  return 2 * size**3 / seconds(lambda: product(x), 5)


def peak_memory() -> int:
  """Peak memory in bytes, of this process on CPU, else of the first device."""
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return device.memory_stats()['peak_bytes_in_use']


def machine() -> dict[str, str]:
  """Metadata of the machine and package versions."""
  model = 'unknown'
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    names = [x for x in info.read_text().splitlines() if 'model name' in x]
    model = names[0].partition(':')[2].strip() if names else model
  return {
    'cpu': f'{os.cpu_count()} cores {platform.machine()}, {model}',
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    **{name: metadata.version(name) for name in ('jax', 'flax', 'numpy')},
  }


def report(figures: dict) -> None:
  """Prints one line of JSON, then a table."""
  print(json.dumps(figures), flush=True)
  for key, value in figures.items():
    is_number = isinstance(value, int | float)
    print(f'  {key:32} {f"{value:,.4g}" if is_number else value}', flush=True)
