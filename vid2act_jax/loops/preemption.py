"""Being asked to stop: by a scheduler (SIGTERM) or a user (Ctrl-C).

A run that is asked to stop saves where it is and ends with `STATUS`; started
again, it goes on as if nothing had been. Several hosts have to agree where to
stop: there JAX's preemption service listens, which hears of a TPU's maintenance
as well.
"""

import contextlib
import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: "try again later".


class Preempted(Exception):
  """Ends the stage that is under way, which has been saved."""


class PreemptionHandler:
  """Listens for the wish to stop; use it as a context manager."""

  def __init__(self):
    self._signal: signal.Signals | None = None
    self._before = {}
    self._calls = 0

  def __enter__(self):
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._hear)
    return self

  def __exit__(self, *unused):
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}

  def _hear(self, number, unused_frame):
    if self._signal and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._signal = signal.Signals(number)
    text = f'\n{self._signal.name}: saving, then stopping (Ctrl-C: at once)\n'
    # Past the streams, which the signal may have come in the middle of; and
    # Ctrl-C may have ended whoever reads them.
    with contextlib.suppress(OSError, ValueError, AttributeError):
      os.write(sys.__stderr__.fileno(), text.encode())

  def check(self, together: bool = False) -> None:
    """To be called where everything can be saved.

    Args:
      together: whether all hosts come here, equally often. Only there can
        several stop.

    Raises:
      Preempted: the run was asked to stop.
    """
    if jax.process_count() == 1:
      if self._signal:
        raise Preempted(self._signal.name)
    elif together:
      # The service waits for one number, so none may be left out.
      self._calls += 1
      if multihost_utils.reached_preemption_sync_point(self._calls):
        raise Preempted('preemption')
