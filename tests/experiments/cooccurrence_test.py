"""Tests of word vectors from counts, and of files of codes."""

import doctest

import numpy as np
import pytest
from scipy import sparse

from experiments import codes_files, cooccurrence

TOKENS = np.random.default_rng(0).integers(0, 9, 400)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("block", [7, 10_000])
def test_counts_are_those_of_the_loop(window, block, monkeypatch):
  monkeypatch.setattr(cooccurrence, "_BLOCK", block)
  counts = cooccurrence.cooccurrence_counts(
    TOKENS[:60], num_embeddings=9, window=window
  )
  expected = np.zeros((9, 9))
  for i, word in enumerate(TOKENS[:60]):
    for j, context in enumerate(TOKENS[:60]):
      distance = abs(i - j)
      if 0 < distance <= window:
        expected[word, context] += (window - distance + 1) / window
  assert counts.dtype == np.float32
  np.testing.assert_allclose(counts.toarray(), expected, rtol=1e-5)


def test_counts_of_next_to_nothing():
  for tokens in (np.array([], np.int32), np.array([3])):
    counts = cooccurrence.cooccurrence_counts(tokens, num_embeddings=5)
    assert counts.nnz == 0
  assert cooccurrence.positive_information(counts).nnz == 0


@pytest.mark.parametrize("smoothing", [0.75, 1.0])
def test_information_follows_its_definition(smoothing):
  counts = cooccurrence.cooccurrence_counts(TOKENS, num_embeddings=11)
  information = cooccurrence.positive_information(counts, smoothing=smoothing)
  dense = np.float64(counts.toarray())
  contexts = dense.sum(axis=0) ** smoothing
  expected = np.zeros_like(dense)
  for w, c in np.argwhere(dense):
    joint = dense[w, c] / dense.sum()
    word = dense[w].sum() / dense.sum()
    ratio = joint / (word * contexts[c] / contexts.sum())
    expected[w, c] = max(np.log(ratio), 0)
  np.testing.assert_allclose(
    information.toarray(), expected, rtol=1e-4, atol=1e-6
  )
  assert (information.data > 0).all()  # Zeros are not stored.


def test_the_svd_is_the_best_approximation():
  matrix = np.random.default_rng(1).normal(size=(12, 9))
  vectors = cooccurrence.truncated_svd(
    sparse.csr_array(matrix), rank=4, power=1.0
  )
  left, values, _ = np.linalg.svd(matrix)
  expected = left[:, :4] * values[:4]
  np.testing.assert_allclose(np.abs(vectors), np.abs(expected), rtol=1e-4)
  largest = np.abs(vectors).argmax(axis=0)
  assert (vectors[largest, np.arange(4)] > 0).all()


def test_the_seed_of_the_iteration_does_not_matter():
  counts = cooccurrence.cooccurrence_counts(TOKENS, num_embeddings=9)
  first, second = (
    cooccurrence.truncated_svd(counts, rank=3, seed=seed) for seed in (0, 5)
  )
  np.testing.assert_allclose(first, second, atol=1e-4)


def test_words_of_equal_neighbours_get_equal_vectors():
  # Words 1 and 2 take turns between 0 and 3, word 4 stands with itself.
  text = [0, 1, 3, 0, 2, 3] * 30 + [4, 5] * 40
  vectors = cooccurrence.cooccurrence_vectors(
    np.array(text), num_embeddings=7, rank=3, window=1
  )
  assert vectors.shape == (7, 3)
  assert vectors.dtype == np.float32
  unit = vectors[[1, 2, 4]] / np.linalg.norm(
    vectors[[1, 2, 4]], axis=1, keepdims=True
  )
  assert unit[0] @ unit[1] > 0.95
  assert abs(unit[0] @ unit[2]) < 0.2
  # A word that does not occur says nothing.
  np.testing.assert_allclose(vectors[6], 0, atol=1e-6)


@pytest.mark.parametrize(
  ("tokens", "options", "error", "text"),
  [
    ([0.5], {}, ValueError, "ids must be integers, got float64"),
    ([[1]], {}, ValueError, r"`tokens` must have 1 axis, got shape \(1, 1\)"),
    ([9], {}, IndexError, "id 9 at position"),
    ([1], {"window": 0}, ValueError, "`window` must be at least 1, got 0"),
    ([1], {"rank": 9}, ValueError, "`rank` must be less than 9, .* got 9"),
    ([1], {"rank": 0}, ValueError, "`rank` must be at least 1, got 0"),
    ([1], {"smoothing": 2.0}, ValueError, "`smoothing` must be between 0 and"),
  ],
)
def test_bad_arguments(tokens, options, error, text):
  with pytest.raises(error, match=text):
    cooccurrence.cooccurrence_vectors(
      np.array(tokens), num_embeddings=9, **{"rank": 2, **options}
    )


def test_codes_come_back_from_both_kinds_of_files(tmp_path):
  codes = np.random.default_rng(0).integers(0, 32, (10, 4))
  codes[0, 0] = 31
  np.save(tmp_path / "a.npy", codes)
  np.savez(tmp_path / "a.npz", codes=codes, other=np.ones(2))
  for name in ("a.npy", "a.npz"):
    read = codes_files.read_codes(tmp_path / name, num_embeddings=10)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, codes)
  wide = codes_files.read_codes(tmp_path / "a.npy", codebook_size=300)
  assert wide.dtype == np.uint16


@pytest.mark.parametrize(
  ("array", "options", "text"),
  [
    (np.ones((2, 3)), {}, r"bad.npy` must be integers, got float64"),
    (np.ones(3, int), {}, r"2 axes, none of them empty, got shape \(3,\)"),
    (np.ones((0, 3), int), {}, r"got shape \(0, 3\) in .*bad.npy"),
    (-np.ones((2, 3), int), {}, r"must lie in \[0, 2\), got -1 at"),
    (np.full((2, 1), 4), {"codebook_size": 4}, r"lie in \[0, 4\), got 4"),
    (np.ones((2, 3), int), {"num_embeddings": 5}, r"must have shape \(5, 3\)"),
  ],
)
def test_files_of_something_else(array, options, text, tmp_path):
  np.save(tmp_path / "bad.npy", array)
  with pytest.raises(ValueError, match=text):
    codes_files.read_codes(tmp_path / "bad.npy", **options)


def test_other_files(tmp_path):
  np.savez(tmp_path / "a.npz", digits=np.ones(2))
  with pytest.raises(ValueError, match=r"`codes` must .* got \['digits'\]"):
    codes_files.read_codes(tmp_path / "a.npz")
  with pytest.raises(ValueError, match=r"in a \.npy or \.npz file, got .*txt"):
    codes_files.read_codes(tmp_path / "a.txt")


def test_examples():
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  for module in (cooccurrence, codes_files):
    assert doctest.testmod(module, optionflags=flags).failed == 0
