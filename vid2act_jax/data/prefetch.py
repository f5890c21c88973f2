"""Keeps the next batches on their way to the device."""

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
  """Iterates in a thread of its own, ahead of the consumer, in order.

  For data that does not change while it is drawn, as in pretraining. What the
  iterator raises is raised here, in the place of its batch. The thread ends
  with the iteration, or by `.close()` (`contextlib.closing`) before it.

  Args:
    iterator_fn: makes the iterator of batches; called in the thread.
    depth: batches kept ready, at least 1.
    put: brings a batch to the devices; in the thread, too.
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

  # One worker: batches are drawn one after another, in their order.
  with ThreadPoolExecutor(1, 'prefetch') as pool:
    pending = collections.deque(pool.submit(fetch) for _ in range(depth))
    try:
      while (batch := pending.popleft().result()) is not _END:
        pending.append(pool.submit(fetch))
        yield batch
    finally:
      for future in pending:
        future.cancel()
