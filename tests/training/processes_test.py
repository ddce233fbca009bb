"""The watch over the processes of a run, while they find one another."""

import socket
import threading

import jax
import pytest

from anchor_codes.training import processes


@pytest.fixture
def first_of_three(monkeypatch):
  """Makes this the first process of three; yields what it tells the others."""
  shared = []
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(jax, "process_index", lambda: 0)
  monkeypatch.setattr(processes, "_share", shared.append)
  monkeypatch.setattr(processes, "_SECONDS_TO_CONNECT", 1)
  return shared


def come(shared):
  """Connects another process, once the first one has said where."""
  while not shared:
    pass
  _, port, token = shared[0].split()
  peer = socket.create_connection(("localhost", int(port)), timeout=10)
  peer.sendall(token.encode())
  return peer


def test_who_has_come_is_not_ended_where_another_cannot_come(first_of_three):
  peers = []
  other = threading.Thread(target=lambda: peers.append(come(first_of_three)))
  other.start()
  with pytest.raises(TimeoutError):
    processes._connect()
  other.join()
  with peers[0] as peer:
    assert not processes._is_lost(peer)


def test_all_who_come_with_the_token_are_watched(first_of_three):
  peers = []

  def run():
    while not first_of_three:
      pass
    port = int(first_of_three[0].split()[1])
    with socket.create_connection(("localhost", port), timeout=10) as stranger:
      stranger.sendall(b"x" * 32)
      peers.extend(come(first_of_three) for _ in range(2))

  other = threading.Thread(target=run)
  other.start()
  watched = processes._connect()
  other.join()
  ends = sorted(peer.getsockname() for peer in peers)
  assert sorted(peer.getpeername() for peer in watched) == ends
  for peer in (*peers, *watched):
    peer.close()
