r"""Runs of several processes: how to start them, and what if one is lost.

Every process runs the same program, and calls ``jax.distributed.initialize()``
before anything else of JAX. Who the others are it learns from its launcher:

* by hand, on host ``i`` of 2, as ``jax.distributed.initialize(address, 2, i)``
  with the address that all of them are given::

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=$i \
        python train.py

  where ``train.py`` hands these three on;
* by SLURM, whose variables JAX reads itself::

    srun --nodes=2 --ntasks-per-node=1 --signal=TERM@60 python train.py

* by Kubernetes, as an indexed job of a JobSet, which JAX recognises, too (it
  needs ``pip install kubernetes``, and a service account that may list pods)::

    kubectl apply -f jobset.yaml   # Containers run: python train.py

  with ``completions: 2``, ``completionMode: Indexed``, and
  ``failurePolicy: {maxRestarts: 10}`` in ``jobset.yaml``.

Checkpoints go into a folder that all processes see. When one process ends,
:class:`PeerWatch` ends the others; the launcher starts all of them again, and
they go on from the newest checkpoint, which costs at most the chunks since.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from anchor_codes.training.preemption import PreemptedError

EXIT_LOST_PEER = 75
"""Exit status after a lost peer: that of a failure after which a new try may
succeed, ``EX_TEMPFAIL`` of ``sysexits.h``."""

_GOODBYE = b"."
_ADDRESS_BYTES = 256
_SECONDS_TO_CONNECT = 60
_SECONDS_TO_END = 1
_MESSAGE = (
  "This process stops, because another process of the run has ended: see what "
  "that one says. Start all of them again with the same command and --resume; "
  "they go on from the newest checkpoint."
)


class PeerWatch:
  """Ends this process when another one of the run is lost.

  Without it the others wait in their next sum over all devices: for the 100 s
  until JAX counts a process as dead at best, for ever at worst. Each process
  holds a connection to the first one, which the operating system closes
  however a process ends: kill, crash, or an error in Python. The first process
  then ends as well, and with it all others, with :data:`EXIT_LOST_PEER` and a
  message that says what to do.

  Leaving the context without an error, or by :class:`PreemptedError`, to which
  all come, is no loss to the others. With a single
  process nothing is watched. Where the hosts cannot reach one another but
  through JAX, the watch is left out, with a message.

  >>> with PeerWatch():
  ...   print("training")
  training
  """

  def __init__(self) -> None:
    self._peers: list[socket.socket] = []
    self._thread: threading.Thread | None = None
    self._left = threading.Event()

  def __enter__(self) -> "PeerWatch":
    if jax.process_count() > 1:
      try:
        self._peers = _connect()
      except OSError as error:
        print(f"lost processes go unnoticed: {error}", file=sys.stderr)
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    if isinstance(error, jax.errors.JaxRuntimeError) and self._thread:
      # Most likely what the loss of a process looks like from here: the watch
      # has the better message.
      self._thread.join(timeout=5)
    for peer in self._peers:
      with contextlib.suppress(OSError):  # It may have gone first.
        if error is None or isinstance(error, PreemptedError):
          peer.sendall(_GOODBYE)
        peer.shutdown(socket.SHUT_WR)
    self._left.set()

  def _watch(self) -> None:
    with selectors.DefaultSelector() as selector:
      for peer in self._peers:
        selector.register(peer, selectors.EVENT_READ)
      while selector.get_map():
        for key, _ in selector.select():
          if _is_lost(key.fileobj):
            self._end()
          selector.unregister(key.fileobj)
    self._left.wait()
    for peer in self._peers:
      peer.close()

  def _end(self) -> None:
    """Ends this process at once: its main thread may wait for a dead one."""
    print(_MESSAGE, file=sys.stderr, flush=True)
    if jax.process_index() == 0:
      # The end of the first process ends the others without these words.
      for peer in self._peers:
        with contextlib.suppress(OSError):
          peer.shutdown(socket.SHUT_RDWR)
      time.sleep(_SECONDS_TO_END)
    os._exit(EXIT_LOST_PEER)


def _connect() -> list[socket.socket]:
  """Connects all processes with the first one."""
  if jax.process_index():
    host, port, token = _share("").split()
    address = host, int(port)
    peer = socket.create_connection(address, timeout=_SECONDS_TO_CONNECT)
    peer.sendall(token.encode())
    peer.settimeout(None)
    return [peer]
  # Whoever else comes to the port does not know the token.
  token, peers = secrets.token_hex(16), []
  with socket.create_server(("", 0), backlog=jax.process_count()) as server:
    server.settimeout(_SECONDS_TO_CONNECT)
    _share(f"{socket.gethostname()} {server.getsockname()[1]} {token}")
    try:
      while len(peers) < jax.process_count() - 1:
        peer = server.accept()[0]
        peer.settimeout(_SECONDS_TO_CONNECT)
        if peer.recv(len(token), socket.MSG_WAITALL) == token.encode():
          # Notices a host that is gone without a word, if only after a while.
          peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
          peer.settimeout(None)
          peers.append(peer)
        else:
          peer.close()
    except OSError:
      # Without a word, those who have come would end with the connection.
      for peer in peers:
        with peer, contextlib.suppress(OSError):
          peer.sendall(_GOODBYE)
      raise
  return peers


def _share(text: str) -> str:
  """Returns the text of the first process in all of them."""
  data = np.zeros(_ADDRESS_BYTES, np.uint8)
  encoded = np.frombuffer(text.encode(), np.uint8)
  data[: len(encoded)] = encoded
  shared = np.asarray(multihost_utils.broadcast_one_to_all(data))
  return shared.tobytes().rstrip(b"\0").decode()


def _is_lost(peer: Any) -> bool:
  try:
    return peer.recv(1) != _GOODBYE
  except OSError:
    return True
