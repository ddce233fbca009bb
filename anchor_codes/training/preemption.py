"""Stops a run between two chunks when its machine is taken away."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop, as shells count it."""


class PreemptedError(SystemExit):
  """A run stops because it was asked to; its state is saved.

  As the end of a program it gives the status :data:`EXIT_PREEMPTED`, without a
  traceback.

  Args:
    message: What to tell the user.

  >>> PreemptedError("saved step 3").code
  143
  """

  def __init__(self, message: str):
    super().__init__(EXIT_PREEMPTED)
    self.message = message

  def __str__(self) -> str:
    return self.message


class Preemption:
  """Takes note of SIGTERM, by which schedulers announce the end.

  A callback of :func:`~anchor_codes.training.run_chunks` asks
  :meth:`requested` after each chunk, saves, and calls :meth:`stop`. A second
  signal ends the process as it would have without this. Outside of the main
  thread of Python, where signals cannot be caught, nothing is ever noted.

  >>> with Preemption() as preemption:
  ...   signal.raise_signal(signal.SIGTERM)
  ...   print(preemption.requested())
  True
  """

  def __init__(self) -> None:
    self._noted = False
    self._before: Any = None

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is threading.main_thread():
      # None stands for a handler that Python does not know, and cannot set.
      known = signal.getsignal(signal.SIGTERM)
      self._before = signal.SIG_DFL if known is None else known
      signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    self._restore()

  def requested(self) -> bool:
    """Tells whether the run is to stop; all processes come to the same answer.

    They must all ask, after the same chunk: a signal may reach one of them a
    chunk earlier than another, and a checkpoint needs all.
    """
    if jax.process_count() == 1:
      return self._noted
    noted = multihost_utils.process_allgather(np.asarray(self._noted))
    return bool(np.any(noted))

  def stop(self, message: str) -> None:
    """Ends the run.

    Args:
      message: What was saved, and how to go on; printed to standard error.

    Raises:
      PreemptedError: Always.
    """
    print(message, file=sys.stderr, flush=True)
    raise PreemptedError(message)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._noted = True
    self._restore()

  def _restore(self) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None
