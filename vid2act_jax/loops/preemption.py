"""Handles preemption by a scheduler (SIGTERM) or a user (Ctrl-C).

A preempted run saves a checkpoint and exits with `EXIT_STATUS`. Started again,
it resumes exactly. Several hosts have to stop at the same step: there JAX's
preemption service listens, which also knows of a TPU's maintenance.
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
  """Ends the current stage, which has been saved."""


class PreemptionHandler:
  """Listens for preemption signals; use it as a context manager."""

  def __init__(self):
    self._signal: signal.Signals | None = None
    self._old_handlers = {}
    self._calls = 0

  def __enter__(self):
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for signum in (signal.SIGTERM, signal.SIGINT):
        self._old_handlers[signum] = signal.signal(signum, self._on_signal)
    return self

  def __exit__(self, *unused):
    for signum, handler in self._old_handlers.items():
      signal.signal(signum, handler)
    self._old_handlers = {}

  def _on_signal(self, signum, unused_frame):
    if self._signal and signum == signal.SIGINT:
      raise KeyboardInterrupt
    self._signal = signal.Signals(signum)
    text = f'\n{self._signal.name}: saving, then stopping (Ctrl-C: at once)\n'
    # Not through the stream: the signal may have interrupted a write to it.
    # And Ctrl-C may have ended the reader.
    with contextlib.suppress(OSError, ValueError, AttributeError):
      os.write(sys.__stderr__.fileno(), text.encode())

  def check(self, all_hosts: bool = False) -> None:
    """Raises if the run was preempted; call it where everything can be saved.

    Args:
      all_hosts: whether all hosts make this call, equally often. Several hosts
        stop only at such calls.

    Raises:
      Preempted: the run was asked to stop.
    """
    if jax.process_count() == 1:
      if self._signal:
        raise Preempted(self._signal.name)
    elif all_hosts:
      # The service waits for a certain number, so none may be skipped.
      self._calls += 1
      if multihost_utils.reached_preemption_sync_point(self._calls):
        raise Preempted('preemption')
