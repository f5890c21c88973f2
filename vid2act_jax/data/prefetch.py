"""Prefetches batches to the device."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

_END = object()


def prefetch(
  iterator_fn: Callable[[], Iterator[Any]],
  depth: int = 2,
  put: Callable[[Any], Any] = jax.device_put,
) -> Iterator[Any]:
  """Iterates in a separate thread, ahead of the consumer, in order.

  For data that does not change while it is sampled, as in pretraining. An
  exception of the iterator is raised in place of its batch. The thread ends
  with the iteration, or at `.close()` (`contextlib.closing`).

  Args:
    iterator_fn: returns the iterator of batches; called in the thread.
    depth: number of batches to prefetch, at least 1.
    put: transfers a batch to the devices; called in the thread.
  """
  if depth < 1:
    raise ValueError(f'depth must be at least 1, not {depth}.')
  return _drain(iterator_fn, depth, put)


def _drain(iterator_fn, depth, put):
  iterator = None

  def fetch():
    nonlocal iterator
    if iterator is None:
      iterator = iterator_fn()
    batch = next(iterator, _END)
    return batch if batch is _END else put(batch)

  # One worker, so that batches are sampled in order.
  with ThreadPoolExecutor(1, 'prefetch') as pool:
    pending = collections.deque(pool.submit(fetch) for _ in range(depth))
    try:
      while (batch := pending.popleft().result()) is not _END:
        pending.append(pool.submit(fetch))
        yield batch
    finally:
      for future in pending:
        future.cancel()
