"""Tests of other ways to make given vectors small."""

import dataclasses

import numpy as np
import pytest

from anchor_codes import compression, tables
from experiments.benchmarks import compress_scale, peers


def walks(size=200, features=12, seed=0):
  rng = np.random.default_rng(seed)
  return compress_scale.random_walks(rng, size, features)


# Other ways.


@pytest.mark.parametrize("family", peers.FAMILIES)
@pytest.mark.parametrize("budget", [1, 500, 2000, 20_000])
def test_what_is_proposed_fits_and_nothing_larger(family, budget):
  found = peers.propose(family, num_embeddings=200, features=12, budget=budget)
  assert all(peer.nbytes(200, 12) <= budget for peer in found)
  assert all(peer.family == family for peer in found)
  assert len(set(map(str, found))) == len(found)
  if budget == 1:
    assert not found
  for peer in found:
    if family in ("RQ", "LSQ") and peer.code_length < 64:
      longer = dataclasses.replace(peer, code_length=peer.code_length + 1)
      assert longer.nbytes(200, 12) > budget


def test_families_need_all_their_libraries(monkeypatch):
  found = dict.fromkeys(("faiss", "compress_fasttext"), "a place")
  monkeypatch.setattr(peers.importlib.util, "find_spec", found.get)
  missing = [name for name in peers.FAMILIES if not peers.is_installed(name)]
  assert missing == ["compress-fasttext"]


def test_codebooks_count():
  # Codes in whole bytes, and float16 for all that rows share.
  assert peers.Product(5, 6).nbytes(1000, 100) == 4 * 1000 + 2 * 64 * 100
  assert peers.Rotated(4, 8, 40).nbytes(1000, 100) == (
    4 * 1000 + 2 * (256 * 40 + 40 * 100 + 100)
  )
  assert peers.Residual(3, 4).nbytes(1000, 100) == (2 * 1000 + 2 * 3 * 16 * 100)
  assert peers.Components(7).nbytes(1000, 100) == (
    7 * 1000 + 2 * (7 * 100 + 7 + 100)
  )
  assert peers.Int4Rows().nbytes(1000, 101) == 53 * 1000
  assert peers.CompressFasttext(5, 255).nbytes(1000, 100) == (
    5 * 1000 + 2 * 255 * 100
  )


def test_codebooks_without_room_are_left_out():
  found = peers.propose("RQ", num_embeddings=1000, features=100, budget=40_000)
  assert [peer.num_bits for peer in found] == [4, 6]
  # Nor are there more entries than rows.
  found = peers.propose("PQ", num_embeddings=40, features=4, budget=10_000)
  assert [peer.num_bits for peer in found] == [4]


@pytest.mark.parametrize("peer", [peers.Int4Rows(), peers.Components(12)])
def test_rounded_numbers_are_near(peer):
  matrix = walks()
  matrix[3] = 0
  found = tables.DenseTable(peer.fit(matrix).vectors)
  assert compression.relative_error(found, matrix) < 0.01
  assert np.isfinite(peer.fit(np.zeros_like(matrix)).vectors).all()


@pytest.mark.parametrize(
  "peer",
  [
    peers.Product(6, 4),
    peers.Rotated(6, 4, 12),
    peers.Rotated(3, 6, 6),
    peers.Residual(4, 4),
    peers.LocalSearch(4, 4),
  ],
  ids=str,
)
def test_codes_of_faiss_stand_for_vectors(peer):
  matrix = walks() + 3  # A mean that must not be lost.
  fitted = peer.fit(matrix)
  assert fitted.vectors.shape == matrix.shape
  assert not fitted.note
  table = tables.DenseTable(fitted.vectors)
  assert compression.relative_error(table, matrix) < 0.2
  assert len(np.unique(fitted.vectors, axis=0)) > 20


def test_options_are_lowered_for_the_time_limit(monkeypatch):
  monkeypatch.setattr(peers, "_TIME_LIMIT", 0.0)
  notes = [
    peer.fit(walks()).note
    for peer in (
      peers.Rotated(3, 4, 12),
      peers.Residual(2, 4),
      peers.LocalSearch(2, 4),
    )
  ]
  assert notes == [
    "niter 20",
    "max_beam_size 1",
    "train_iters 5, train_ils_iters 4, encode_ils_iters 8",
  ]
